"""Whole copies of the database, for queries and for other versions to try themselves on.

The main file changes with a checkpoint only, so it is copied once per checkpoint, while rows
come in as ever. Nothing may be written only while the WAL is copied, whose length has a cap
(`cmesh.store.database.WAL_CAP_BYTES`): how long that takes does not depend on the store.
"""

import asyncio
from functools import partial
from pathlib import Path

from cmesh.errors import StoreError
from cmesh.paths import ensure_private_dir
from cmesh.store.process import DatabaseProcess
from cmesh.store.snapshot import (
    FILE_NAME,
    Base,
    Mark,
    Snapshot,
    add_to_base,
    copy_base,
    discard,
    mark_of,
)

__all__ = ["Copies"]

ATTEMPTS = 5
"""How often the main file may change under its copying before that is given up."""


class Copies:
    """The copies of one store. They belong to one event loop; nothing here blocks it."""

    def __init__(self, directory: Path, process: DatabaseProcess) -> None:
        self._database = directory / FILE_NAME
        self._process = process
        self._snapshots = directory / "snapshots"
        self._count = 0
        self._base: Base | None = None
        self._turn = asyncio.Lock()

    @property
    def directory(self) -> Path:
        """Where all copies are made; what is in it does not outlive the daemon."""
        return self._snapshots

    async def take(self, directory: Path) -> Snapshot:
        """Fill a directory with a copy that is as of one commit, for reading alone.

        The copy shares its main file with others: who writes to it spoils those.

        Raises:
            StoreError: there is no room, the store is closed, or DuckDB fails.
        """
        async with self._turn:
            return await self._take(directory)

    async def whole(self) -> Path:
        """Return a directory with a copy that shares nothing, the caller's to change and remove.

        Raises:
            StoreError: as `take`.
        """
        self._count += 1
        directory = self._snapshots / f"snapshot-{self._count}"
        async with self._turn:
            await self._drop()
            try:
                await asyncio.to_thread(ensure_private_dir, self._snapshots)
                await asyncio.to_thread(directory.mkdir, mode=0o700)
                await self._take(directory)
            except BaseException:
                await asyncio.to_thread(discard, directory)
                raise
            finally:
                await self._drop()  # so that only the copy's own name is left of it
        return directory

    async def rest(self) -> None:
        """Give up the disk that only the next copy would need."""
        async with self._turn:
            await self._drop()

    async def forget(self) -> None:
        """Remove what an earlier life left."""
        await asyncio.to_thread(discard, self._snapshots)

    async def _take(self, directory: Path) -> Snapshot:
        add = partial(self._add, directory)
        for _ in range(ATTEMPTS):
            # Not held back: however often somebody asks, the WAL keeps its cap.
            made = await self._process.hold_still(add)
            if isinstance(made, Snapshot):
                return made
            with self._process.held_back():
                await self._renew(made)
                made = await self._process.hold_still(add)
                if isinstance(made, Snapshot):
                    return made
        raise StoreError("the database changed whenever it was copied", hint="try again")

    def _add(self, directory: Path, seq: int) -> Snapshot | Mark:
        """Add the WAL to the base; or say what a base would have to be of. Blocks."""
        mark = mark_of(self._database, self._process.checkpoints)
        if self._base is None or self._base.mark != mark:
            return mark
        return add_to_base(self._base, self._database, directory, seq)

    async def _renew(self, mark: Mark) -> None:
        await self._drop()
        self._count += 1
        directory = self._snapshots / f"base-{self._count}"
        # Rows come in meanwhile. That no checkpoint did is seen when the WAL is added.
        self._base = await asyncio.to_thread(copy_base, self._database, directory, mark)

    async def _drop(self) -> None:
        base, self._base = self._base, None
        if base is not None:
            await asyncio.to_thread(discard, base.directory)
