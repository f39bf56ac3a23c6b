"""Pairing with another machine: the steps of this machine's owner.

One pairing at a time. Keys and codes are proved by `cmesh.protocol.pair_exchange`, over a
connection that is no link; what may be asked afterwards is written by `pair_rules`.
"""

import asyncio
import contextlib
import os

from cmesh.clock import Clock
from cmesh.daemon.links import Links
from cmesh.daemon.pair_answer import PairAnswers, new_code
from cmesh.daemon.pair_attempt import CODE_DIGITS, LOCKED_S, Attempt
from cmesh.daemon.pair_board import PairBoard
from cmesh.daemon.pair_calls import PairArguments, PairView
from cmesh.daemon.pair_talk import Talk, Talker, next_event
from cmesh.daemon.presence import Presence
from cmesh.daemon.trust import Trust
from cmesh.errors import (
    CmeshError,
    KeyExpired,
    LinkError,
    NodeError,
    PairingBusy,
    PairingEnded,
    PairingRefused,
    RemoteProtocolError,
    UsageError,
    VersionMismatch,
)
from cmesh.keys import SigningKey, fingerprint
from cmesh.link.tailnet import Wire
from cmesh.model import Identity, NodeId
from cmesh.protocol.pair_exchange import Proved, Refusal
from cmesh.protocol.pair_messages import Here
from cmesh.store.store import Store
from cmesh.text import one_line, reveal

__all__ = ["Pairings"]

ASK_AGAIN_S = 5.0
"""How often a machine that could not be reached is asked again while a code is shown."""

BROKEN_TRIES, BROKEN_PAUSE_S = 3, 0.5
"""How often a code is tried again after a connection broke, and the pause before it."""

NAME_CHARACTERS = 128

_REASONS = {
    "": "",
    "expired": "nobody confirmed it in time",
    "wrong_codes": "too many codes were wrong",
    "stopped": "it was ended on this machine",
    "changed": "it has another name, owner or kind by now than the one that was shown",
    "over_there": "the other machine has no pairing with this one any more",
}


class Pairings:
    """The pairing of this node, at most one at a time; used from one event loop."""

    def __init__(
        self,
        *,
        presence: Presence,
        links: Links,
        trust: Trust,
        key: SigningKey,
        store: Store,
        clock: Clock,
    ) -> None:
        self._presence = presence
        self._key = key
        self._board = PairBoard(
            presence=presence, links=links, trust=trust, store=store, clock=clock
        )
        self._talker = Talker(links, key, lambda: presence.node_id)
        self._answers = PairAnswers(self._board, self._talker)
        self._asking: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Ask nobody any more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def accept(self, wire: Wire, identity: Identity) -> None:
        """Run a connection of a node that pairs with this one, or would, to its end.

        Raises:
            LinkError: it went away, or broke the protocol.
        """
        await self._answers.accept(wire, identity)

    async def step(self, pid: int, arguments: PairArguments) -> PairView:
        """Take one step of the owner's, by the process `pid`; return how the pairing stands.

        Raises:
            PairingBusy: another process is at a pairing.
            PairingRefused: the peer is refused for a while.
            PairingEnded: there is none to go on with.
            VersionMismatch: the peer's cmesh cannot pair.
            WrongMachine: the peer's name belonged to another node before.
            NodeError: there is no such peer, or this node is not up.
        """
        if arguments.step == "begin":
            return self._view(await self._begin(pid, arguments.peer))
        attempt = self._own(pid, arguments.peer)
        if arguments.step == "stop":
            await self._board.stop(attempt)
        elif arguments.step == "code":
            await self._type(attempt, arguments.code)
        elif arguments.step == "offer":
            await self._hear(attempt)
        else:
            await self._until_other(attempt, arguments)
        return self._view(attempt)

    def answered(self, peer_id: str, *, gives: bool) -> None:
        """Take note that this machine's owner has said what a paired peer may ask here."""
        attempt = self._board.attempt
        if attempt is not None and attempt.peer_id == peer_id and attempt.phase == "confirmed":
            attempt.answer = "rule" if gives else "nothing"

    async def _begin(self, pid: int, name: str) -> Attempt:
        await self._presence.rising()
        identity = await self._identify(name)
        now = self._board.now()
        self._require_unlocked(identity, now)
        before = self._board.attempt
        if before is not None and before.look(now) != "ended":
            if before.is_as_shown(identity) and self._goes_on(before, now):
                _take_over(before, pid)
                before.answer = ""  # its owner is asked anew
                if await self._taken_up(before):
                    return before
            elif before.phase != "confirmed":
                _take_over(before, pid)
                await self._board.stop(before)
        attempt = self._board.attempt = Attempt.of(identity, owner=pid, began=now)
        self._answers.forget(identity.node_id)
        try:
            await self._ask(attempt)
        except BaseException:  # an older cmesh there, or whoever asked has gone away
            self._board.end(attempt, "stopped")
            raise
        if attempt.note:
            await self.close()
            self._asking = asyncio.create_task(self._ask_again(attempt))
        return attempt

    def _goes_on(self, attempt: Attempt, now: float) -> bool:
        """Whether a pairing can be taken up: its time is not over, nor its trust taken back."""
        counts = attempt.phase != "confirmed" or self._board.stands(attempt)
        return attempt.left_s(now) > 0 and counts

    async def _identify(self, name: str) -> Identity:
        """Find out by whois who is meant; without a name, who is left half done, or has asked.

        Who was given nothing comes after one that has asked since.
        """
        name = name or self._half_done("") or self._knocked() or self._half_done("nothing") or ""
        if not name:
            raise UsageError(
                "no machine has asked this one to pair",
                hint="name it: `cmesh pair PEER`; `cmesh peers` lists them",
            )
        peer = await self._presence.peer(name)
        identity = await self._presence.identify(peer.identity.node_id)
        if identity.expired:
            raise KeyExpired(f"the node key of `{identity.name}` has expired")
        self._board.trust.require_same(identity)
        return identity

    def _knocked(self) -> NodeId | None:
        """Return who has asked for a pairing; None = nobody has.

        Raises:
            UsageError: several have, and any node of the tailnet may: the owner says which.
        """
        asked = self._answers.knocks()
        if len(asked) > 1:
            raise UsageError(
                f"{len(asked)} machines have asked this one to pair: `{'`, `'.join(asked)}`",
                hint="name the one that you mean: `cmesh pair PEER`; `cmesh peers` lists them",
            )
        return asked[0] if asked else None

    def _half_done(self, answer: str) -> NodeId | None:
        """Return the peer whose key is confirmed, where `answer` was said on what it may ask here."""
        attempt = self._board.attempt
        if attempt is None or attempt.phase != "confirmed" or attempt.answer != answer:
            return None
        return attempt.peer_id if self._goes_on(attempt, self._board.now()) else None

    def _require_unlocked(self, identity: Identity, now: float) -> None:
        left_s = self._board.locks.left_s(identity.node_id, now)
        if left_s:
            name = identity.label
            raise PairingRefused(
                f"too many codes were wrong: a pairing with `{name}` is refused for"
                f" {LOCKED_S / 60:g} minutes",
                hint=f"make sure that `{name}` is the machine you mean (`cmesh peers`), wait,"
                " then `cmesh pair` on both",
                retry_after_s=int(left_s) + 1,
            )

    def _own(self, pid: int, name: str) -> Attempt:
        attempt = self._board.attempt
        if attempt is None or name not in ("", attempt.peer, attempt.peer_id):
            about = f" with `{name}`" if name else ""
            raise PairingEnded(
                f"no pairing{about} is under way",
                hint=f"cmesh pair {name or 'PEER'}, on both machines",
            )
        _take_over(attempt, pid)
        return attempt

    async def _until_other(self, attempt: Attempt, arguments: PairArguments) -> None:
        """Wait for a change: another phase, a wrong code, the end of the pairing's time."""
        now, left_s = self._board.now(), arguments.wait_s
        known = arguments.known_tries
        if attempt.look(now) != arguments.known_phase or known not in (None, attempt.tries):
            return  # it changed since the last look
        if attempt.phase not in ("confirmed", "ended"):
            left_s = min(left_s, attempt.left_s(now))
        with contextlib.suppress(TimeoutError):
            await self._board.change(left_s)

    async def _taken_up(self, attempt: Attempt) -> bool:
        """Go on with a pairing whose command is gone; False = the other machine has begun anew."""
        if attempt.phase == "showing":
            await self._ask(attempt)
        return attempt.phase != "confirmed" or await self._there(attempt) != "showing"

    async def _there(self, attempt: Attempt) -> Here:
        """Ask the other machine how the pairing stands there; `none` when it cannot be asked.

        Raises:
            VersionMismatch: its cmesh cannot pair.
            RemoteProtocolError: what answers there is not the node that is meant.
        """
        attempt.note = ""
        try:
            async with self._talker.meet(attempt.peer_id, looking=True) as talk:
                return talk.met.here
        except (VersionMismatch, RemoteProtocolError):
            raise
        except (NodeError, LinkError) as error:
            attempt.note = error.message
            return "none"

    async def _hear(self, attempt: Attempt) -> None:
        """Ask the other machine whether its owner has said that nothing may be asked there.

        Who cannot be asked just now has said nothing yet, nor has an older cmesh.
        """
        with contextlib.suppress(NodeError, LinkError):
            async with self._talker.meet(attempt.peer_id, looking=False) as talk:
                same = talk.met.key == attempt.key
                attempt.refused_there = same and talk.met.gives_nothing

    async def _ask(self, attempt: Attempt) -> None:
        """Ask the other machine whether it shows a code; if not, this one does.

        Raises:
            VersionMismatch, RemoteProtocolError: as `_there`.
        """
        here = await self._there(attempt)
        # Where both show already, the larger node id types, on both sides.
        stays = attempt.phase == "showing" and self._presence.node_id < attempt.peer_id
        if here == "showing" and not stays:
            attempt.type()
        elif attempt.phase == "looking":
            attempt.show(new_code())
        self._board.tell()

    async def _ask_again(self, attempt: Attempt) -> None:
        """Go on asking a machine that could not be reached: it may show a code of its own by now."""
        while attempt.look(self._board.now()) == "showing" and attempt.note:
            await asyncio.sleep(ASK_AGAIN_S)
            if attempt.phase == "showing":
                try:
                    await self._ask(attempt)
                except CmeshError as error:  # it came up, with a cmesh that cannot pair
                    attempt.note = error.message
                    return

    async def _type(self, attempt: Attempt, text: str) -> None:
        """Try the code that this machine's owner has typed."""
        code = "".join(one for one in text if one.isascii() and one.isdecimal())
        if len(code) != CODE_DIGITS:
            raise UsageError(
                f"a code has {CODE_DIGITS} digits", hint="type it as the other machine shows it"
            )
        for again in range(BROKEN_TRIES):
            if attempt.look(self._board.now()) != "typing":
                return
            attempt.note = ""
            try:
                async with self._talker.meet(attempt.peer_id, looking=False) as talk:
                    await self._try(attempt, code, talk)
            except (NodeError, LinkError) as error:
                attempt.note = error.message
                if again + 1 == BROKEN_TRIES or isinstance(error, RemoteProtocolError):
                    raise
                await asyncio.sleep(BROKEN_PAUSE_S)
            else:
                return

    async def _try(self, attempt: Attempt, code: str, talk: Talk) -> None:
        board = self._board
        if talk.met.here not in ("showing", "confirmed"):
            board.end(attempt, "over_there")
            return
        if not attempt.may_prove(board.now()):
            await board.lock(attempt)
            return
        await talk.wire.send(talk.exchange.attempt(code))
        end = await next_event(talk.wire, talk.exchange, Proved, Refusal)
        if isinstance(end, Proved) and end.right:
            await board.confirmed(attempt, talk.met.key)
        elif isinstance(end, Refusal) and end.why != "wrong_code":
            board.end(attempt, "over_there")
        else:
            await board.wrong(attempt, typed="here")

    def _view(self, attempt: Attempt) -> PairView:
        now = self._board.now()
        phase = attempt.look(now)
        return PairView(
            peer=_shown(attempt.peer),
            node_id=attempt.peer_id,
            user=_shown(attempt.user),
            shared=attempt.shared,
            router=attempt.router,
            phase=phase,
            code=attempt.code if phase == "showing" else "",
            tries_left=attempt.tries,
            expires_s=round(attempt.left_s(now), 1),
            fingerprint=fingerprint(attempt.key) if attempt.key else "",
            own_fingerprint=fingerprint(self._key.public),
            reason=_REASONS[attempt.why],
            note=attempt.note,
            gives_nothing=attempt.refused_there,
        )


def _shown(name: str) -> str:
    """Return a name of the tailnet's as a person is to judge it: on one line, nothing hidden."""
    return one_line(reveal(name), NAME_CHARACTERS)


def _take_over(attempt: Attempt, pid: int) -> None:
    """Let another process of the owner's go on once the one before is gone.

    Raises:
        PairingBusy: it is not.
    """
    if (
        attempt.phase not in ("confirmed", "ended")
        and attempt.owner != pid
        and _lives(attempt.owner)
    ):
        raise PairingBusy(
            f"a pairing with `{attempt.peer}` is under way, by process {attempt.owner}",
            hint="finish it there, or end it with Ctrl-C; then repeat",
        )
    attempt.owner = pid


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
