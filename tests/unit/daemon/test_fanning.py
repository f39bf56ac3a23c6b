"""A call for several peers that was cut off half-way is completed, and nothing is asked twice."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cmesh.daemon.arguments import Context, DelegateArguments, FanOutArguments
from cmesh.daemon.asking import Asking
from cmesh.daemon.core import Daemon
from cmesh.daemon.fanning import FanOut, group_name
from cmesh.daemon.groups import Groups
from cmesh.errors import CmeshError, DiskFull, TaskConflict
from cmesh.model import Identity, NodeId
from cmesh.node.whois import Peer
from cmesh.store.records import Refused, Selection
from tests.fakes.half import StillClock

pytestmark = pytest.mark.anyio
CONTEXT = Context(session="s")
NAMES = ("box", "mac", "nas")


def peer(name: str) -> Peer:
    identity = Identity(node_id=NodeId(f"n-{name}"), name=f"{name}.example.ts.net")
    return Peer(identity=identity, online=True, direct="", relay="", os="", last_seen=None)


class Asked:
    """What would be asked of peers, without any."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.failing: dict[str, CmeshError] = {}
        self.known: Selection | None = None
        self.settled_peers: set[NodeId] = set()

    async def twin(self, context: Context, arguments: DelegateArguments, peer: Peer) -> None:
        return None

    async def refusal(self, context: Context, arguments: DelegateArguments, peer: Peer) -> None:
        return None

    async def begin(
        self, context: Context, arguments: DelegateArguments, peer: Peer, selection: Selection
    ) -> Any:
        name = peer.identity.name.partition(".")[0]
        if name in self.failing:
            raise self.failing[name]
        self.begun.append((name, arguments.idempotency_key))
        return SimpleNamespace(peer=name)

    async def send(self, record: Any, *, queue: bool) -> None:
        return None

    async def selection(self, group: str) -> Selection | None:
        return self.known

    async def settled(self, selection: Selection) -> set[NodeId]:
        return self.settled_peers

    async def require_same(
        self, group: str, arguments: FanOutArguments, places: Mapping[NodeId, str]
    ) -> None:
        return None

    async def waited(self, context: Context, group: str, wait_s: float) -> Any:
        from cmesh.daemon.answers import GroupView

        return GroupView(group=group, asked=3)


async def _named(name: str) -> Peer:
    return peer(name.removeprefix("n-"))


def _as_it_is(text: str) -> tuple[str, int]:
    return text, 0


async def _rising() -> None:
    return None


def fan_out(asked: Asked) -> FanOut:
    same = SimpleNamespace(text=_as_it_is)
    daemon = SimpleNamespace(
        settings=SimpleNamespace(clock=StillClock()),
        secrets=SimpleNamespace(redactor=lambda: same),
        presence=SimpleNamespace(rising=_rising, peer=_named),
    )
    return FanOut(cast("Daemon", daemon), cast("Asking", asked), cast("Groups", asked))


def call(*peers: str, key: str = "night") -> FanOutArguments:
    return FanOutArguments(peers=list(peers), prompt="look", directory="/srv", idempotency_key=key)


async def test_who_was_not_asked_before_the_call_broke_off_is_asked_by_the_next() -> None:
    whole, half = Asked(), Asked()
    await fan_out(whole).ask(CONTEXT, call(*NAMES))
    half.known = Selection(
        group=group_name("night"),
        peers=tuple(NodeId(f"n-{name}") for name in NAMES),
        refused=(Refused(peer="nas", node_id=NodeId("n-nas"), code="policy_denied", reason=""),),
    )
    half.settled_peers = {NodeId("n-box"), NodeId("n-nas")}
    view = await fan_out(half).ask(CONTEXT, call(*NAMES))
    assert half.begun == [whole.begun[1]], "mac alone, by the key it would have had"
    assert (view.group, view.repeated) == (group_name("night"), True)
    assert len({key for _name, key in whole.begun}) == len(NAMES)


async def test_a_key_of_other_peers_is_a_conflict_and_asks_nobody() -> None:
    asked = Asked()
    asked.known = Selection(group=group_name("night"), peers=(NodeId("n-box"),))
    with pytest.raises(TaskConflict):
        await fan_out(asked).ask(CONTEXT, call("box", "mac"))
    assert not asked.begun


async def test_one_that_cannot_be_stored_stops_no_other_and_is_told() -> None:
    asked = Asked()
    asked.failing = {"mac": DiskFull("no room")}
    view = await fan_out(asked).ask(CONTEXT, call(*NAMES))
    assert [name for name, _key in asked.begun] == ["box", "nas"]
    assert [(one.peer, one.code) for one in view.refused] == [("mac", "disk_full")]
    asked.failing = {name: DiskFull("no room") for name in NAMES}
    with pytest.raises(DiskFull):
        await fan_out(asked).ask(CONTEXT, call(*NAMES, key="another"))


async def test_each_call_without_a_key_is_a_group_of_its_own() -> None:
    asked = Asked()
    first = await fan_out(asked).ask(CONTEXT, call(*NAMES, key=""))
    second = await fan_out(asked).ask(CONTEXT, call(*NAMES, key=""))
    assert first.group != second.group
