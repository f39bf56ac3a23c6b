"""What this node forgets by itself: texts and files past their time, and the disk they were on.

The daemon's one place that erases. It asks the store for bounded steps, one after another, and
takes up what an earlier life left.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cmesh.clock import Clock
from cmesh.config import StoreConfig
from cmesh.daemon.background import guarded
from cmesh.errors import StoreError
from cmesh.store.keeping import Compacted
from cmesh.store.sizes import Sizes
from cmesh.store.store import Store

__all__ = ["Retention", "Swept", "compacts"]

AFTER_START_S = 60.0
SWEEP_AGAIN_S = 3600.0
"""How often it is looked for texts past their time."""

COMPACT_AGAIN = timedelta(days=1)
"""What was erased stays in the file's free blocks for at most so long."""

MUCH_FREE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one sweep has done; `not_compacted` = why the file was not written anew, if it was due."""

    rows: int = 0
    files: int = 0
    bytes: int = 0
    compacted: Compacted | None = None
    not_compacted: str = ""


def compacts(sizes: Sizes, now: datetime) -> bool:
    """Say whether a store is to be written anew by itself. Pure."""
    if sizes.free_bytes >= MUCH_FREE_BYTES and 2 * sizes.free_bytes >= sizes.bytes:
        return True
    last = sizes.compacted_at
    aged = last is None or now.timestamp() - last / 1_000_000 >= COMPACT_AGAIN.total_seconds()
    return sizes.pending and aged


class Retention:
    """The sweeps of one store. Event loop only."""

    def __init__(self, store: Store, config: Callable[[], StoreConfig], clock: Clock) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._turn = asyncio.Lock()
        # Whether an earlier life, or a sweep that failed, may have left something to do.
        self._owed = True

    async def watch(self) -> None:
        """Sweep again and again, for ever."""
        await asyncio.sleep(AFTER_START_S)
        while True:
            await guarded(self._sweep_when_due())
            await asyncio.sleep(SWEEP_AGAIN_S)

    async def sweep(self, *, compact: bool = False) -> Swept:
        """Erase what is past its time, and what somebody asked to forget.

        With `compact` the file is written anew at once when anything was erased.

        Raises:
            StoreError: what was done stays, the rest is taken up by the next sweep.
        """
        async with self._turn:
            self._owed = True
            now, config = self._clock.now(), self._config()
            text, output = config.keep_text_days, config.keep_output_days
            rows = await self._store.erase_due(_before(now, text))
            sizes = await self._store.sizes()
            files = size = 0
            if sizes.pending or output is not None:
                dropped = await self._store.drop_files(_before(now, output))
                files, size = dropped.files, dropped.bytes
            compacted, why = None, ""
            if compacts(sizes, now) or (compact and sizes.pending):
                try:
                    compacted = await self._store.compact()
                except StoreError as error:
                    why = error.message
            self._owed = bool(why)
            return Swept(rows=rows, files=files, bytes=size, compacted=compacted, not_compacted=why)

    async def compact(self) -> Compacted:
        """Write the file anew now.

        Raises:
            DiskFull: there is no room for a second copy.
            StoreError: it failed; the store is as it was.
        """
        async with self._turn:
            return await self._store.compact()

    async def _sweep_when_due(self) -> None:
        config = self._config()
        # Without a time to keep texts nothing comes due, and the database may stay closed.
        if self._owed or (config.keep_text_days, config.keep_output_days) != (None, None):
            swept = await self.sweep()
            if swept.not_compacted:
                raise StoreError(swept.not_compacted)


def _before(now: datetime, days: int | None) -> datetime | None:
    return None if days is None else now - timedelta(days=days)
