"""What the answer of a system call that swaps two names means."""

import ctypes
import errno
import os
from collections.abc import Callable

__all__ = ["swapped"]

_CANNOT = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


def swapped(call: Callable[[], int]) -> bool:
    """Make the call, which sets `errno` of ctypes; False where the system or the disk has none.

    Raises:
        OSError: it failed for another reason.
    """
    try:
        failed = call()
    except AttributeError:  # the system's library is older than the call
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number))
