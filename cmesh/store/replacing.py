"""A whole store put in the place of another, which keeps its files under another name. Blocks.

Where the system swaps two names in one step, that is the step. Elsewhere there is a moment without
a store. Who replaces one has `replacing_turn` over it, and who opens one looks for it, and takes its
lock, in the same turn: so nobody begins a new store meanwhile, nor takes what comes for what a kill left.
"""

import contextlib
import shutil
from collections.abc import Generator
from pathlib import Path

from cmesh.errors import StoreBusy
from cmesh.locks import FileLock, Held
from cmesh.paths import sync
from cmesh.platform import files

__all__ = ["COMING", "TURN_FILE", "finish", "replace_store", "replacing_turn"]

COMING = ".restored"
"""Added to a store's name: the whole one that is about to have that name."""

TURN_FILE = "opening.lock"
"""Beside a store; it stays."""

TURN_LIMIT_S = 10.0
"""How long another process may take for its part; that is a few names."""


@contextlib.contextmanager
def replacing_turn(store: Path) -> Generator[None]:
    """Keep every other process from replacing, finishing or opening the store `store`.

    Raises:
        StoreBusy: another one does that, and does not end.
    """
    store.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(store.parent / TURN_FILE)
    try:
        lock.acquire_within(TURN_LIMIT_S)
    except Held as error:
        raise StoreBusy(f"`{store}` is being replaced or opened by {error}") from error
    try:
        yield
    finally:
        lock.release()


def replace_store(fresh: Path, store: Path, kept: Path) -> None:
    """Give `fresh` the name `store`, and what had that name the name `kept`; all on one disk.

    Raises:
        StoreBusy: another process opens the store, and does not end.
        OSError: the disk refuses. What is whole stays whole, under one of the names.
    """
    with replacing_turn(store):
        # INVARIANT: first a name that nothing deletes, then the swap.
        fresh.rename(kept)
        sync(store.parent)
        if not files.exchange(kept, store):
            coming = _coming(store)
            kept.rename(coming)
            sync(store.parent)
            store.rename(kept)
            sync(store.parent)
            finish(store)
        sync(store.parent)


def finish(store: Path) -> None:
    """Do the last step of a replacing that was killed; or undo one that had hardly begun.

    INVARIANT: in a `replacing_turn`: what is coming is then nobody's who still runs.

    Raises:
        OSError: the disk refuses.
    """
    coming = _coming(store)
    if not coming.is_dir():
        return
    if store.exists():
        shutil.rmtree(coming)  # the backup that it came out of is where it was
        return
    coming.rename(store)
    sync(store.parent)


def _coming(store: Path) -> Path:
    return store.with_name(f"{store.name}{COMING}")
