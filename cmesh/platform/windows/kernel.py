"""The few functions of kernel32 that are called, with their types, and their errors.

Libraries are loaded at the first call, so that these modules can be read by tests on any system.
"""

import ctypes
from ctypes import wintypes
from functools import cache

__all__ = ["handle_of", "kernel32", "last_error", "milliseconds"]

_LONGEST_MS = 0xFFFFFFFE  # one more would be for ever


@cache
def kernel32() -> "ctypes.WinDLL":
    """Return kernel32, which keeps its error for `last_error`."""
    return ctypes.WinDLL("kernel32", use_last_error=True)


def handle_of(fd: int) -> wintypes.HANDLE:
    """Return the handle of an open descriptor, which stays the descriptor's."""
    import msvcrt  # there is none elsewhere

    return wintypes.HANDLE(msvcrt.get_osfhandle(fd))


def last_error(doing: str) -> OSError:
    """Return the error of this thread's last call that failed, as the exception for its number."""
    number = ctypes.get_last_error()
    return OSError(None, f"{doing}: {ctypes.FormatError(number).strip()}", None, number)


def milliseconds(limit_s: float) -> int:
    """Return a wait in the form of WaitForSingleObject, never its INFINITE (-1). Pure."""
    return min(max(int(limit_s * 1000), 0), _LONGEST_MS)
