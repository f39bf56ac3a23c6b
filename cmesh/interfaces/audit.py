"""Checking an audit store from outside its daemon: at rest, or on a copy the daemon hands out.

Joins the store's check with the control socket. It changes nothing in the store and starts
no daemon.
"""

import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cmesh.errors import DaemonError, DaemonNotRunning, StoreBusy
from cmesh.interfaces.client import run
from cmesh.paths import control_socket
from cmesh.store.audit import (
    Report,
    Tell,
    check_copy,
    copy_at_rest,
    locked,
    read_copy,
    require_store,
)
from cmesh.store.exchange import Reader
from cmesh.store.head import read_head

__all__ = ["Checked", "Tell", "check_store", "copied", "reading"]

SNAPSHOTS = "snapshots"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check found, and on what it was made; `live` = on a copy of the daemon's."""

    report: Report
    live: bool


def check_store(
    store: Path, tell: Tell | None = None, also: Callable[[Reader], None] | None = None
) -> Checked:
    """Check the store in a directory. Blocks, for about 20 s a million rows.

    `also` is given the copy's rows for a check of its own, see `check_copy`.

    Raises:
        StoreBusy: somebody has it open who hands out no copy.
        StoreError: there is none, it cannot be read, or there is no room for a copy.
    """
    require_store(store)
    # INVARIANT: read before the copy is made, which then has at least the row it names.
    head = read_head(store)
    with copied(store) as (copy, live):
        report = check_copy(
            copy, head, outputs=store / "blobs", whole=not live, tell=tell, also=also
        )
    return Checked(report=report, live=live)


@contextmanager
def reading(store: Path) -> Generator[Reader]:
    """Give the rows of a copy of the store in a directory, as they are now; unchecked. Blocks.

    Raises:
        StoreBusy: somebody has it open who hands out no copy.
        StoreError: there is none, it cannot be read, or there is no room for a copy.
    """
    require_store(store)
    made = _copy_of_daemon(store) if locked(store) else _copy_at_rest(store)
    with made as copy, read_copy(copy) as cursor:
        yield cursor


@contextmanager
def copied(store: Path, export_to: str = "") -> Generator[tuple[Path, bool]]:
    """Give a copy of a store, the block's to change, and whether a daemon made it.

    With `export_to` a daemon writes down first that the copy goes there.

    Raises:
        StoreBusy: somebody has it open who hands out no copy.
        StoreError: there is no room for a copy, or it took too long.
    """
    live = locked(store)
    with _copy_of_daemon(store, export_to) if live else _copy_at_rest(store) as copy:
        yield copy, live


@contextmanager
def _copy_at_rest(store: Path) -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="audit-", dir=_place(store)) as directory:
        copy_at_rest(store, Path(directory))
        yield Path(directory)


@contextmanager
def _copy_of_daemon(store: Path, export_to: str = "") -> Generator[Path]:
    try:
        view = run(control_socket(store.parent), lambda client: client.copy_store(export_to))
    except DaemonNotRunning as error:
        raise StoreBusy(f"`{store}` is in use by a process that is no daemon of it") from error
    copy = Path(view.directory)
    if copy.parent != store / SNAPSHOTS:
        raise DaemonError("the running daemon is not the one of this store")
    try:
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _place(store: Path) -> Path | None:
    """Return a directory on the same disk, which may share blocks; None = the system's own.

    What a killed check leaves there, the next start of the daemon removes.
    """
    place = store / SNAPSHOTS
    try:
        place.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return place
