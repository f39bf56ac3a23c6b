"""A lock file names who has it locked, and nobody else."""

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cmesh.locks import FileLock, Held, holder

LIMIT_S = 20.0


def test_the_holder_is_known_while_the_lock_is_held_only(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder(path) is None
    lock = FileLock(path)
    lock.acquire()
    assert holder(path) == os.getpid()
    lock.release()
    assert path.read_text("ascii") == f"{os.getpid()}\n"
    assert holder(path) is None


def test_who_waits_for_a_lock_has_it_once_it_is_given_back_or_is_told_whose_it_is(
    tmp_path: Path,
) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    first.acquire()
    with pytest.raises(Held, match=f"process {os.getpid()}"):
        second.acquire_within(0)
    with ThreadPoolExecutor(1) as other:
        waits = other.submit(second.acquire_within, LIMIT_S)
        first.release()
        waits.result(LIMIT_S)
    assert holder(tmp_path / "lock") == os.getpid()
    second.release()


def test_a_lock_that_was_given_back_is_free_though_a_child_has_the_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    taken = fcntl.flock

    def seen(fd: int, operation: int) -> None:
        taken(fd, operation)
        if operation & fcntl.LOCK_EX:
            kept.append(os.dup(fd))  # what a fork does

    monkeypatch.setattr(fcntl, "flock", seen)
    lock = FileLock(tmp_path / "lock")
    for _ in range(2):
        lock.acquire()
        lock.release()
    for fd in kept:
        os.close(fd)
    assert len(kept) == 2
