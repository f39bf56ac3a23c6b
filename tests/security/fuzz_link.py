"""Malformed frames over an embedded tailnet to a real daemon, before and after the handshake.

The daemon must close each link by itself and go on: same process, no traceback, another peer's
task still runs, and its memory is what it was.
"""

import contextlib
import random
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from cmesh.daemon.arguments import TrustArguments
from cmesh.errors import LinkError
from cmesh.model import TaskState
from cmesh.node.node import Node
from cmesh.node.testnet import Testnet
from tests.fakes.link_peer import LinkPeer
from tests.security.fuzz_frames import Found, Seeds
from tests.system.daemon.conftest import OUTBOUND, command, inbound
from tests.system.daemon.machine import Machine, here, worker_user
from tests.system.daemon.test_bad_peers import options, resident, standing

__all__ = ["fuzz_link"]

SURE = "}{"
"""Sent behind each frame: what was taken after all is followed by something that is not."""


async def fuzz_link(count: int, seed: int) -> Found:
    """Send `count` damaged frames, a link each; every other one before the link is open."""
    chance, found, seeds, before = random.Random(seed), Found(), Seeds(), 0
    async with _ground() as (worker, caller, place, peer):
        address, pid = (await worker.status()).addresses[0], worker.pid
        for number in range(count):
            frame = seeds.damaged(chance)
            if isinstance(frame, str):  # a text frame is UTF-8; what is none is the library's
                frame = frame.encode("utf-8", "replace").decode()
            found.inputs += 1
            why = await _send(peer, address, frame, opened=number % 2 == 0)
            found.malformed += 1
            if "1008" not in why and "1009" not in why and "protocol" not in why:
                found.crashes.append(f"the link ended so: {why}: {frame[:200]!r}")
            # A fresh daemon takes some 30 MiB with its first 600 links, and no more after them.
            if number == count // 2:
                before = resident(worker)
        found.growth_kib = (resident(worker) - before) // 1024
        assert worker.pid == pid
        view = await caller.delegate("worker", "command:true", place, new=True, wait_s=20)
        if view.state is not TaskState.SUCCEEDED:
            found.crashes.append(f"a good peer's task is `{view.state}`")
        if "Traceback" in worker.log_text():
            found.crashes.append(worker.log_text().partition("Traceback")[2][:600])
    return found


async def _send(peer: LinkPeer, address: str, frame: str | bytes, *, opened: bool) -> str:
    """Return how the link ended."""
    if not opened:
        wire = await peer.connect(address)
        try:
            await wire.send(frame)
            await wire.send(SURE)
            while True:
                if "remote_protocol_error" in (heard := str(await wire.receive(20))):
                    return heard
        except LinkError as error:
            return error.message
        finally:
            await wire.close()
    channel = await peer.dial(address)
    try:
        with contextlib.suppress(LinkError):
            await channel.raw(frame)
            await channel.raw(SURE)
        return await channel.ended()
    finally:
        await channel.wire.close()


@asynccontextmanager
async def _ground() -> AsyncGenerator[tuple[Machine, Machine, Path, LinkPeer]]:
    """Give a worker, a good caller of it, its directory, and a peer that its owner trusts."""
    base = Path(tempfile.mkdtemp(prefix="cmesh-"))
    base.chmod(0o755)
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        testnet = await stack.enter_async_context(Testnet())
        worker = Machine("worker", base, testnet, worker_user())
        caller = Machine("caller", base, testnet, here())
        place = worker.base / "app"
        text = command("true", "/bin/true") + inbound(place, ["command:true"])
        for machine, lines in ((worker, text), (caller, OUTBOUND)):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
            await machine.up()
        worker.directory("app")
        await caller.delegate("worker", "command:true", place)
        await worker.trust(caller)
        state = base / "peer"
        node = await stack.enter_async_context(Node(await options(testnet, state, "peer")))
        await node.up()
        peer = LinkPeer(node, (await node.status()).node_id)
        with contextlib.suppress(LinkError):
            await peer.dial((await worker.status()).addresses[0])
        assert await standing(worker, peer) == "waiting"
        await worker.call("trust_peer", TrustArguments(peer="peer"))
        yield worker, caller, place, peer
