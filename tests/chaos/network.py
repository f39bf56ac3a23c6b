"""Cuts the cable between two machines: loss, one-way loss, a slow line, a line that flaps.

Run as root in a network namespace of its own, `unshare --net python -m tests.chaos.network`:
each machine then gets one below it, with a cable to the test tailnet. Nothing outside these
namespaces is touched. The last line is one JSON object.
"""

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from cmesh.node.testnet import Testnet
from tests.chaos.world import World, orders, world
from tests.system.daemon.machine import eventually, here, worker_user

FORWARD = Path(__file__).with_name("forward.py")
START_LIMIT_S = 20.0
LOOPBACK = "127.0.0.1"
LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
SLOW = "rate 96kbit burst 8kb latency 800ms"
NOTHING_PASSES = "rate 8bit burst 1 latency 1ms"  # no packet fits into the bucket
DOWN_LIMIT_S = 60.0
SLOW_LIMIT_S = 100.0
FLAPS = 8


@dataclass(frozen=True, slots=True)
class Cable:
    """From this namespace to a machine's.

    Attributes:
        name: the interface at this end.
        holder: a process that keeps the machine's namespace.
    """

    name: str
    holder: int

    @property
    def enter(self) -> tuple[str, ...]:
        """What runs a command in the machine's namespace."""
        return ("nsenter", f"--net=/proc/{self.holder}/ns/net")

    def up(self, *, yes: bool) -> None:
        """Plug it in, or pull it."""
        _run("ip", "link", "set", self.name, "up" if yes else "down")

    def shape(self, bucket: str) -> None:
        """Let what goes to the machine pass as `bucket` says; empty = freely."""
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("tc", "qdisc", "del", "dev", self.name, "root")
        if bucket:
            _run("tc", "qdisc", "add", "dev", self.name, "root", "tbf", *bucket.split())


@contextlib.asynccontextmanager
async def cables(*names: str) -> AsyncGenerator[list[Cable]]:
    """Make a namespace and a cable for each name, and a way to this loopback's ports."""
    _run("ip", "link", "set", "lo", "up")
    ports = _ports()
    async with contextlib.AsyncExitStack() as stack:
        made: list[Cable] = []
        for number, name in enumerate(names, 1):
            holder = await _process(stack, "unshare", "--net", "sh", "-c", "echo ready; exec cat")
            cable = Cable(name, holder)
            near, far = f"10.201.{number}.1", f"10.201.{number}.2"
            _run("ip", "link", "add", name, "type", "veth", "peer", "name", "wire", "netns", holder)
            _run("ip", "addr", "add", f"{near}/24", "dev", name)
            cable.up(yes=True)
            for line in (f"addr add {far}/24 dev wire", "link set wire up", "link set lo up"):
                _run(*cable.enter, "ip", *line.split())
            forward = (sys.executable, "-I", "-S", str(FORWARD))
            await _process(stack, *forward, near, LOOPBACK, *ports)
            await _process(stack, *cable.enter, *forward, LOOPBACK, near, *ports)
            made.append(cable)
        yield made


def entry(cable: Cable, *, worker: bool) -> tuple[str, ...]:
    """Return what starts a machine's daemon in its namespace, as its user."""
    user = worker_user() if worker else here()
    ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    return (*cable.enter, "setpriv", *ids)


async def pulled(made: World, cable: Cable, seconds: float) -> float:
    """Pull the cable for so long; return how long the machines took to find each other again."""
    cable.up(yes=False)
    await _links(made, 0)
    await asyncio.sleep(seconds)
    cable.up(yes=True)
    return await _healed(made)


async def deaf(made: World, cable: Cable, seconds: float) -> float:
    """Let nothing reach the machine, which still can send."""
    cable.shape(NOTHING_PASSES)
    await _links(made, 0)
    await asyncio.sleep(seconds)
    cable.shape("")
    return await _healed(made)


async def flapping(made: World, cable: Cable, seconds: float) -> float:
    """Pull it and plug it in at random."""
    chance = random.Random(seconds)
    for _ in range(FLAPS):
        cable.up(yes=False)
        await asyncio.sleep(chance.uniform(0.1, 3))
        cable.up(yes=True)
        await asyncio.sleep(chance.uniform(0.1, 3))
    # What was asked for may all have ended between two flaps, and then nobody wants a link.
    cable.up(yes=False)
    made.order(seconds=0)
    await made.asking[-1]
    cable.up(yes=True)
    return await _healed(made)


async def slow(made: World, cable: Cable, seconds: float) -> float:
    """Make the line slow until all is done."""
    del seconds
    began = time.monotonic()
    cable.shape(SLOW)
    await asyncio.gather(*made.asking)
    assert await made.settle(SLOW_LIMIT_S), "not settled over a slow line"
    cable.shape("")
    return time.monotonic() - began


Scene = Callable[[World, Cable, float], Awaitable[float]]
SCENES: dict[str, Scene] = {"pulled": pulled, "deaf": deaf, "flapping": flapping, "slow": slow}


async def main(scenes: list[str], seconds: float, seed: int) -> int:
    """Play the scenes, print the report; return the exit status."""
    report: dict[str, object] = {"seconds": seconds, "seed": seed}
    faults: list[str] = []
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="cmesh-chaos-") as place:
        Path(place).chmod(0o755)
        _run("ip", "link", "set", "lo", "up")
        async with Testnet() as testnet, cables("caller", "worker") as (one, other):
            entries = (entry(one, worker=False), entry(other, worker=True))
            async with world(Path(place) / "net", testnet, entries=entries) as made:
                for name in scenes:
                    report[f"{name}_s"] = round(await _scene(made, other, name, seconds, chance), 1)
                    verdict = await made.judged()
                    faults += [f"{name}: {fault}" for fault in verdict.faults]
                    report[f"{name}_states"] = dict(verdict.states)
    for fault in faults:
        print(f"FAULT {fault}", file=sys.stderr)
    print(json.dumps(report | {"faults": len(faults)}))
    return 1 if faults else 0


async def _scene(
    made: World, cable: Cable, name: str, seconds: float, chance: random.Random
) -> float:
    made.batch = name
    # Some are asked for before the line breaks, the others while it is broken.
    made.asking = [
        asyncio.create_task(made.ask(order)) for order in orders(name, chance, 12, min(seconds, 10))
    ]
    watching = asyncio.create_task(made.watch())
    try:
        took_s = await SCENES[name](made, cable, seconds)
        await asyncio.gather(*made.asking)
        assert await made.settle(), f"not settled after {name}"
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    return took_s


async def _links(made: World, wanted: int) -> None:
    async def has() -> bool | None:
        return (await made.caller.status()).links == wanted or None

    try:
        await eventually(has, DOWN_LIMIT_S)
    except TimeoutError:
        owed = await made.caller.sql("SELECT task_id, state, receipt FROM tasks ORDER BY task_id")
        raise AssertionError(
            f"not {wanted} links after {DOWN_LIMIT_S:g} s; {owed}\n{made.caller.log_text()[-4_000:]}"
        ) from None


async def _healed(made: World) -> float:
    # Nobody asks for anything now: what is owed must bring them together by itself.
    began = time.monotonic()
    await _links(made, 1)
    return time.monotonic() - began


def _ports() -> list[str]:
    """Return what the test tailnet listens on: it is alone in this namespace."""
    ports: list[str] = []
    for kind in ("tcp", "udp"):
        for line in Path(f"/proc/net/{kind}").read_text("ascii").splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if kind == "udp" or state == LISTENING:
                ports.append(f"{kind}:{int(local.partition(':')[2], 16)}")
    return ports


async def _process(stack: contextlib.AsyncExitStack, *command: str) -> int:
    """Start a command that says when it is ready; it ends with the stack."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)

    async def end() -> None:
        process.kill()
        await process.communicate()

    stack.push_async_callback(end)
    assert process.stdout is not None
    async with asyncio.timeout(START_LIMIT_S):
        assert (await process.stdout.readline()).strip() == b"ready", command
    return process.pid


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="tests.chaos.network", description=__doc__)
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help=", ".join(SCENES))
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the line is broken")
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    sys.exit(asyncio.run(main(wanted.scenes or list(SCENES), wanted.seconds, wanted.seed)))
