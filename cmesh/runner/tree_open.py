"""Opens what a tree has under its names, with no link on the way. Standard library only.

Others may write in the tree meanwhile: a folder that was one when it was listed can be a link by
the time a file in it is opened, and lead to what its task must not see.
"""

import errno
import os

__all__ = ["GONE", "Folders"]

GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL}
"""What went away, or became a link or something else, since it was listed."""

_PLACE = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


class Folders:
    """The folders below one root; keeps the last one open, since names come folder by folder."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._last, self._fd = "", -1

    def close(self) -> None:
        """Let go of what is open."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def of(self, name: str) -> int:
        """Return the folder that a name is in, good until the next call; not to be read.

        Raises:
            OSError: it is not there, or part of the way is a link or no folder (ENOTDIR).
        """
        folder = os.path.dirname(name)
        if self._fd < 0 or folder != self._last:
            self.close()
            self._fd, self._last = self._open(folder), folder
        return self._fd

    def open(self, name: str, flags: int = 0) -> int:
        """Open a file or folder to be read; a pipe that nobody writes to holds up nothing.

        Raises:
            OSError: as `of`; or it is a link itself.
        """
        fixed = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(os.path.basename(name) or ".", flags | fixed, dir_fd=self.of(name))

    def readlink(self, name: str) -> str:
        """Return where a link leads."""
        return os.readlink(os.path.basename(name), dir_fd=self.of(name))

    def _open(self, folder: str) -> int:
        fd = os.open(self._root, _PLACE)
        for part in folder.split("/") if folder else ():
            try:
                below = os.open(part, _PLACE | os.O_NOFOLLOW, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd
