"""The pairing of this node, and what becomes of it: stored, told to who waits, refused for a while.

Both ways by which a pairing goes on, its owner's steps and the other machine's words, end here.
"""

import asyncio

from cmesh.clock import Clock
from cmesh.daemon.links import Links
from cmesh.daemon.pair_attempt import LOCKED_S, Attempt, Locks
from cmesh.daemon.presence import Presence
from cmesh.daemon.trust import Trust
from cmesh.keys import fingerprint
from cmesh.store.records import AuditRecord
from cmesh.store.store import Store

__all__ = ["PairBoard"]


class PairBoard:
    """One node's pairing; used from one event loop.

    Attributes:
        attempt: the latest pairing, also one that has ended; None = there was none.
        locks: who is refused, since too many codes were wrong.
    """

    def __init__(
        self, *, presence: Presence, links: Links, trust: Trust, store: Store, clock: Clock
    ) -> None:
        self.attempt: Attempt | None = None
        self.locks = Locks()
        self.trust = trust
        self._presence = presence
        self._links = links
        self._store = store
        self._clock = clock
        self._changed = asyncio.Event()
        self._confirming = asyncio.Lock()

    def now(self) -> float:
        """Return the time that attempts and locks are asked with."""
        return self._clock.monotonic()

    async def change(self, limit_s: float) -> None:
        """Wait for the next change of the pairing.

        Raises:
            TimeoutError: none came within `limit_s`.
        """
        changed = self._changed
        async with asyncio.timeout(limit_s):
            await changed.wait()

    def tell(self) -> None:
        """Wake who waits for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def end(self, attempt: Attempt, why: str) -> None:
        """End a pairing without a confirmation; one that is confirmed stays so."""
        attempt.end(why)
        self.tell()

    async def stop(self, attempt: Attempt) -> None:
        """End a pairing as its owner wants; one whose key is being stored is confirmed first."""
        async with self._confirming:
            self.end(attempt, "stopped")

    def stands(self, attempt: Attempt) -> bool:
        """Say whether what a code has confirmed still counts: its owner may have taken it back."""
        confirmed = attempt.phase == "confirmed"
        return confirmed and self.trust.is_by_code(attempt.peer_id, attempt.key)

    async def confirmed(self, attempt: Attempt, key: str) -> bool:
        """Pin the key that the peer has proved beside the code, then say so.

        False = nothing was confirmed: the pairing has ended meanwhile, or the peer is not what its
        owner was shown any more, or its owner took the trust of this code back.

        Raises:
            NodeError: whois does not know the node any more.
            StoreError: nothing was stored, so nothing is confirmed.
        """
        async with self._confirming:
            if attempt.phase == "confirmed":  # the peer did not hear the end
                return key == attempt.key and self.stands(attempt)
            identity = await self._presence.identify(attempt.peer_id)
            if attempt.look(self.now()) == "ended":
                return False
            if not attempt.is_as_shown(identity):
                self.end(attempt, "changed")
                await self._row(attempt, "changed", now=identity.name)
                return False
            attempt.confirming = key
            try:
                await self.trust.confirm(identity, key)
                attempt.confirm(key)
            finally:
                attempt.confirming = ""
            self.tell()
            await self._row(attempt, "confirmed", fingerprint=fingerprint(key))
        self._links.want(attempt.peer_id, unasked=True)
        return True

    async def wrong(self, attempt: Attempt, *, typed: str) -> None:
        """Count a wrong code; `typed` says on which machine, `here` or `there`."""
        attempt.wrong()
        await self._row(attempt, "wrong_code", typed=typed)
        if attempt.phase == "ended":
            await self.lock(attempt)
        self.tell()

    async def lock(self, attempt: Attempt) -> None:
        """Refuse the peer for a while."""
        self.locks.add(attempt.peer_id, self.now())
        await self._row(attempt, "refused", seconds=int(LOCKED_S))
        self.tell()

    async def _row(self, attempt: Attempt, what: str, **more: object) -> None:
        data = {"what": what, "peer_id": attempt.peer_id, "peer": attempt.peer, **more}
        await self._store.commit([AuditRecord(kind="pairing", data=data)])
