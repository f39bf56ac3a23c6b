"""A lock file names who has it locked, and nobody else."""

import os
from pathlib import Path

from cmesh.locks import FileLock, holder


def test_the_holder_is_known_while_the_lock_is_held_only(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder(path) is None
    lock = FileLock(path)
    lock.acquire()
    assert holder(path) == os.getpid()
    lock.release()
    assert path.read_text("ascii") == f"{os.getpid()}\n"
    assert holder(path) is None
