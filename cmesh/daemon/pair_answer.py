"""What the other machine of a pairing asks: whether a code is shown here, and whether it has it."""

import secrets

from cmesh.daemon.pair_attempt import CODE_DIGITS, Attempt
from cmesh.daemon.pair_board import PairBoard
from cmesh.daemon.pair_talk import Talker, next_event
from cmesh.link.tailnet import Wire
from cmesh.model import Identity, NodeId
from cmesh.protocol.pair_exchange import Asked, Knocked, Proved, Shower
from cmesh.protocol.pair_messages import Here

__all__ = ["PairAnswers", "new_code"]

KNOCKS_MOST, KNOCK_S = 16, 600.0
"""How many nodes that have asked for a pairing are remembered, and for how long."""


class PairAnswers:
    """The accepting side of pairings."""

    def __init__(self, board: PairBoard, talker: Talker) -> None:
        self._board = board
        self._talker = talker
        self._knocks: dict[NodeId, float] = {}

    async def accept(self, wire: Wire, identity: Identity) -> None:
        """Run a connection of a node that pairs with this one, or would, to its end.

        Raises:
            LinkError: it went away, or broke the protocol.
        """
        exchange = await self._talker.accept(wire, identity.node_id)
        knocked = await next_event(wire, exchange, Knocked)
        attempt = self._board.attempt
        if attempt is None or attempt.peer_id != identity.node_id:
            # Who is not the one that this machine's owner pairs with learns nothing of that.
            if knocked.looking:
                self._remember(identity.node_id)
            await wire.send(exchange.stand("none", 0))
            return
        here = self._here(attempt, knocked)
        nothing = attempt.gives_nothing(knocked.key)
        await wire.send(exchange.stand(here, attempt.tries, gives_nothing=nothing))
        if here in ("showing", "confirmed"):
            await next_event(wire, exchange, Asked)
            await self._answer(wire, exchange, attempt, knocked.key)

    def knocks(self) -> tuple[NodeId, ...]:
        """Return the nodes that have asked for a pairing and were not heard yet, the last one last."""
        now = self._board.now()
        return tuple(one for one, at in self._knocks.items() if now - at < KNOCK_S)

    def forget(self, node_id: NodeId) -> None:
        """Forget that a node has asked: its wish is heard."""
        self._knocks.pop(node_id, None)

    async def _answer(self, wire: Wire, exchange: Shower, attempt: Attempt, key: str) -> None:
        """Take one try of a code, shown here, by who has proved `key`."""
        board = self._board
        if not attempt.takes(key, board.now()):
            await wire.send(exchange.refuse("over", 0))
            return
        await wire.send(exchange.answer(attempt.code))
        proved = await next_event(wire, exchange, Proved)
        # INVARIANT: of many tries at once, each is judged by what the ones before have left.
        if not attempt.takes(key, board.now()):
            await wire.send(exchange.refuse("over", 0))
        elif proved.right:
            done = await board.confirmed(attempt, key)
            await wire.send(exchange.confirm() if done else exchange.refuse("over", 0))
        else:
            await board.wrong(attempt, typed="there")
            await wire.send(exchange.refuse("wrong_code", attempt.tries))

    def _here(self, attempt: Attempt, knocked: Knocked) -> Here:
        now = self._board.now()
        if self._board.locks.left_s(attempt.peer_id, now):
            return "none"
        if attempt.look(now) == "looking" and knocked.looking:
            # Both ask each other at this moment: the smaller node id shows, on both sides.
            if self._talker.self_id() > attempt.peer_id:
                return "looking"
            attempt.show(new_code())
            self._board.tell()
        if not attempt.takes(knocked.key, now):
            return "none"
        if attempt.phase != "confirmed":
            return "showing"
        # Who is looking begins anew: nobody reads the old code from the screen any more.
        return "none" if knocked.looking or not self._board.stands(attempt) else "confirmed"

    def _remember(self, node_id: NodeId) -> None:
        self._knocks.pop(node_id, None)
        self._knocks[node_id] = self._board.now()
        while len(self._knocks) > KNOCKS_MOST:
            del self._knocks[next(iter(self._knocks))]


def new_code() -> str:
    """Return a code that nobody can guess."""
    return f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"
