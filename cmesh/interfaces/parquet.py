"""Rows of a query as a Parquet file, made in a confined process: no command loads DuckDB for it."""

import asyncio
import tempfile
from pathlib import Path

from cmesh.daemon.answers import SqlView
from cmesh.store.answer import Answer, AnswerFiles
from cmesh.store.confined import Confinement
from cmesh.store.records import SqlRows

__all__ = ["write_parquet"]

FILE_BYTES = 64 * 1024 * 1024
"""More than the rows of one answer can be as Parquet."""


def write_parquet(view: SqlView, path: Path) -> str:
    """Write the rows to a new file of mode 0600; say what is missing, empty = none. Blocks.

    Columns have the types that the query gave them; what Parquet has no word for is text.

    Raises:
        QueryRefused: no file could be made of them.
        DiskFull: there is no room.
    """
    rows = SqlRows(
        columns=tuple(view.columns),
        types=tuple(view.types),
        rows=view.rows,
        cut_by=view.cut_by,
        elapsed_ms=view.elapsed_ms,
        head_seq=view.head_seq,
    )
    with tempfile.TemporaryDirectory(prefix="cmesh-parquet-") as directory:
        made = asyncio.run(_written(rows, path, Path(directory)))
    if made.rows == len(view.rows):
        return ""
    return f"only the first {made.rows} rows: the file would be longer than {FILE_BYTES} bytes"


async def _written(rows: SqlRows, path: Path, directory: Path) -> Answer:
    async with AnswerFiles(Confinement(directory)) as files:
        return await files.write(rows, path, FILE_BYTES)
