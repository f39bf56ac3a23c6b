"""Pairings of nodes over wires in memory: the real ones, with what they need of a daemon."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from typing_extensions import override

from cmesh.daemon.links import Links
from cmesh.daemon.pair_calls import PairArguments, PairView
from cmesh.daemon.pairings import Pairings
from cmesh.daemon.presence import Presence
from cmesh.daemon.trust import Trust
from cmesh.errors import LinkError, PeerUnreachable, UnknownPeer, VersionMismatch
from cmesh.keys import SigningKey
from cmesh.link.tailnet import Wire
from cmesh.model import Identity, NodeId
from cmesh.node.whois import Peer
from cmesh.store.records import AuditRecord, Record, TrustRecord
from cmesh.store.store import Store
from tests.fakes.half import StillClock
from tests.fakes.wire import MemoryWire, wire_pair

__all__ = ["GONE", "LIVING", "Place", "Town", "shown", "wrong"]

GONE, LIVING = 2**22 + 7, 1
"""Numbers of processes: beyond the largest there is, and one that is always there."""


class Rows:
    """A store that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[Record] = []

    async def commit(self, records: Sequence[Record]) -> int:
        self.rows.extend(records)
        return len(self.rows)

    async def trust(self) -> list[TrustRecord]:
        return [row for row in self.rows if isinstance(row, TrustRecord)]

    def said(self) -> list[str]:
        return [str(row.data["what"]) for row in self.rows if isinstance(row, AuditRecord)]


class Breaking(MemoryWire):
    """Breaks before its frame number `after`."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    @override
    async def send(self, frame: str | bytes) -> None:
        if not self._left:
            self.lose()
            raise LinkError("the link broke")
        self._left -= 1
        await super().send(frame)


class Town:
    """All nodes, and how they reach each other.

    Attributes:
        breaks: for the next connections, which side's frame is lost: (dialler's, acceptor's).
        away: nodes that cannot be reached.
        old: nodes whose cmesh cannot pair.
    """

    def __init__(self) -> None:
        self.clock = StillClock()
        self.places: dict[NodeId, Place] = {}
        self.names: dict[str, NodeId] = {}
        self.away: set[NodeId] = set()
        self.old: set[NodeId] = set()
        self.breaks: list[tuple[int, int]] = []
        self.serving: set[asyncio.Task[None]] = set()
        self.broke: list[Exception] = []

    def place(self, name: str, key: bytes = b"") -> "Place":
        return Place(self, name, key)

    def wires(self) -> tuple[MemoryWire, MemoryWire]:
        if not self.breaks:
            return wire_pair()
        mine, theirs = (Breaking(after) for after in self.breaks.pop(0))
        mine.join(theirs)
        return mine, theirs

    async def serve(self, place: "Place", wire: MemoryWire, caller: NodeId) -> None:
        identity = self.places[caller].identity
        try:
            await place.accept(cast("Wire", wire), identity)
        except (LinkError, UnknownPeer) as error:
            self.broke.append(error)
        finally:
            await wire.close()

    async def close(self) -> None:
        for place in self.places.values():
            await place.pairings.close()
        for task in self.serving:
            task.cancel()
        await asyncio.gather(*self.serving, return_exceptions=True)


class Place:
    """One node: the real pairings over what they need of the rest."""

    def __init__(self, town: Town, name: str, key: bytes = b"") -> None:
        self.town, self.name = town, name
        self.id = NodeId(f"n{name.upper()}")
        self.key = SigningKey(key or (name[0] * 32).encode())
        self.identity = Identity(node_id=self.id, name=f"{name}.test", user="me@example.com")
        self.store = Rows()
        self.trust = Trust(cast("Store", self.store))
        self.wanted: list[NodeId] = []
        self.begin()
        town.places[self.id] = self
        town.names[name] = self.id

    def begin(self) -> None:
        """Begin a life of its daemon."""
        presence = SimpleNamespace(
            node_id=self.id, rising=self.rising, peer=self.peer, identify=self.identify
        )
        self.pairings = Pairings(
            presence=cast("Presence", presence),
            links=cast("Links", SimpleNamespace(dial_to_pair=self.dial, want=self.want)),
            trust=self.trust,
            key=self.key,
            store=cast("Store", self.store),
            clock=self.town.clock,
        )

    async def accept(self, wire: Wire, identity: Identity) -> None:
        await self.pairings.accept(wire, identity)

    async def rising(self) -> None:
        pass

    async def peer(self, name: str) -> Peer:
        node_id = self.town.names.get(name, NodeId(name))
        if node_id not in self.town.places:
            raise UnknownPeer(f"nobody is named `{name}`")
        identity = self.town.places[node_id].identity
        return cast("Peer", SimpleNamespace(identity=identity))

    async def identify(self, node_id: NodeId) -> Identity:
        return self.town.places[node_id].identity

    def want(self, node_id: NodeId, *, unasked: bool) -> None:
        assert unasked
        self.wanted.append(node_id)

    async def dial(self, node_id: NodeId) -> tuple[Wire, Identity]:
        town = self.town
        if node_id in town.away or self.id in town.away:
            raise PeerUnreachable(f"`{node_id}` does not answer")
        if node_id in town.old:
            raise VersionMismatch(f"`{node_id}` runs a cmesh that cannot pair")
        mine, theirs = town.wires()
        task = asyncio.create_task(town.serve(town.places[node_id], theirs, self.id))
        town.serving.add(task)
        task.add_done_callback(town.serving.discard)
        return cast("Wire", mine), town.places[node_id].identity

    async def step(
        self, peer: str, step: str = "begin", pid: int = LIVING, **more: Any
    ) -> PairView:
        arguments = PairArguments.model_validate({"peer": peer, "step": step, **more})
        return await self.pairings.step(pid, arguments)

    async def code(self, peer: str, code: str, pid: int = LIVING) -> PairView:
        return await self.step(peer, "code", pid, code=code)


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 1_000_000:06}"


async def shown(box: Place, mac: Place) -> str:
    """Let box show a code that mac is asked for."""
    view = await box.step("mac")
    assert view.phase == "showing"
    assert (await mac.step("box")).phase == "typing"
    return view.code
