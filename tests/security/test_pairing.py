"""Attacks on a pairing: old codes, another node than the shown one, hostile names, guesses at once.

The first part is the real pairings over wires in memory, where a race can be held still; the
second a real daemon, a person at its terminal, and nodes of the tailnet that do not play by it.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from cmesh.daemon.arguments import NoArguments
from cmesh.daemon.pair_calls import PairRulesArguments
from cmesh.daemon.pairings import NAME_CHARACTERS
from cmesh.errors import LinkError, PairingEnded, PairingRefused, RunnerUnavailable, UsageError
from cmesh.keys import SigningKey, verify
from cmesh.link.tailnet import Wire, dial
from cmesh.model import NodeId
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from cmesh.protocol.pair_exchange import Met, Proved, Refusal, Signer, Typist
from cmesh.store.records import Record
from tests.fakes.pair_town import Place, Town, shown
from tests.system.daemon.machine import ME, Machine, eventually, here
from tests.system.daemon.terminal import Terminal, at_terminal

pytestmark = pytest.mark.anyio

FRAME_S = 10.0
AS_ROOT = "[worker]\nallow_root = true\n"
AT_ONCE = 8


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    made = Town()
    yield made
    await made.close()


@pytest.fixture
def box(town: Town) -> Place:
    return town.place("box")


@pytest.fixture
def mac(town: Town) -> Place:
    return town.place("mac")


async def test_a_code_does_not_give_back_the_trust_that_its_owner_took(
    town: Town, box: Place, mac: Place
) -> None:
    code = await shown(box, mac)
    assert (await mac.code("box", code)).phase == "confirmed"
    await box.trust.take_back("mac")
    # The other machine still has the code and its key, and proves both once more.
    attempt = mac.pairings._board.attempt  # pyright: ignore[reportPrivateUsage]
    assert attempt is not None
    attempt.phase = "typing"
    assert "no pairing with this one" in (await mac.code("box", code)).reason
    assert box.trust.confirmed_by(mac.id) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"name": "desk.test"},
        {"user": "other@example.com"},
        {"user": "", "tags": ("tag:server",)},
        {"shared": True},
        {"router": True},
    ],
)
async def test_who_is_another_than_the_shown_one_is_not_confirmed(
    box: Place, mac: Place, change: dict[str, Any]
) -> None:
    code = await shown(box, mac)
    mac.identity = replace(mac.identity, **change)
    view = await mac.code("box", code)
    assert (view.phase, "no pairing with this one" in view.reason) == ("ended", True)
    view = await box.step("mac" if "name" not in change else mac.id, "look")
    assert (view.phase, "than the one that was shown" in view.reason) == ("ended", True)
    assert await box.store.trust() == await mac.store.trust() == []
    assert box.store.said() == ["changed"]


async def test_a_renamed_one_is_shown_again_before_its_pairing_goes_on(
    box: Place, mac: Place
) -> None:
    code = await shown(box, mac)
    mac.identity = replace(mac.identity, name="desk.test")
    view = await box.step("mac")
    assert (view.peer, view.phase, view.code == code) == ("desk", "showing", False)


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("box\x1b[2K\rmac", "box<U+001B>[2K<U+000D>mac"),
        ("box\u202ecam", "box<U+202E>cam"),
        ("box\nconfirmed: box", "box confirmed: box"),
        ("x" * 5000, "x"),
    ],
)
async def test_a_hostile_name_is_shown_as_what_it_is_on_one_line(
    box: Place, mac: Place, name: str, seen: str
) -> None:
    mac.identity = replace(mac.identity, name=name, user=name)
    view = await box.step("mac")
    for text in (view.peer, view.user):
        assert text.startswith(seen)
        assert text.isprintable()
        assert len(text) <= NAME_CHARACTERS


async def test_any_node_may_knock_so_of_two_the_owner_says_which(
    town: Town, box: Place, mac: Place
) -> None:
    await mac.step("box")
    await town.place("evil").step("box")
    with pytest.raises(UsageError, match="2 machines have asked"):
        await box.step("")
    assert (await box.step("mac")).phase == "typing"


async def test_an_owner_who_stops_in_the_midst_is_told_what_was_stored(
    box: Place, mac: Place
) -> None:
    code = await shown(box, mac)
    store, begun, goes_on = box.store.commit, asyncio.Event(), asyncio.Event()

    async def slow(records: list[Record]) -> int:
        begun.set()
        await goes_on.wait()
        return await store(records)

    box.store.commit = slow  # type: ignore[method-assign]
    typing = asyncio.create_task(mac.code("box", code))
    await begun.wait()
    stopping = asyncio.create_task(box.step("mac", "stop"))
    await asyncio.sleep(0)
    goes_on.set()
    assert (await stopping).phase == (await typing).phase == "confirmed"
    assert box.trust.confirmed_by(mac.id) == "pair"


class Rogue:
    """A node of the tailnet, with a key, that does the typing side's part as it likes."""

    def __init__(self, node: Node, node_id: NodeId, victim: tuple[str, NodeId]) -> None:
        self.node_id = node_id
        self.key = SigningKey(node_id.encode().ljust(32, b"k")[:32])
        self._node = node
        self._address, self._victim = victim

    @contextlib.asynccontextmanager
    async def meets(self, claimed: str = "") -> AsyncGenerator[tuple[Wire, Typist, Met]]:
        """Connect, prove the key as node `claimed`, and hear how the victim's pairing stands."""
        signer = Signer(
            node_id=NodeId(claimed) or self.node_id,
            key=self.key.public,
            sign=self.key.sign,
            verify=verify,
            entropy=lambda size: b"e" * size,
        )
        wire = await dial(self._node, self._address, limit_s=FRAME_S, pairing=True)
        try:
            typist = Typist(signer, self._victim, "n" * 22, looking=False)
            yield wire, typist, cast("Met", await self._next(wire, typist))
        finally:
            await wire.close()

    async def guess(self, code: str) -> Met | Proved | Refusal:
        """Try a code; a `Met` is what is left where none is shown."""
        async with self.meets() as (wire, typist, met):
            if met.here not in ("showing", "confirmed"):
                return met
            await wire.send(typist.attempt(code))
            return cast("Proved | Refusal", await self._next(wire, typist))

    async def _next(self, wire: Wire, typist: Typist) -> object:
        while True:
            events = typist.receive(await wire.receive(FRAME_S))
            for frame in typist.outgoing():
                await wire.send(frame)
            if events:
                return events[0]


class Scene:
    """A laptop at whose terminal a person pairs, and rogues."""

    def __init__(self, laptop: Machine, testnet: Testnet, place: Path) -> None:
        self.laptop, self.testnet = laptop, testnet
        self._place = place
        self._stack = AsyncExitStack()

    async def rogue(self, name: str) -> Rogue:
        status = await self.laptop.status()
        options = NodeOptions(
            state_dir=self._place / name,
            hostname=name,
            control_url=self.testnet.control_url,
            auth_key=await self.testnet.auth_key(ME),
            allow_testnet=True,
        )
        node = await self._stack.enter_async_context(Node(options))
        await node.up()
        victim = (status.addresses[0], NodeId(status.node_id))
        return Rogue(node, (await node.status()).node_id, victim)

    async def close(self) -> None:
        await self._stack.aclose()


@pytest.fixture(scope="module")
async def scene(
    ground: Path, testnet: Testnet, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    laptop = Machine("laptop", ground, testnet, here())
    made = Scene(laptop, testnet, tmp_path_factory.mktemp("rogues"))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(laptop.stop)
        await laptop.configure(AS_ROOT)
        await laptop.up()
        stack.push_async_callback(made.close)
        yield made


async def trusted(machine: Machine) -> list[list[Any]]:
    return await machine.sql("SELECT peer FROM peers WHERE trusted")


async def sold(machine: Machine, name: str) -> None:
    """Wait until a machine sees that a node is not ours any more."""

    async def seen() -> bool | None:
        peers = (await machine.call("list_peers", NoArguments()))["peers"]
        return any(one["name"] == name and one["user"] != ME for one in peers) or None

    await eventually(seen)


async def unseen_is_unwritten(machine: Machine, peer: str) -> bool | None:
    """Say whether a rule is refused, since the person was not shown that the peer is a router."""
    wanted = PairRulesArguments(peer=peer, directory="/srv")
    try:
        await machine.call("pair_rules", wanted)
    except PairingEnded as error:
        return "routes subnets" in error.message
    except RunnerUnavailable:  # the laptop does not know it yet
        return None
    return False


async def closed(wire: Wire) -> None:
    """Wait until the other side has closed a connection."""
    with contextlib.suppress(LinkError):
        while True:
            await wire.receive(FRAME_S)


async def refuse_all(terminal: Terminal) -> None:
    """Allow nothing in either direction, once the keys are confirmed."""
    await terminal.until("(Enter = none): ")
    terminal.type("")
    await terminal.until("[Y/n]")
    terminal.type("n")


@pytest.mark.system
async def test_guesses_at_once_are_three_and_the_right_code_comes_too_late(scene: Scene) -> None:
    rogue = await scene.rogue("guesser")
    async with at_terminal(scene.laptop, "pair", "guesser") as one:
        code = (await one.code()).replace(" ", "")
        wrongs = [f"{(int(code) + step) % 1_000_000:06}" for step in range(1, AT_ONCE + 1)]
        ends = await asyncio.gather(*map(rogue.guess, wrongs), return_exceptions=True)
        refusals = [end.why for end in ends if isinstance(end, Refusal)]
        assert refusals.count("wrong_code") == 3
        assert not any(isinstance(end, Proved) for end in ends)
        late = await rogue.guess(code)
        assert isinstance(late, Met)
        assert late.here == "none"
        status, said = await one.end()
    assert (status, "too many codes were wrong" in said) == (PairingRefused.exit_status, True)
    assert await trusted(scene.laptop) == []


@pytest.mark.system
async def test_noise_and_third_nodes_cost_a_pairing_nothing_and_its_code_is_good_once(
    scene: Scene,
) -> None:
    rogue, third = await scene.rogue("twin"), await scene.rogue("third")
    async with at_terminal(scene.laptop, "pair", "twin") as one:
        code = (await one.code()).replace(" ", "")
        async with third.meets() as (_wire, _typist, met):
            assert met.here == "none"  # and no word of a pairing
        with pytest.raises(LinkError):
            async with third.meets(claimed=rogue.node_id):
                pass
        noises: list[str | bytes] = ["{" * 5000, b"\x00", '{"type": "pair_proof"}']
        for noise in (*noises, json.dumps({"type": "pair_try", "element": "00" * 33})):
            async with rogue.meets() as (wire, _typist, met):
                assert (met.here, met.tries) == ("showing", 3)
                await wire.send(noise)
                await closed(wire)
        right = await rogue.guess(code)
        assert isinstance(right, Proved)
        assert right.right
        await one.until("confirmed: twin has the key")
        await refuse_all(one)
        assert (await one.end())[0] == 0
    await scene.testnet.set_routes("twin", ["10.1.0.0/16"])
    await eventually(lambda: unseen_is_unwritten(scene.laptop, "twin"))
    assert isinstance(await rogue.guess(code), Proved)  # the same key may, where it heard no end
    key, rogue.key = rogue.key, SigningKey(b"another key of the same node....")
    stolen = await rogue.guess(code)
    assert isinstance(stolen, Met)
    assert stolen.here == "none"
    rogue.key = key
    assert scene.laptop.cli("peers", "untrust", "twin").returncode == 0
    again = await rogue.guess(code)
    assert isinstance(again, Met)
    assert again.here == "none"
    assert await trusted(scene.laptop) == []


@pytest.mark.system
async def test_a_node_that_changes_hands_meanwhile_is_not_confirmed(scene: Scene) -> None:
    rogue = await scene.rogue("sold")
    async with at_terminal(scene.laptop, "pair", "sold") as one:
        code = (await one.code()).replace(" ", "")
        await scene.testnet.set_user("sold", "other@example.com")
        await sold(scene.laptop, "sold")
        assert isinstance(await rogue.guess(code), Refusal)
        status, said = await one.end()
    assert (status, "than the one that was shown" in said) == (PairingEnded.exit_status, True)
    assert await trusted(scene.laptop) == []
