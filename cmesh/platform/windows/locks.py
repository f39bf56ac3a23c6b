"""Locks by LockFileEx (fileapi.h), which end with the handle and with the process.

Windows' locks are mandatory: a locked byte cannot be read by others. So the byte that is locked
lies far behind any content; a range beyond the end of a file is allowed.
"""

import ctypes
from ctypes import wintypes

from cmesh.platform.windows.kernel import handle_of, kernel32, last_error

__all__ = ["PLACE", "lock", "lock_shared", "unlock"]

PLACE = 2**62
"""The offset of the byte that is locked."""

_FAIL_IMMEDIATELY, _EXCLUSIVE = 1, 2  # minwinbase.h: LOCKFILE_*
_LOCK_VIOLATION, _IO_PENDING = 33, 997  # winerror.h


class Overlapped(ctypes.Structure):
    """OVERLAPPED of minwinbase.h; the two offsets say where the range begins."""

    _fields_ = (
        ("Internal", ctypes.c_void_p),
        ("InternalHigh", ctypes.c_void_p),
        ("Offset", wintypes.DWORD),
        ("OffsetHigh", wintypes.DWORD),
        ("hEvent", wintypes.HANDLE),
    )


def lock(fd: int) -> None:
    """Take the lock alone, at once.

    Raises:
        BlockingIOError: another handle has it.
    """
    _take(fd, _EXCLUSIVE | _FAIL_IMMEDIATELY)


def lock_shared(fd: int) -> None:
    """Take the lock with others who share it, at once.

    Raises:
        BlockingIOError: another handle has it alone.
    """
    _take(fd, _FAIL_IMMEDIATELY)


def unlock(fd: int) -> None:
    """Give back a lock that was taken by this descriptor."""
    place = _place()
    if not kernel32().UnlockFileEx(handle_of(fd), 0, 1, 0, ctypes.byref(place)):
        raise last_error("unlock a file")


def _take(fd: int, flags: int) -> None:
    place = _place()
    if kernel32().LockFileEx(handle_of(fd), flags, 0, 1, 0, ctypes.byref(place)):
        return
    if ctypes.get_last_error() in (_LOCK_VIOLATION, _IO_PENDING):
        raise BlockingIOError(_LOCK_VIOLATION, "another process has locked the file")
    raise last_error("lock a file")


def _place() -> Overlapped:
    return Overlapped(Offset=PLACE & 0xFFFFFFFF, OffsetHigh=PLACE >> 32)
