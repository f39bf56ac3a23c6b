"""A peer that breaks the protocol loses its link; the daemon and everybody else go on.

The peers are scripted ones over real nodes. A worker that does not keep its word about an
output loses the output, and the task still comes to an end.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cmesh.daemon.arguments import NoArguments, ResultArguments, TrustArguments
from cmesh.errors import LinkError, PeerOutdated, TaskRefused
from cmesh.keys import SigningKey
from cmesh.model import Limits, Profile, TaskId, TaskSpec, TaskState
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from cmesh.protocol.codec import Chunk, encode_chunk
from cmesh.protocol.convert import submit
from cmesh.protocol.messages import (
    Accepted,
    Artifact,
    Denied,
    ResultMessage,
    Subscribe,
)
from cmesh.protocol.outcome import Outcome
from tests.fakes.link_peer import Channel, LinkPeer, Script, serve_worker
from tests.system.daemon.conftest import OUTBOUND, command, inbound
from tests.system.daemon.machine import ME, Machine, eventually, here, worker_user

pytestmark = [pytest.mark.anyio, pytest.mark.system]

MEBI = 1024 * 1024
GROWTH_BYTES = 48 * MEBI
TASK = TaskId("01890a5d-ac96-774b-bcce-b302099a8057")
Pair = tuple[Machine, Machine]
MakePeer = Callable[..., Awaitable[LinkPeer]]


@pytest.fixture(scope="module")
async def pair(ground: Path, testnet: Testnet) -> AsyncIterator[Pair]:
    """Return a laptop and a builder with an open link; it must be open at the end as well."""
    place = ground / "builder" / "app"
    text = command("true", "/bin/true") + inbound(place, ["command:true"])
    laptop = Machine("laptop", ground, testnet, here())
    builder = Machine("builder", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, OUTBOUND), (builder, text)):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        builder.directory("app")
        await builder.up()
        await laptop.up()
        first = await laptop.delegate("builder", "command:true", place)
        await builder.trust(laptop)
        await laptop.ended(first.task_id)
        yield laptop, builder
        last = await laptop.delegate("builder", "command:true", place, new=True, wait_s=30)
        assert last.state is TaskState.SUCCEEDED
        for machine in (laptop, builder):
            assert "Traceback" not in machine.log_text()


@pytest.fixture
async def make_peer(testnet: Testnet, tmp_path: Path) -> AsyncIterator[MakePeer]:
    """Make scripted peers of the same owner."""
    async with AsyncExitStack() as stack:

        async def make(name: str, script: Script | None = None, *, listen: bool = True) -> LinkPeer:
            node = Node(await options(testnet, tmp_path / name, name))
            await stack.enter_async_context(node)
            await node.up()
            node_id = (await node.status()).node_id
            peer = LinkPeer(node, node_id, script)
            return await stack.enter_async_context(peer) if listen else peer

        yield make


@pytest.fixture(scope="module")
async def trusted(
    pair: Pair, testnet: Testnet, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LinkPeer]:
    """Return a scripted peer that the builder's owner has let in."""
    builder = pair[1]
    state = tmp_path_factory.mktemp("stranger") / "node"
    async with Node(await options(testnet, state, "stranger")) as node:
        await node.up()
        peer = LinkPeer(node, (await node.status()).node_id)
        with contextlib.suppress(LinkError):
            await peer.dial((await builder.status()).addresses[0])
        assert await standing(builder, peer) == "waiting"
        await builder.call("trust_peer", TrustArguments(peer="stranger"))
        yield peer


@pytest.fixture
async def stranger(pair: Pair, trusted: LinkPeer) -> AsyncIterator[tuple[LinkPeer, Channel]]:
    """Return the trusted peer and a new link of it; afterwards only that link may be gone."""
    laptop, builder = pair
    channel = await trusted.dial((await builder.status()).addresses[0])
    yield trusted, channel
    await channel.wire.close()

    async def alone() -> bool | None:
        return (await builder.status()).links == 1 or None

    await eventually(alone)
    assert (await laptop.status()).links == 1


async def standing(machine: Machine, peer: LinkPeer) -> str:
    """Return how a machine's owner stands to a scripted peer."""
    found = (await machine.call("list_peers", NoArguments()))["peers"]
    [row] = [row for row in found if row["node_id"] == peer.node_id]
    return row["trust"]


async def options(testnet: Testnet, state: Path, name: str) -> NodeOptions:
    return NodeOptions(
        state_dir=state,
        hostname=name,
        control_url=testnet.control_url,
        auth_key=await testnet.auth_key(ME),
        allow_testnet=True,
    )


def resident(machine: Machine) -> int:
    """Return the bytes of memory a daemon holds."""
    pages = Path(f"/proc/{machine.pid}/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def peers(machine: Machine) -> list[dict[str, str]]:
    return (await machine.call("list_peers", NoArguments()))["peers"]


BROKEN: dict[str, str | bytes] = {
    "not JSON": "}{ garbage",
    "no type": "[1, 2, 3]",
    "an unknown type": '{"type": "sudo", "argv": ["sh"]}',
    "a wrong field": '{"type": "submit", "task_id": "../../etc", "spec": 1, "payload_hash": ""}',
    "deep nesting": "[" * 200_000,
    "binary garbage": os.urandom(4096),
    "a short chunk": b"\x00",
    "a second hello": '{"type": "welcome"}',
    "a frame too large": "x" * (MEBI + 1),
    "NaN": '{"type": "pong", "nonce": NaN}',
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
async def test_garbage_ends_the_link_of_its_sender_alone(
    pair: Pair, stranger: tuple[LinkPeer, Channel], kind: str
) -> None:
    builder, (_peer, channel) = pair[1], stranger
    lines = builder.log_text().count("code=remote_protocol_error")
    with contextlib.suppress(LinkError):
        await channel.raw(BROKEN[kind])
    why = await channel.ended()
    assert "1008" in why or "1009" in why, why

    async def logged() -> bool | None:
        return builder.log_text().count("code=remote_protocol_error") > lines or None

    await eventually(logged)


async def test_a_key_that_is_not_proven_opens_nothing(pair: Pair, make_peer: MakePeer) -> None:
    builder = pair[1]
    peer = await make_peer("forger", listen=False)
    peer.sign = lambda _message: "A" * 86
    with pytest.raises(LinkError) as refused:
        await peer.dial((await builder.status()).addresses[0])
    assert "could not prove its cmesh key" in refused.value.message
    assert await standing(builder, peer) == "unknown"


async def test_frames_of_another_link_replayed_are_refused(
    pair: Pair, stranger: tuple[LinkPeer, Channel]
) -> None:
    builder, (peer, channel) = pair[1], stranger
    recorded = list(peer.sent)
    await channel.wire.close()
    wire = await peer.connect((await builder.status()).addresses[0])
    await wire.receive(20)  # a new challenge, which the recorded `hello` does not sign
    await wire.send(recorded[0])
    answer = str(await wire.receive(20))
    assert "remote_protocol_error" in answer
    assert "could not prove its cmesh key" in answer


async def test_a_submit_sent_twice_is_one_task_and_a_changed_one_a_conflict(
    pair: Pair, stranger: tuple[LinkPeer, Channel]
) -> None:
    builder, (_peer, channel) = pair[1], stranger
    spec = TaskSpec(
        task_id=TASK,
        runner="command:true",
        profile=Profile.FULL,
        directory=str(builder.base / "app"),
        prompt="once",
        limits=Limits(runtime_s=30),
        not_after=datetime.now(UTC) + timedelta(minutes=10),
    )
    for _ in range(3):
        await channel.send(submit(spec))
        assert isinstance(await channel.receive(), Accepted)
    await channel.send(submit(replace(spec, prompt="twice")))
    denied = await channel.receive()
    assert isinstance(denied, Denied)
    assert denied.code == "task_conflict"
    await channel.send(Subscribe(task_id=TASK, after_seq=0))
    while not isinstance(message := await channel.receive(), ResultMessage):
        pass
    assert message.outcome.state is TaskState.SUCCEEDED
    count = "SELECT count(*) FROM events WHERE kind = 'running' AND task_id = "
    assert await builder.sql(f"{count}'{TASK}'") == [[1]]


def outcome(output: bytes, **more: object) -> Outcome:
    """Return an end with an output that must be fetched."""
    fields: dict[str, object] = {
        "state": "succeeded",
        "witness": "shim recorded exit 0",
        "exit_code": 0,
        "text": "all well",
        "output_bytes": len(output),
        "output_kept": len(output),
        "output_sha256": hashlib.sha256(output).hexdigest(),
        **more,
    }
    return Outcome.model_validate(fields)


async def announced_only(_channel: Channel, _wanted: Artifact) -> None:
    raise AssertionError("the caller asked for an output above its limit")


async def too_much(channel: Channel, wanted: Artifact) -> None:
    """Send twice what was announced, and go on for as long as anybody listens."""
    for number in range(512):
        data = bytes(MEBI // 2)
        frame = encode_chunk(
            TaskId(wanted.task_id), wanted.sha256, number * len(data), data, final=False
        )
        await channel.raw(frame)


async def another(channel: Channel, wanted: Artifact) -> None:
    """Send other bytes of the announced length."""
    await channel.raw(
        encode_chunk(TaskId(wanted.task_id), wanted.sha256, 0, bytes(1000), final=True)
    )


LIES = {
    "two gibibytes": (
        outcome(b"x", output_bytes=2**31, output_kept=2**31),
        announced_only,
        "2147483648 bytes",
    ),
    "more than announced": (outcome(b"y" * MEBI), too_much, "more than"),
    "other bytes": (outcome(b"z" * 1000), another, "hash is wrong"),
    "a wrong inline": (outcome(b"z" * 9, output_inline="AAAA"), announced_only, "hash is wrong"),
}


@pytest.mark.parametrize("kind", sorted(LIES))
async def test_an_output_that_is_not_as_announced_is_not_taken_and_the_task_ends(
    pair: Pair, make_peer: MakePeer, kind: str
) -> None:
    laptop, lie = pair[0], LIES[kind]

    async def worker(peer: LinkPeer, channel: Channel) -> None:
        await serve_worker(peer, channel, lie[0], lie[1])

    name = "liar-" + kind.replace(" ", "-")
    peer = await make_peer(name, worker)

    async def known() -> bool | None:
        return any(p["name"] == name and p["online"] for p in await peers(laptop)) or None

    await eventually(known)
    memory = resident(laptop)
    view = await laptop.delegate(name, "command:true", Path("/srv"))
    ended = await laptop.ended(view.task_id)
    assert (ended.state, ended.code) == (TaskState.SUCCEEDED, "remote_protocol_error")
    assert lie[2] in ended.reason
    arguments = ResultArguments(task_id=view.task_id, part="output")
    with pytest.raises(TaskRefused) as refused:
        await laptop.call("get_result", arguments)
    assert "was not taken" in refused.value.message
    done = await asyncio.to_thread(laptop.cli, "result", view.task_id, "--part", "output")
    assert done.returncode == TaskRefused.exit_status
    assert "hint: " in done.stderr
    async with laptop.mcp() as agent:
        shown = await agent.call("get_task", task_id=view.task_id)
        assert shown.get("code") == "remote_protocol_error"
        answer = await agent.call("get_result", task_id=view.task_id, part="output")
    assert answer.text.startswith("task_refused")
    assert not list((laptop.state / "store" / "blobs").glob("incoming-*"))
    assert resident(laptop) - memory < GROWTH_BYTES
    assert peer.links <= 3
    assert "Traceback" not in laptop.log_text()


async def test_an_older_worker_is_not_asked_for_what_it_does_not_know(
    pair: Pair, make_peer: MakePeer
) -> None:
    laptop, heard = pair[0], list[str]()

    async def worker(_peer: LinkPeer, channel: Channel) -> None:
        while True:
            message = await channel.receive()
            heard.append("chunk" if isinstance(message, Chunk) else message.type)

    peer = await make_peer("older", worker)
    peer.takes = ("turns",)

    async def known() -> bool | None:
        return any(p["name"] == "older" and p["online"] for p in await peers(laptop)) or None

    await eventually(known)
    asked = (
        "delegate",
        "older",
        "-C",
        "/srv",
        "--runner",
        "command:true",
        "--max-tokens",
        "9",
        "x",
    )
    # At first there is no link; then there is one, and nothing of the task is kept either.
    for _ in range(2):
        done = await asyncio.to_thread(laptop.cli, *asked)
        assert done.returncode == PeerOutdated.exit_status, done.stderr
        assert "`older` runs fake/1, which does not take a limit of tokens" in done.stderr
        assert "hint: upgrade cmesh on that machine" in done.stderr
    assert peer.links == 1
    assert "submit" not in heard


async def test_a_result_that_the_worker_did_not_sign_ends_nothing(
    pair: Pair, make_peer: MakePeer
) -> None:
    laptop = pair[0]

    async def worker(peer: LinkPeer, channel: Channel) -> None:
        peer.sign_result = SigningKey(os.urandom(32)).sign
        await serve_worker(peer, channel, outcome(b""))

    peer = await make_peer("unsigned", worker)

    async def known() -> bool | None:
        return any(p["name"] == "unsigned" and p["online"] for p in await peers(laptop)) or None

    await eventually(known)
    view = await laptop.delegate("unsigned", "command:true", Path("/srv"))

    async def blamed() -> str | None:
        now = await laptop.task(view.task_id)
        assert now.state is not TaskState.SUCCEEDED
        return now.reason if now.code == "remote_protocol_error" else None

    assert "not signed" in await eventually(blamed)
    # It is tried again, but never in a loop.
    assert peer.links < 20
