"""Backups from outside the daemon: a store written into one file, and put back from it.

Joins the store's archive with the control socket; starts no daemon. INVARIANT: a store that is
replaced is whole under another name until somebody deletes it.
"""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmesh.clock import SystemClock
from cmesh.errors import StoreBusy, StoreDamaged, StoreError, UsageError
from cmesh.interfaces.audit import copied
from cmesh.model import TaskId
from cmesh.paths import ensure_private_dir
from cmesh.store.archive import Contents, pack, require_backup, unpack
from cmesh.store.audit import locked
from cmesh.store.head import StoreLock
from cmesh.store.replacing import finish, replace_store, replacing_turn
from cmesh.store.snapshot import FILE_NAME
from cmesh.store.store import Store

__all__ = ["REPLACED", "RESTORING", "Restored", "back_up", "require_backup", "restore"]

RESTORING, REPLACED = "store.restoring", "store.replaced"
"""Beside the store: one that is being put back, and the one it took the place of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A store that was put back; `replaced` = where the one before is now, if there was one."""

    contents: Contents
    incarnation: str
    replaced: Path | None


def back_up(store: Path, file: Path, *, force: bool) -> Contents:
    """Write a store into a new file, with or without a running daemon. Blocks.

    Raises:
        UsageError: the file is there already, or its directory is not.
        StoreError: there is no store, no room, or it cannot be read.
    """
    if not file.parent.is_dir():
        raise UsageError(f"`{file.parent}` is no directory", hint="make it first")
    if file.is_dir() or (file.exists() and not force):
        raise UsageError(f"`{file}` is there already", hint="name another, or say --force")
    with copied(store) as (copy, _):
        return pack(copy, store / "blobs", file)


def restore(file: Path, state: Path, node: str) -> Restored:
    """Put the store of a backup in the place of a state directory's. Blocks.

    It gets a new incarnation, so that peers notice that this node may have forgotten tasks.

    Raises:
        StoreBusy: a daemon runs.
        StoreDamaged: the backup is not as it was written.
        StoreError: there is no room, or the disk failed; the store is as it was.
    """
    ensure_private_dir(state)
    store, making = state / "store", state / RESTORING
    with replacing_turn(store):
        finish(store)
    if locked(store):
        raise StoreBusy(f"a daemon has `{store}` open", hint="`cmesh down`, then again")
    ensure_private_dir(store)
    forgotten = asyncio.run(_forgotten_in(store, node))
    lock = StoreLock(store)
    lock.acquire()
    try:
        shutil.rmtree(making, ignore_errors=True)
        contents = unpack(file, making)
        incarnation = asyncio.run(_renewed(making, node, contents, forgotten))
        replaced = _put_in_place(making, store, state)
    except OSError as error:
        raise StoreError(f"`{store}` was not restored: {error.strerror}") from error
    finally:
        lock.release()
        shutil.rmtree(making, ignore_errors=True)
    return Restored(contents=contents, incarnation=incarnation, replaced=replaced)


async def _forgotten_in(store: Path, node: str) -> list[TaskId]:
    """Return what was forgotten in the store that is replaced; none when it cannot be read."""
    if not (store / FILE_NAME).exists():
        return []
    try:
        opened = await Store.open(store, clock=SystemClock(), node=node)
    except StoreError:  # that is why it is replaced, perhaps
        return []
    try:
        return await opened.forgotten()
    finally:
        await opened.close()


async def _renewed(
    directory: Path, node: str, contents: Contents, forgotten: Sequence[TaskId]
) -> str:
    """Open what came out of a backup as a daemon would, check it, and give it another name."""
    store = await Store.open(directory, clock=SystemClock(), node=node)
    try:
        found = await store.verify()
        if found.finding is not None:
            row, what = found.bad_seq, found.finding.what
            raise StoreDamaged(f"the backup does not verify: row {row}: {what}")
        await store.renew({"backup_head_seq": contents.head_seq, "by": "cmesh audit restore"})
        if forgotten:
            await store.forget_again(forgotten, {"program": "cmesh audit restore"})
            await store.erase_due(None)
            await store.drop_files(None)
            await store.compact()
        return store.incarnation
    finally:
        await store.close()


def _put_in_place(making: Path, store: Path, state: Path) -> Path | None:
    kept = _free_name(state)
    replace_store(making, store, kept)
    if (kept / FILE_NAME).exists():
        return kept
    shutil.rmtree(kept, ignore_errors=True)  # there was none; it was made for its lock
    return None


def _free_name(state: Path) -> Path:
    number = 1
    while (state / f"{REPLACED}-{number}").exists():
        number += 1
    return state / f"{REPLACED}-{number}"
