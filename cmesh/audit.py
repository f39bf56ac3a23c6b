"""The audit for Python programs and notebooks: a DuckDB connection on a copy of it.

    import cmesh.audit

    audit = cmesh.audit.connect()
    audit.sql("SELECT state, count(*) FROM tasks GROUP BY ALL").show()

Views and columns are those of `cmesh sql`; see docs/audit-views.md. Your program runs with your
rights: unlike `cmesh sql`, nothing is confined here.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

# The whole package: a connection has `sql` and relations only once this was imported.
from duckdb import DuckDBPyConnection

from cmesh.errors import UsageError
from cmesh.interfaces.audit import copied
from cmesh.interfaces.exports import opened
from cmesh.paths import state_dir
from cmesh.store.audit import require_store
from cmesh.store.library import connect_copy, connect_file

__all__ = ["connect", "connect_exports"]

_T = TypeVar("_T")


def connect(state: str | Path | None = None) -> DuckDBPyConnection:
    """Return a read-only DuckDB connection on this node's audit as it is now. Blocks.

    It reads a copy, with or without a running daemon, which sees nothing of it later: call again
    for newer rows. The copy has no name any more and is gone with the connection, which is the
    caller's to close. Times are in UTC. `state` is the state directory; None = `CMESH_STATE_DIR`
    or the user's own. Works inside a running event loop too, and stops it meanwhile.

    Raises:
        StoreBusy: somebody has the store open who hands out no copy.
        StoreDamaged: the store cannot be read, or its journal does not follow.
        StoreError: there is no store, or no room for a copy.
        SchemaTooNew: a newer cmesh wrote it.
    """
    store = (state_dir() if state is None else Path(state).absolute()) / "store"

    def work() -> DuckDBPyConnection:
        require_store(store)
        with copied(store) as (copy, _live):
            return connect_copy(copy)

    return _aside(work)


def connect_exports(*targets: str | Path, verify: bool = False) -> DuckDBPyConnection:
    """Return a read-only DuckDB connection on exports by `cmesh audit export`. Blocks.

    `targets` are directories or `s3://bucket/prefix`. The views have a first column `node`. All
    manifests' signatures and the digests of the files that are read are checked; with `verify`
    also what `cmesh audit open --verify` checks.

    Raises:
        StoreDamaged: an export is not as it was written.
        StoreError: there is none, or it cannot be read.
        UsageError: no target, or one of another form.
    """
    if not targets:
        raise UsageError("no export to open", hint="name directories or `s3://bucket/prefix`")

    def work() -> DuckDBPyConnection:
        with opened([str(one) for one in targets], verify=verify, own=state_dir()) as found:
            return connect_file(found.database, found.finding)

    return _aside(work)


def _aside(work: Callable[[], _T]) -> _T:
    """Run in a thread: asking a daemon takes an event loop, and a notebook has one already."""
    with ThreadPoolExecutor(1, thread_name_prefix="cmesh-audit") as thread:
        return thread.submit(work).result()
