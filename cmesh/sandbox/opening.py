"""Opens the directory of a task by the name that policy has checked, and no other.

Standard library and `cmesh.beneath` only: the shim loads it.
"""

import errno
import os

from cmesh.beneath import identity, open_root

__all__ = ["open_directory"]


def open_directory(path: str, judged: "tuple[int, int] | None" = None) -> int:
    """Return a descriptor (`O_PATH`) of a directory; `path` is absolute, its links resolved.

    INVARIANT: policy decided about the real path. Links were followed before that, so one
    found now was put there since, and is refused wherever it leads.

    `judged` are device and inode of the directory that policy was asked about; None = whatever
    has that name.

    Raises:
        OSError: it is not there, is no directory, or part of the path is a link now; it is
            another directory than the one that was judged (ESTALE).
    """
    try:
        fd = open_root(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "part of it is a link now", path) from None
        raise
    if judged in {None, identity(fd)}:
        return fd
    os.close(fd)
    raise OSError(errno.ESTALE, "it is another directory now", path)
