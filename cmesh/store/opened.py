"""Asking one database that was made of exports: as `cmesh sql` asks, in its confined process."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import _duckdb as duckdb

from cmesh.store import queries
from cmesh.store.records import SqlRows
from cmesh.store.snapshot import Snapshot
from cmesh.store.sql import QueryProcess, SqlValue

__all__ = ["OpenedExports"]

_SEQ = 1  # the file never changes, so any number that is always the same


class OpenedExports:
    """A database of `cmesh.store.exports.load`, in its directory, until the block ends.

    Belongs to one event loop. The process may delete the file.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._process = QueryProcess(self._take, self._columns)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._process.close()

    async def ask(self, text: str, limit: int, parameters: Sequence[SqlValue] = ()) -> SqlRows:
        """Run one SELECT.

        Raises:
            QueryRefused: the SQL is wrong, or a limit was reached.
        """
        return await self._process.run(text, parameters, limit, _SEQ)

    async def _take(self) -> Snapshot:
        return Snapshot(directory=self._database.parent, seq=_SEQ)

    async def _columns(self) -> dict[str, list[str]]:
        with duckdb.connect(str(self._database), read_only=True) as connection:
            return queries.columns(connection)
