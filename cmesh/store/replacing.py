"""A whole store put in the place of another, which keeps its files under another name. Blocks.

Where the system swaps two names in one step, that is the step. Elsewhere there is a moment without
a store, which `finish` ends: whoever opens a store calls it first, so that none begins a new one.
"""

import contextlib
import shutil
from pathlib import Path

from cmesh.paths import sync
from cmesh.platform import files

__all__ = ["COMING", "finish", "replace_store"]

COMING = ".restored"
"""Added to a store's name: the whole one that is about to have that name."""


def replace_store(fresh: Path, store: Path, kept: Path) -> None:
    """Give `fresh` the name `store`, and what had that name the name `kept`; all on one disk.

    Raises:
        OSError: the disk refuses. What is whole stays whole, under one of the names.
    """
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

    Raises:
        OSError: the disk refuses.
    """
    coming = _coming(store)
    if not coming.is_dir():
        return
    if store.exists():
        shutil.rmtree(coming)  # the backup that it came out of is where it was
        return
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        coming.rename(store)
        sync(store.parent)


def _coming(store: Path) -> Path:
    return store.with_name(f"{store.name}{COMING}")
