"""Whole copies of the database, for queries and for other versions to try themselves on."""

import asyncio
from pathlib import Path

from cmesh.store.process import DatabaseProcess
from cmesh.store.snapshot import FILE_NAME, Snapshot, forget_snapshots, take_snapshot

__all__ = ["Copies"]


class Copies:
    """The copies of one store."""

    def __init__(self, directory: Path, process: DatabaseProcess) -> None:
        self._directory = directory
        self._process = process
        self._snapshots = directory / "snapshots"
        self._count = 0

    async def take(self) -> Snapshot:
        """Return a copy that is as of one commit; the caller's to remove.

        Raises:
            StoreError: there is no room, or DuckDB fails.
        """
        self._count += 1
        name = f"snapshot-{self._count}"
        database = self._directory / FILE_NAME
        return await self._process.hold_still(
            lambda seq: take_snapshot(database, self._snapshots, name, seq)
        )

    async def forget(self) -> None:
        """Remove what an earlier life left."""
        await asyncio.to_thread(forget_snapshots, self._snapshots)
