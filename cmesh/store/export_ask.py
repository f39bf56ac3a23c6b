"""Asking one database that was made of exports: as `cmesh sql` asks, in its confined process."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import _duckdb as duckdb

from cmesh.store import queries
from cmesh.store.confined import Confinement, QueryLimits
from cmesh.store.records import SqlRows
from cmesh.store.snapshot import FILE_NAME, Snapshot, copy_files
from cmesh.store.sql import Copying, Query, QueryProcess, SqlValue

__all__ = ["OpenedExports"]

_SEQ = 1  # the file never changes, so any number that is always the same


class OpenedExports:
    """A database of `cmesh.store.export_read.load`, in its directory, until the block ends.

    Belongs to one event loop. The process sees a link to the file, and may not write to it.
    """

    def __init__(self, database: Path, limits: QueryLimits | None = None) -> None:
        self._database = database
        self._process = QueryProcess(
            Copying(
                confinement=Confinement(database.parent),
                fill=self._fill,
                rest=_nothing,
                columns=self._columns,
            ),
            limits,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the process; for who has no block."""
        await self._process.close()

    async def ask(self, text: str, limit: int, parameters: Sequence[SqlValue] = ()) -> SqlRows:
        """Run one SELECT.

        Raises:
            QueryRefused: the SQL is wrong, or a limit was reached.
        """
        return await self._process.run(Query(text=text, parameters=parameters, limit=limit), _SEQ)

    async def _fill(self, directory: Path) -> Snapshot:
        # Beside the database, so on the same file system; one without links gets a copy.
        try:
            (directory / FILE_NAME).hardlink_to(self._database)
        except OSError:
            await asyncio.to_thread(copy_files, [self._database], directory)
        return Snapshot(directory=directory, seq=_SEQ)

    async def _columns(self) -> dict[str, list[str]]:
        with duckdb.connect(str(self._database), read_only=True) as connection:
            return queries.columns(connection)


async def _nothing() -> None:
    """There is nothing to give up: the database is the only one there will be."""
