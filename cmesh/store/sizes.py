"""How large the database is, and what in it waits to be compacted. Only reads."""

from dataclasses import dataclass

from cmesh.store.exchange import Reader
from cmesh.store.rows import read_rows

__all__ = ["Sizes", "sizes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The database's size.

    Attributes:
        free_bytes: of blocks that hold nothing now, but may hold what was erased.
        pending: texts were erased since it was compacted last.
        compacted_at: when that was, in microseconds since 1970; None = never.
    """

    bytes: int
    free_bytes: int
    pending: bool
    compacted_at: int | None


def sizes(cursor: Reader) -> Sizes:
    """Return the sizes as of the last checkpoint."""
    [size] = read_rows(
        cursor, "SELECT block_size, total_blocks, free_blocks FROM pragma_database_size()"
    )
    [last] = read_rows(
        cursor,
        "SELECT max(seq) FILTER (kind = 'texts_erased') AS erased,"
        " max(seq) FILTER (kind = 'store_compacted') AS compacted,"
        " epoch_us(max(ts) FILTER (kind = 'store_compacted')) AS at FROM audit_row"
        " WHERE kind IN ('texts_erased', 'store_compacted')",
    )
    return Sizes(
        bytes=size["total_blocks"] * size["block_size"],
        free_bytes=size["free_blocks"] * size["block_size"],
        pending=last["erased"] is not None and last["erased"] > (last["compacted"] or 0),
        compacted_at=last["at"],
    )
