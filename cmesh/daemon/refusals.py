"""What is refused without a row: while stopping, beyond a peer's rate, of a task not its own.

Cheap, so that a peer that floods costs the others next to nothing.
"""

import math

from cmesh.daemon.parts import Parts
from cmesh.daemon.turns import Turns
from cmesh.errors import CmeshError, DaemonRestarted, QueueFull, RemoteProtocolError
from cmesh.link.link import Link
from cmesh.model import NodeId, TaskId
from cmesh.protocol.fields import RETRY_MOST_S
from cmesh.protocol.link_messages import Failure
from cmesh.rate import Meter

__all__ = [
    "DISK_RETRY_S",
    "OVER_RATE_MOST",
    "RESTORED_CODE",
    "Rates",
    "failed",
    "forgotten",
    "unknown",
]

RESTORED_CODE = "store_restored"
"""Of a task whose worker's store was put back to an older copy of itself."""

DISK_RETRY_S = 15
RESTART_RETRY_S = 5

RESTORED_RETRY_S = 30
"""A shim may have kept what a restored store lost, and a link may last for weeks."""

SUBMIT_BYTES_PER_MINUTE = 64 * 1024 * 1024
"""What one peer's prompts may come to."""

DENIED_COST = 10
"""Requests that a denied one counts as: it costs a decision and a commit, and brings nothing."""

OVER_RATE_PAUSE_S = 0.01
"""How long nothing more is read of a peer after each request beyond its rate."""

OVER_RATE_MOST = 5_000
"""Requests beyond the rate that a peer did not wait for; then its link is dropped."""


class Rates:
    """How much each peer asks.

    Attributes:
        draining: nothing new is taken any more.
    """

    def __init__(self, parts: Parts, turns: Turns) -> None:
        self.draining = False
        self._parts = parts
        self._turns = turns
        self._meters: dict[NodeId, Meter] = {}

    def turn_away(self, link: Link, task_id: str, size: int = 0) -> bool:
        """Refuse what would be written down while stopping, or beyond a peer's rate; cheaply.

        INVARIANT: nothing is awaited and nothing stored for a refusal, so that a peer that
        floods costs the others next to nothing.
        """
        if self.draining:
            why: CmeshError = DaemonRestarted("the worker's daemon is stopping")
            failed(link, task_id, why, RESTART_RETRY_S)
            return True
        peer_id, now = link.identity.node_id, self._parts.clock.monotonic()
        meter = self._meters.get(peer_id)
        if meter is None:
            per_minute = self._parts.rules.config().worker.submits_per_minute
            meter = self._meters[peer_id] = Meter(
                per_minute=per_minute, bytes_per_minute=SUBMIT_BYTES_PER_MINUTE, now=now
            )
        wait_s = meter.charge(size, now)
        if not wait_s:
            return False
        if meter.over > OVER_RATE_MOST:
            self._turns.add("rate", link, _flooded)
            return True
        link.slow(OVER_RATE_PAUSE_S)
        why = QueueFull("more requests a minute than the worker takes of one peer")
        failed(link, task_id, why, min(RETRY_MOST_S, math.ceil(wait_s)))
        return True

    def fine(self, peer_id: NodeId) -> None:
        """Charge a peer for a request that was denied."""
        meter = self._meters.get(peer_id)
        if meter is not None:
            meter.fine(DENIED_COST - 1, self._parts.clock.monotonic())

    def forget(self) -> None:
        """Drop what says nothing any more."""
        now = self._parts.clock.monotonic()
        for peer_id in [peer for peer, meter in self._meters.items() if meter.idle(now)]:
            del self._meters[peer_id]


def failed(link: Link, task_id: str, error: CmeshError, retry_after_s: int | None) -> None:
    """Say that a message was not taken; its sender may send it again."""
    link.post(
        Failure(
            code=error.code,
            reason=error.message[:2_000],
            about=task_id,
            retry_after_s=retry_after_s,
        )
    )


def unknown(link: Link, task_id: TaskId) -> None:
    """Say that nothing of a task is known to the peer here."""
    reason = "no such task of yours is known here"
    link.post(Failure(code="task_not_found", reason=reason, about=task_id))


def forgotten(link: Link, task_id: TaskId) -> None:
    """Say that this store has less of a task than the peer was told, and to ask again later."""
    reason = "the store has less of this task than was told: it was put back to an older copy"
    link.post(
        Failure(code=RESTORED_CODE, reason=reason, about=task_id, retry_after_s=RESTORED_RETRY_S)
    )


async def _flooded() -> None:
    raise RemoteProtocolError("the peer goes on asking beyond its rate")
