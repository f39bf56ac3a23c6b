"""Choosing peers by what their machines are like: known peers asked, judged, put in order.

The choice is said in words, with what speaks against each peer that was not taken. Whether a
task may be asked for is decided by policy afterwards, as for a peer that was named.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cmesh.daemon.advice import not_offered
from cmesh.daemon.core import Daemon
from cmesh.daemon.machines import STALE
from cmesh.errors import NoPeerMatches
from cmesh.model import Direction, NodeId, TaskSpec
from cmesh.node.whois import Peer
from cmesh.protocol.where import Term, mismatch
from cmesh.text import one_line

__all__ = ["Candidate", "Choice", "candidates", "chosen_all", "chosen_one", "described"]

CONTACT_LIMIT_S = 6.0
"""How long peers without a link are tried, all at once, before they count as away."""

TOLD_LIMIT_S = 4.0
"""How long a peer whose link has just opened may take to tell of its machine."""

FRESH_S = 15.0
"""So long after its link opened a peer may still be looking at its machine."""

TRIED_MOST = 64
"""Peers that are tried for one choice, by name; the others count as away."""

SHOWN, WHY_CHARACTERS = 12, 160

Allowed = Callable[[Peer], str]
"""Says why this node's own policy would not ask a peer; empty = it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A peer that could be chosen.

    Attributes:
        why: the first thing that speaks against it; empty = it is as asked for.
        away: there is no link with it, and none could be opened.
        busy: unfinished tasks that this node has asked of it.
        stale: how long ago it told of its machine, when that is long; else empty.
    """

    peer: Peer
    why: str = ""
    away: bool = False
    busy: int = 0
    stale: str = ""

    @property
    def name(self) -> str:
        """The peer's host label."""
        return self.peer.identity.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen, in the order of preference, and the choice in words."""

    taken: tuple[Candidate, ...]
    words: str


async def candidates(
    daemon: Daemon, terms: Sequence[Term], spec: TaskSpec, allowed: Allowed
) -> tuple[Candidate, ...]:
    """Judge every peer whose key is trusted, after trying those without a link.

    Waits at most `CONTACT_LIMIT_S` and then `TOLD_LIMIT_S`. `spec` is what would be asked.

    Raises:
        NodeError: the node is not up.
    """
    daemon.presence.require_up()
    known = [
        peer
        for peer in await daemon.presence.node.peers()
        if daemon.trust.standing(peer.identity.node_id) == "trusted"
    ]
    known.sort(key=lambda peer: (peer.identity.name, peer.identity.node_id))
    tried = [peer for peer in known if _worth_trying(daemon, terms, peer)][:TRIED_MOST]
    await asyncio.gather(*(_hear(daemon, peer.identity.node_id) for peer in tried))
    unfinished = Counter(
        task.record.peer_id
        for task in await daemon.store.unfinished()
        if task.record.direction is Direction.OUT and not task.terminal
    )
    return tuple(
        _judged(daemon, terms, spec, allowed, peer, unfinished[peer.identity.node_id])
        for peer in known
    )


def chosen_one(found: Sequence[Candidate], asked: str, *, queue: bool) -> Choice:
    """Choose one: of those that match and can be reached the one with the fewest tasks.

    Among equals the first by name. One that cannot be reached is taken when no other one
    matches and its task may wait for it.

    Raises:
        NoPeerMatches: there is none; says of each peer what is not as asked for.
    """
    there = _in_order([one for one in found if not one.why and not one.away])
    away = _in_order([one for one in found if not one.why and one.away])
    if not there and len(away) == 1 and queue:
        there, away = away, []
    others = [*away, *(one for one in found if one.why)]
    if not there:
        raise NoPeerMatches(_nobody(asked, others), hint=_step(away, queue=queue))
    return Choice(taken=(there[0],), words=described(there[:1], there, others))


def chosen_all(found: Sequence[Candidate], asked: str, *, queue: bool, most: int) -> Choice:
    """Choose all that match; those that cannot be reached too when their tasks may wait.

    Raises:
        NoPeerMatches: there is none, or there are more than `most`.
    """
    matching = [one for one in found if not one.why and (queue or not one.away)]
    others = [one for one in found if one not in matching]
    if not matching:
        away = [one for one in others if not one.why]
        raise NoPeerMatches(_nobody(asked, others), hint=_step(away, queue=queue))
    if len(matching) > most:
        raise NoPeerMatches(
            f"{len(matching)} peers match {asked}, and at most {most} are asked at once:"
            f" {_listed([one.name for one in matching])}",
            hint="ask for more of them, or name the peers",
        )
    return Choice(taken=tuple(matching), words=described(matching, matching, others))


def described(
    taken: Sequence[Candidate], matching: Sequence[Candidate], others: Sequence[Candidate]
) -> str:
    """Return a choice in words: `chose box of 2 that match: box, mac; not: nas (no docker)`."""
    names = _listed([_aged(one) for one in matching])
    if len(taken) == len(matching) > 1:
        words = f"chose all {len(matching)} that match: {names}"
    elif len(matching) == 1:
        away = ", which cannot be reached now" if matching[0].away else ""
        words = f"chose {names}, the only one that matches{away}"
    else:
        words = (
            f"chose {_listed([one.name for one in taken])} of {len(matching)} that match: {names}"
        )
    against = _listed([f"{one.name} ({_against(one)})" for one in others])
    return f"{words}; not: {against}" if others else words


def _in_order(found: Sequence[Candidate]) -> list[Candidate]:
    return sorted(found, key=lambda one: (one.busy, one.name, one.peer.identity.node_id))


def _worth_trying(daemon: Daemon, terms: Sequence[Term], peer: Peer) -> bool:
    """Say whether a link could make a peer one that matches: not by what it told before."""
    peer_id = peer.identity.node_id
    if peer.identity.expired:
        return False
    heard = daemon.machines.of(peer_id)
    return heard is None or daemon.links.get(peer_id) is None


async def _hear(daemon: Daemon, peer_id: NodeId) -> None:
    """Open a link if there is none, and wait for the first word about the machine."""
    if daemon.links.get(peer_id) is None:
        await daemon.links.attempt(peer_id, CONTACT_LIMIT_S, unasked=True)
    link = daemon.links.get(peer_id)
    if link is None or daemon.settings.clock.monotonic() - link.opened_at > FRESH_S:
        return
    if daemon.links.contact(peer_id).may.operations:  # else it tells nothing
        await daemon.machines.wait(peer_id, TOLD_LIMIT_S)


def _judged(
    daemon: Daemon,
    terms: Sequence[Term],
    spec: TaskSpec,
    allowed: Allowed,
    peer: Peer,
    busy: int,
) -> Candidate:
    peer_id = peer.identity.node_id
    heard, link = daemon.machines.of(peer_id), daemon.links.get(peer_id)
    contact = daemon.links.contact(peer_id)
    one = Candidate(peer=peer, away=link is None, busy=busy)
    if peer.identity.expired:
        return replace(one, why="its node key has expired")
    if link is not None and not contact.may.operations:
        return replace(one, why="it lets this node ask for nothing")
    if heard is None and link is None:
        return replace(one, why="it cannot be reached, and has told nothing of its machine")
    if wrong := mismatch(terms, heard.machine if heard else None):
        return replace(one, why=wrong)
    if wrong := not_offered(contact.may, spec):
        return replace(one, why=f"it offers {wrong[0]}")
    if wrong := allowed(peer):
        return replace(one, why=wrong)
    age = daemon.settings.clock.now() - heard.at if heard is not None else STALE
    return replace(one, stale=f"{age.total_seconds() / 3600:.0f} h" if age > STALE else "")


def _aged(one: Candidate) -> str:
    return f"{one.name} (as it said {one.stale} ago)" if one.stale else one.name


def _against(one: Candidate) -> str:
    return one_line(one.why or "it cannot be reached now", WHY_CHARACTERS)


def _listed(items: Sequence[str]) -> str:
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _nobody(asked: str, others: Sequence[Candidate]) -> str:
    if not others:
        return f"no peer matches {asked}: this node trusts the key of none yet"
    against = _listed([f"{one.name}: {_against(one)}" for one in others])
    return f"no peer matches {asked}: {against}"


def _step(away: Sequence[Candidate], *, queue: bool) -> str | None:
    if len(away) > 1 and queue:
        return f"name the one that shall have it: {_listed([one.name for one in away])}"
    if away:
        return "`--if-offline queue` keeps the task here for the only one that matches"
    return None
