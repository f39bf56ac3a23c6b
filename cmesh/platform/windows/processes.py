"""Other processes by a handle. INVARIANT: never by `os.kill`, which ends a process here."""

from ctypes import wintypes

from cmesh.platform.windows.kernel import kernel32, last_error, milliseconds

__all__ = ["wait_ended"]

_SYNCHRONIZE = 0x00100000  # winnt.h
_WAIT_OBJECT_0, _WAIT_TIMEOUT = 0, 0x102  # winbase.h
_INVALID_PARAMETER = 87  # winerror.h: no process has the number


def wait_ended(pid: int, limit_s: float) -> bool | None:
    """Wait for the end of a process. Blocks.

    Raises:
        OSError: the process is another user's.
    """
    library = kernel32()
    library.OpenProcess.restype = wintypes.HANDLE
    opened = library.OpenProcess(_SYNCHRONIZE, False, pid)  # noqa: FBT003 - not inherited
    if not opened:
        error = last_error("watch a process")
        if error.winerror == _INVALID_PARAMETER:
            return True
        raise error
    handle = wintypes.HANDLE(opened)
    try:
        waited = library.WaitForSingleObject(handle, milliseconds(limit_s))
        if waited not in (_WAIT_OBJECT_0, _WAIT_TIMEOUT):
            raise last_error("wait for a process")
        return waited == _WAIT_OBJECT_0
    finally:
        library.CloseHandle(handle)
