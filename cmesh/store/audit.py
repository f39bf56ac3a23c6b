"""Checking a whole store from its files, on a copy, without its daemon. Blocks.

The copy is DuckDB's to open and to bring the journal into; nothing in the store itself is
changed. While a daemon has the store only that daemon can copy it: see `locked`.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import _duckdb as duckdb

from cmesh.errors import StoreBusy, StoreDamaged, StoreError
from cmesh.locks import Held, shared
from cmesh.store.database import Database, translate
from cmesh.store.exchange import Reader
from cmesh.store.head import STORE_LOCK, Head
from cmesh.store.keyring import KeyUse, key_uses
from cmesh.store.records import Finding
from cmesh.store.recovery import bring_in
from cmesh.store.signatures import Signed, check_signatures
from cmesh.store.snapshot import FILE_NAME, copy_files
from cmesh.store.verify import verify

__all__ = [
    "Report",
    "Tell",
    "check_copy",
    "check_rows",
    "copy_at_rest",
    "locked",
    "read_copy",
    "require_store",
]

Tell = Callable[[str, int, int], None]
"""Told what is being looked at (`rows`, `signatures`, `outputs`), how far it is, and of how much."""

LOCKS = (STORE_LOCK, "database.lock")
_CHUNK_BYTES = 1024 * 1024
_SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check of a store found.

    Attributes:
        rows: of the log that were looked at; `head_seq` is the last acknowledged one.
        signatures, signatures_unknown: that are their signers'; whose signers' keys the store
            does not hold.
        outputs: files of output that are what their names say.
        prompts_left_out: prompts that the store's configuration leaves out.
        keys: that signatures were checked with, and who confirmed each.
        erased: rows whose texts were erased, as later rows of the chain say; `resealed`: those
            of them whose texts stood in the chain itself, so that a later row stands for them.
        finding: the first thing that is not as it was written; None = all is.
    """

    rows: int = 0
    head_seq: int = 0
    signatures: int = 0
    signatures_unknown: int = 0
    outputs: int = 0
    prompts_left_out: int = 0
    erased: int = 0
    resealed: int = 0
    finding: Finding | None = None
    keys: Sequence[KeyUse] = ()


def require_store(store: Path) -> None:
    """Raise `StoreError` unless there is a store in the directory."""
    if not (store / FILE_NAME).exists() and not any(store.glob("journal-*")):
        raise StoreError(
            f"there is no store in `{store}`",
            hint="name the directory `store` of a state directory, or a copy of one",
        )


def locked(store: Path) -> bool:
    """Say whether a process has the store open."""
    try:
        with _at_rest(store):
            return False
    except StoreBusy:
        return True


def copy_at_rest(store: Path, target: Path) -> None:
    """Copy a store that nobody has open, journal and head included.

    Raises:
        StoreBusy: somebody has it open.
        DiskFull: there is no room for a copy.
    """
    wal = store / f"{FILE_NAME}.wal"
    with _at_rest(store):
        there = [path for path in (store / FILE_NAME, wal, store / "head") if path.exists()]
        copy_files([*there, *sorted(store.glob("journal-*"))], target)


def check_copy(
    copy: Path,
    head: Head | None,
    *,
    outputs: Path,
    whole: bool,
    tell: Tell | None = None,
    also: Callable[[Reader], None] | None = None,
) -> Report:
    """Check a copy of a store, which is changed on the way, and the outputs in a directory.

    `head` is what was acknowledged before the copy was made; None = it cannot be read. With
    `whole` nobody wrote meanwhile, so no row may follow the head but from the journal. `also`
    is given the rows for a check of its own, unless the database itself cannot be believed.

    Raises:
        StoreDamaged: DuckDB cannot read the copy.
        SchemaTooNew: a newer cmesh wrote it.
    """
    if head is None:
        what = "its head file is missing or cannot be read, so lost rows could not be noticed"
        return Report(finding=Finding(what=what))
    told = tell or _nothing
    database = Database(copy)
    try:
        database.open()
        with _translated(database.path):
            report = _check(database, head, whole=whole, tell=told, also=also)
    finally:
        database.close()
    return report if report.finding is not None else _with_outputs(report, outputs, told)


@contextlib.contextmanager
def read_copy(copy: Path) -> Generator[Reader]:
    """Give the rows of a copy of a store, which is changed on the way; unchecked.

    Raises:
        StoreDamaged: DuckDB cannot read the copy, or its journal does not follow.
        SchemaTooNew: a newer cmesh wrote it.
    """
    database = Database(copy)
    try:
        database.open()
        with _translated(database.path):
            bring_in(database, database.top(), None)
            with database.reading() as cursor:
                yield cursor
    finally:
        database.close()


def check_rows(
    cursor: Reader, head: Head, *, last: int | None = None, tell: Tell | None = None
) -> Report:
    """Check the rows and signatures of an open database; no row may follow row `last`."""
    told = tell or _nothing
    found = verify(cursor, head, lambda done, total: told("rows", done, total))
    finding = found.finding or _stranger(cursor, last) or _books(cursor)
    signed = Signed()
    if finding is None:
        signed = check_signatures(cursor, lambda done, total: told("signatures", done, total))
        finding = signed.finding
    return Report(
        rows=found.rows,
        head_seq=head.seq,
        signatures=signed.fit,
        signatures_unknown=signed.unknown,
        prompts_left_out=found.prompts_left_out,
        erased=found.erased,
        resealed=found.resealed,
        finding=finding,
        keys=() if finding else key_uses(cursor, signed.by_key, signed.unknown_of),
    )


def _check(
    database: Database,
    head: Head,
    *,
    whole: bool,
    tell: Tell,
    also: Callable[[Reader], None] | None,
) -> Report:
    top = database.top()
    journaled = any(database.path.parent.glob("journal-*"))
    try:
        bring_in(database, top, None)
    except StoreDamaged as error:
        return Report(head_seq=head.seq, finding=Finding(what=error.message))
    last = head.seq if whole and not journaled else None
    with database.reading() as cursor:
        report = check_rows(cursor, head, last=last, tell=tell)
        if also is not None and (report.finding is None or report.finding.seq is not None):
            also(cursor)
        return report


def _stranger(cursor: Reader, last: int | None) -> Finding | None:
    row = cursor.execute("SELECT max(seq) FROM log").fetchone()
    if last is None or not row or (row[0] or 0) <= last:
        return None
    what = f"row {last} is the last that was acknowledged, and no journal has this one"
    return Finding(seq=last + 1, what=what)


def _books(cursor: Reader) -> Finding | None:
    """Compare the store's own name with the chain: it is in no row of the log."""
    made = cursor.execute(
        "SELECT l.canon, a.data->>'incarnation' FROM audit_row a JOIN log l USING (seq)"
        " WHERE a.seq = 1 AND a.kind = 'store_created'"
    ).fetchone()
    named = cursor.execute("SELECT incarnation, node FROM store_row").fetchall()
    if made is None or named == [(made[1], json.loads(made[0])["node"])]:
        return None
    return Finding(seq=1, kind="store_created", what="`store_row` names another store")


def _with_outputs(report: Report, directory: Path, tell: Tell) -> Report:
    files = sorted(path for path in directory.glob("??/*") if len(path.name) == _SHA256_DIGITS)
    for number, path in enumerate(files, start=1):
        if not _is_as_named(path):
            what = f"the output `{path.name}` is not what its name says"
            return replace(report, outputs=number - 1, finding=Finding(kind="output", what=what))
        tell("outputs", number, len(files))
    return replace(report, outputs=len(files))


def _nothing(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def _is_as_named(path: Path) -> bool:
    hasher = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                hasher.update(chunk)
    except FileNotFoundError:  # its time was over meanwhile
        return True
    return hasher.hexdigest() == path.name


@contextlib.contextmanager
def _at_rest(store: Path) -> Generator[None]:
    """Keep everybody from opening the store meanwhile.

    Raises:
        StoreBusy: somebody has it open.
    """
    with contextlib.ExitStack() as locks:
        for name in LOCKS:
            try:
                locks.enter_context(shared(store / name))
            except Held as error:
                raise StoreBusy(f"`{store}` is in use by {error}") from error
        yield


@contextlib.contextmanager
def _translated(path: Path) -> Generator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise translate(error, path) from error
