"""The fixes that lose nothing: what each would do, and doing it after another look.

Between the look and the fix a daemon may have started, so each fix looks again itself.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from cmesh.errors import CmeshError, ConfigError, StoreBusy
from cmesh.locks import FileLock, Held, is_locked
from cmesh.setup.doctor.finding import Finding
from cmesh.store.head import STORE_LOCK

__all__ = ["describe", "mend"]

CONNECT_LIMIT_S = 2.0

Others = Mapping[str, Callable[[str], None]]
"""Fixes that other parts know, by `Finding.fix`; each is given the target."""


def describe(finding: Finding) -> str:
    """Return in a few words what the fix would do."""
    if finding.fix == "mode":
        return finding.next
    if finding.fix == "agent":
        return f"bring cmesh's entry of {finding.target} up to date"
    if finding.fix == "service":
        return f"write {finding.target} anew"
    return f"remove {finding.target}"


def mend(finding: Finding, state: Path, others: Others) -> None:
    """Do what `describe` says. Blocks on the disk.

    Raises:
        CmeshError: it cannot be done, or is not needed any more; nothing was changed.
    """
    try:
        if finding.fix == "mode":
            _close(Path(finding.target), finding.bits)
        elif finding.fix == "socket":
            _unlink_socket(Path(finding.target), state)
        elif finding.fix == "mark":
            _unlink_mark(Path(finding.target), state)
        elif finding.fix in others:
            others[finding.fix](finding.target)
        else:
            raise CmeshError(f"there is no fix for `{finding.check}`", hint=finding.next)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ConfigError(f"`{finding.target}`: {why}", hint=finding.next) from error


def _close(path: Path, bits: int) -> None:
    """Take permission bits from a file or directory, never from what a link leads to."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.fchmod(handle, mode & ~bits)
    finally:
        os.close(handle)


def _unlink_socket(path: Path, state: Path) -> None:
    if is_locked(state / "store" / STORE_LOCK):
        raise StoreBusy("a daemon has started meanwhile", hint="cmesh status")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_LIMIT_S)
        with contextlib.suppress(ConnectionRefusedError):
            connection.connect(os.fspath(path))
            raise StoreBusy("somebody serves the socket now", hint="cmesh status")
    path.unlink()


def _unlink_mark(path: Path, state: Path) -> None:
    lock = FileLock(state / "replace.lock")
    try:
        lock.acquire()
    except Held as error:
        raise StoreBusy(f"{error} replaces the daemon now", hint="cmesh status") from error
    try:
        path.unlink(missing_ok=True)
    finally:
        lock.release()
