"""Two machines that nobody trusts yet, two persons at terminals, and who stands between them."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cmesh.daemon.arguments import NoArguments
from cmesh.daemon.pair_calls import PairArguments, PairRulesArguments, UnpairArguments
from cmesh.errors import (
    CmeshError,
    LinkError,
    PairingRefused,
    RootRefused,
    RunnerUnavailable,
    TaskRefused,
    UnknownPeer,
    UsageError,
    VersionMismatch,
)
from cmesh.keys import SigningKey, verify
from cmesh.link.tailnet import PORT, LinkServer, Wire, dial
from cmesh.model import Identity, NodeId
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from cmesh.protocol.pair_exchange import Knocked, Met, Shower, Signer, Typist
from tests.fakes.link_peer import LinkPeer
from tests.system.daemon.machine import ME, Machine, here, worker_user
from tests.system.daemon.terminal import Terminal, at_terminal

pytestmark = [pytest.mark.anyio, pytest.mark.system]

LOOK = '[commands.look]\nargv = ["/bin/ls"]\n'
AS_ROOT = "[worker]\nallow_root = true\n"
FRAME_S = 10.0
Pair = tuple[Machine, Machine, Path]


@pytest.fixture(scope="module")
async def machines(ground: Path, testnet: Testnet) -> AsyncIterator[Pair]:
    """Return laptop and box, up, with no rule at all, and a directory of box's."""
    laptop = Machine("laptop", ground, testnet, here())
    box = Machine("box", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, AS_ROOT), (box, LOOK)):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        place = box.directory("app")
        (place / "README").write_text("hello\n")
        await asyncio.gather(laptop.up(), box.up())
        yield laptop, box, place


class Middle:
    """A node with a key of its own that both persons take for the other machine.

    It proves its own key to both, and hands on everything that is about the code.
    """

    def __init__(self, node: Node, node_id: NodeId, victim: str, victim_id: NodeId) -> None:
        self.node = node
        self.handed_on = 0
        self._key = SigningKey(b"m" * 32)
        self._node_id = node_id
        self._victim, self._victim_id = victim, victim_id

    async def accept(self, wire: Wire, identity: Identity) -> None:
        shows = Shower(self._signer(), identity.node_id, "m" * 22)
        for frame in shows.initial():
            await wire.send(frame)
        [knocked] = shows.receive(await wire.receive(FRAME_S))
        assert isinstance(knocked, Knocked)
        if identity.node_id == self._victim_id:
            await wire.send(shows.stand("none", 0))
            return
        other = await dial(self.node, self._victim, limit_s=FRAME_S, pairing=True)
        try:
            met = await self._met(other)
            await wire.send(shows.stand(met.here, met.tries))
            for source, target in ((wire, other), (other, wire)) * 2:
                await target.send(await source.receive(FRAME_S))
            self.handed_on += 1
        finally:
            await other.close()

    async def _met(self, other: Wire) -> Met:
        types = Typist(self._signer(), self._victim_id, "n" * 22, looking=False)
        while True:
            events = types.receive(await other.receive(FRAME_S))
            for frame in types.outgoing():
                await other.send(frame)
            if events:
                assert isinstance(events[0], Met)
                return events[0]

    def _signer(self) -> Signer:
        return Signer(
            node_id=self._node_id,
            key=self._key.public,
            sign=self._key.sign,
            verify=verify,
            entropy=lambda size: b"e" * size,
        )


async def join(stack: AsyncExitStack, testnet: Testnet, tmp_path: Path, name: str) -> Node:
    options = NodeOptions(
        state_dir=tmp_path / name,
        hostname=name,
        control_url=testnet.control_url,
        auth_key=await testnet.auth_key(ME),
        allow_testnet=True,
    )
    node = await stack.enter_async_context(Node(options))
    await node.up()
    return node


async def test_who_stands_between_is_refused_by_both_though_the_code_is_right(
    machines: Pair, testnet: Testnet, tmp_path: Path
) -> None:
    laptop, box, _place = machines
    victim = await laptop.status()
    async with AsyncExitStack() as stack:
        node = await join(stack, testnet, tmp_path, "middle")
        own = (await node.status()).node_id
        middle = Middle(node, own, victim.addresses[0], NodeId(victim.node_id))

        async def no_link(_wire: Wire, _identity: Identity) -> None:
            raise LinkError("it takes no links")

        server = LinkServer(await node.listen(PORT), node.whois, no_link, middle.accept)
        await server.start()
        stack.push_async_callback(server.close)
        async with at_terminal(laptop, "pair", "middle") as one:
            code = await one.code()
            async with at_terminal(box, "pair", "middle") as other:
                for left in ("2 tries are left", "1 try is left"):
                    await other.until("code: ")
                    other.type(code)
                    await other.until(f"that is not the code; {left}")
                    await one.until(f"a wrong code was typed there; {left}")
                await other.until("code: ")
                other.type(code)
                for terminal in (one, other):
                    status, said = await terminal.end()
                    assert status == PairingRefused.exit_status, said
                    assert "too many codes were wrong" in said
        assert middle.handed_on == 3
    async with at_terminal(laptop, "pair", "middle") as one:
        status, said = await one.end()
        assert status == PairingRefused.exit_status, said
        assert "is refused for 10 minutes" in said
    peers = await laptop.call("list_peers", NoArguments())
    assert {peer["trust"] for peer in peers["peers"]} == {"unknown"}
    again = laptop.cli("pair", "middle")
    assert (again.returncode, again.stdout) == (2, "")
    assert "needs a person at a terminal" in again.stderr
    for operation, arguments in (
        ("pair", PairArguments(peer="laptop")),
        ("pair_rules", PairRulesArguments(peer="laptop", ask=True, write=True)),
    ):
        with pytest.raises(TaskRefused, match="nobody is at a terminal"):
            await box.call(operation, arguments)


async def test_an_older_cmesh_is_told_from_one_that_can_pair(
    machines: Pair, testnet: Testnet, tmp_path: Path
) -> None:
    laptop, _box, _place = machines
    async with AsyncExitStack() as stack:
        node = await join(stack, testnet, tmp_path, "older")
        await stack.enter_async_context(LinkPeer(node, (await node.status()).node_id))
        async with at_terminal(laptop, "pair", "older") as one:
            status, said = await one.end()
        assert status == VersionMismatch.exit_status
        assert "runs a cmesh that cannot pair" in said
        assert "cmesh peers trust older" in said


async def test_two_terminals_and_a_code_make_a_pair(machines: Pair) -> None:
    laptop, box, place = machines
    before = {machine.name: machine.config_file.read_bytes() for machine in (laptop, box)}
    async with at_terminal(laptop, "pair", "box") as closed:
        first = await closed.code()
        closed.close()
    async with at_terminal(laptop, "pair", "box") as one:
        code = await one.code()
        assert code == first  # the pairing goes on where the window was closed
        assert re.fullmatch(r"\d{3} \d{3}", code)
        async with at_terminal(box, "pair", "--runner", "command:look") as other:
            await other.until("laptop shows a code")
            await other.until("code: ")
            other.type("12345")
            await other.until("a code has 6 digits")
            other.type(code)
            await other.until("confirmed: laptop has the key")
            await refused_directories(other)
            other.type(str(place))
            status, said = await other.end()
            assert status == 0, said
            assert "laptop may ask about" in said
        await one.until("confirmed: box has the key")
        await one.until("(Enter = none): ")
        one.type("")
        await one.until("[Y/n]")
        one.type("")
        status, said = await one.end()
    assert status == 0, said
    assert "README" in said
    assert "rule `pair: ask box` allows it" in said
    await stands(laptop, box)
    await goes_again(laptop, box, before)


async def refused_directories(other: Terminal) -> None:
    for directory, why in (
        ("/", "more than one project"),
        ("/nowhere/at/all", "is no directory here"),
    ):
        await other.until("(Enter = none): ")
        other.type(directory)
        await other.until(why)
    await other.until("(Enter = none): ")


async def stands(laptop: Machine, box: Machine) -> None:
    """Both sides say that the keys are confirmed by a code, and box's rule is a narrow one."""
    for machine, peer in ((laptop, "box"), (box, "laptop")):
        rows = await machine.sql("SELECT peer, decided_by FROM peers WHERE trusted")
        assert [(name.partition(".")[0], by) for name, by in rows] == [(peer, "pair")]
        shown = machine.cli("peers", peer, "--json")
        assert json.loads(shown.stdout)["trusted_by"] == "pair"
        kinds = await machine.sql(
            "SELECT data->>'what' FROM audit WHERE kind = 'pairing'"
            f" AND data->>'peer' = '{peer}' ORDER BY seq"
        )
        assert [kind for [kind] in kinds] == ["confirmed", "rules_written"]
    rules = json.loads(box.cli("policy", "show", "--json").stdout)["inbound"]
    assert [rule["profiles"] for rule in rules] == [["query"]]
    same = PairRulesArguments(
        peer="laptop", directory=rules[0]["paths"][0], runners=["command:look"]
    )
    again = await box.call("pair_rules", same)
    assert [rule["state"] for rule in again["rules"]] == ["there"]


async def goes_again(laptop: Machine, box: Machine, before: dict[str, bytes]) -> None:
    """Undo takes out what was written, to the letter, and leaves what was changed since."""
    for machine, peer in ((laptop, "box"), (box, "laptop")):
        written = machine.config_file.read_text()
        machine.config_file.write_text(written.replace("profiles = [", "profiles = [ "))
        shown = await machine.call("unpair", UnpairArguments(peer=peer, write=True))
        assert [rule["state"] for rule in shown["rules"]] == ["changed"]
        machine.config_file.write_text(written)
        done = machine.cli("pair", "--undo", peer)
        assert done.returncode == 0, done.stderr
        assert machine.config_file.read_bytes() == before[machine.name]
    with pytest.raises(UnknownPeer):
        await laptop.call("unpair", UnpairArguments(peer="box", write=True))


async def test_ctrl_c_on_one_side_ends_it_on_the_other(machines: Pair) -> None:
    laptop, box, _place = machines
    for machine, peer in ((laptop, "box"), (box, "laptop")):
        machine.cli("peers", "untrust", peer)
    async with at_terminal(box, "pair", "laptop") as one:
        code = await one.code()
        async with at_terminal(laptop, "pair", "box") as other:
            await other.until("code: ")
            one.interrupt()
            status, said = await one.end()
            assert (status, "nothing was changed" in said) == (130, True)
            other.type(code)
            status, said = await other.end()
            assert status == 33, said
            assert "has no pairing with this one any more" in said


async def test_what_cannot_be_allowed_is_said_before_a_code_is_shown(machines: Pair) -> None:
    laptop, box, place = machines
    cases: list[tuple[Machine, tuple[str, ...], type[CmeshError], str]] = [
        (box, ("laptop", "--directory", "/nowhere/at/all"), UsageError, "is no directory here"),
        (box, ("laptop", "--runner", "command:dsk"), RunnerUnavailable, "not on this machine"),
    ]
    text = laptop.config_file.read_text()
    if os.getuid() == 0:
        laptop.config_file.write_text(text.replace(AS_ROOT, ""))
        root = ("box", "--directory", str(place))
        cases.append((laptop, root, RootRefused, "would refuse every task"))
    for machine, words, error, why in cases:
        async with at_terminal(machine, "pair", *words) as one:
            status, said = await one.end()
        assert (status, "code" in said) == (error.exit_status, False), said
        assert why in said
    laptop.config_file.write_text(text)


async def test_a_closed_window_is_gone_on_with_and_who_waits_hears_that_nothing_is_given(
    machines: Pair,
) -> None:
    laptop, box, _place = machines
    async with at_terminal(laptop, "pair", "box", "--ask") as one:
        code = await one.code()
        async with at_terminal(box, "pair", "laptop") as closed:
            await closed.until("code: ")
            closed.type(code)
            await closed.until("(Enter = none): ")
            closed.close()
        await one.until("waiting until box says")
        async with at_terminal(box, "pair", "--no-ask") as other:
            await other.until("confirmed: laptop has the key")
            await other.until("(Enter = none): ")
            other.type("")
            status, said = await other.end()
            assert status == 0, said
        status, said = await one.end()
    assert (status, "may ask for nothing there" in said) == (0, True), said
