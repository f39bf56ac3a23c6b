"""Writing what this machine holds of another's audit to a file, for that machine to check by."""

import os
from pathlib import Path
from typing import IO

from cmesh.clock import SystemClock
from cmesh.errors import AuditUnproven, DiskFull, UnknownPeer, UsageError
from cmesh.interfaces.against import own_keys
from cmesh.interfaces.audit import reading
from cmesh.model import NodeId, host_label
from cmesh.nearest import did_you_mean
from cmesh.store import held, receipts_file
from cmesh.store.exchange import Reader
from cmesh.store.receipts_file import Header
from cmesh.text import one_line

__all__ = ["write_file", "write_receipts"]


def write_receipts(store: Path, peer: str, file: IO[str]) -> int:
    """Write all that the store holds of a peer's log; return how many heads and ends. Blocks.

    Raises:
        UnknownPeer: the store knows no such peer, or several.
        StoreError: the store cannot be read.
    """
    with reading(store) as cursor:
        peer_id, name = _named(cursor, peer)
        own = own_keys(cursor, store.parent)
        if not own:
            raise AuditUnproven(
                "this store does not say which node it is of",
                hint="run `cmesh up` once, so that the node comes up",
            )
        header = Header(
            by=own[-1][0],
            by_name=_own_name(cursor),
            of=peer_id,
            of_name=name,
            made_at=SystemClock().now(),
        )
        return receipts_file.write(file, header, receipts_file.lines_of(cursor, peer_id))


def write_file(store: Path, peer: str, path: Path) -> int:
    """Write a file that is nobody's yet, its owner's alone; see `write_receipts`.

    Raises:
        UsageError: the file is there already, or cannot be made.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            f"`{one_line(str(path), 200)}` cannot be made: {error.strerror}"
        ) from error
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            return write_receipts(store, peer, file)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DiskFull(f"the receipts cannot be written: {error.strerror}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _named(cursor: Reader, name: str) -> tuple[NodeId, str]:
    known = held.peers(cursor)
    found = [(node_id, full) for node_id, full in known if name in (node_id, full)]
    found = found or [one for one in known if name == one[1].partition(".")[0]]
    if len(found) == 1:
        node_id, full = found[0]
        return node_id, host_label(full)
    if found:
        ids = "` or `".join(node_id for node_id, _ in found)
        raise UnknownPeer(f"`{name}` means more than one peer", hint=f"name `{ids}`")
    labels = sorted({host_label(full) for _, full in known})
    raise UnknownPeer(
        f"this store knows no peer `{name}`", hint=did_you_mean(name, labels) or "run `cmesh peers`"
    )


def _own_name(cursor: Reader) -> str:
    row = cursor.execute("SELECT node FROM store_row").fetchone()
    return str(row[0]) if row else ""
