"""Locks by flock(2), which belong to the open file: a child that inherits it has it too."""

import fcntl

__all__ = ["lock", "lock_shared", "unlock"]


def lock(fd: int) -> None:
    """Take the lock alone, at once.

    Raises:
        BlockingIOError: another open file has it.
    """
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_shared(fd: int) -> None:
    """Take the lock with others who share it, at once.

    Raises:
        BlockingIOError: another open file has it alone.
    """
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def unlock(fd: int) -> None:
    """Give the lock back, whoever else has inherited the file."""
    fcntl.flock(fd, fcntl.LOCK_UN)
