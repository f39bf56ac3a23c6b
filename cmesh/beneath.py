"""Opens what is below a root so that no link, however it is swapped, leads out of it.

openat2(2) with RESOLVE_BENEATH: the kernel judges each step while it makes it, so there is
nothing between a check and a use. Standard library only: a task's launcher loads it too.
"""

import ctypes
import errno
import os
import stat

__all__ = [
    "Judged",
    "identity",
    "open_beneath",
    "open_file",
    "open_judged",
    "open_part",
    "open_root",
]

# linux/openat2.h; the number of openat2 is the same on every architecture (Linux 5.6).
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

_PLACE = getattr(os, "O_PATH", 0) | os.O_CLOEXEC
"""A place, not its content: O_PATH needs no right to read it."""

_TRIES = 128
"""The kernel says EAGAIN when a rename elsewhere let it doubt a `..`; then it is asked again."""


Judged = tuple[str, str, int, int]
"""A directory that was judged: absolute path of its root, without links; its path below that,
empty for the root itself; its device; its inode. Numbers and text, so that it can wait for hours
and outlive a daemon, as no descriptor can.
"""


class _OpenHow(ctypes.Structure):
    """`struct open_how` in its first form."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def open_root(path: str) -> int:
    """Open a directory by its absolute path, in which no component is a link.

    The caller owns the descriptor, which holds the directory and gives no right to read it.

    Raises:
        OSError: it is not there, no directory, or a link stands in the path (ELOOP); the
            kernel has no openat2 (ENOSYS).
    """
    if not path.startswith("/"):
        raise _error(errno.EINVAL, path)
    return _open(-1, path, _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)


def open_beneath(root: int, relative: str) -> int:
    """Open a directory at or below the one that `root` holds; links that stay below work.

    An empty `relative` is the root itself. The caller owns the descriptor.

    Raises:
        OSError: the way leads out, by a link, an absolute name or `..` (EXDEV); it is not
            there or no directory; the kernel has no openat2 (ENOSYS).
    """
    return _open(root, relative or ".", _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)


def open_part(root: int, relative: str) -> int:
    """Open a file or directory below the one that `root` holds, by its very name: no link works.

    For names that somebody chose because of what they are not: a link below could lead to just
    that. The caller owns the descriptor, which gives no right to read what it holds.

    Raises:
        OSError: it is not there; part of the name is a link (ELOOP); it leads out (EXDEV); it is
            a pipe, a socket or a device (EINVAL); the kernel has no openat2 (ENOSYS).
    """
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    fd = _open(root, relative, resolve, _PLACE)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return fd
    os.close(fd)
    raise _error(errno.EINVAL, relative)


def open_file(root: int, relative: str) -> int:
    """Open a file for reading, below the directory that `root` holds, by its very name.

    As `open_part`; a pipe without a writer is no file, and nobody waits for it. The caller owns
    the descriptor.

    Raises:
        OSError: as `open_part`; it may not be read (EACCES).
    """
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    fd = _open(root, relative, resolve, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise _error(errno.EINVAL, relative)


def open_judged(judged: Judged) -> int:
    """Open again the directory that was judged.

    What is opened is compared, and what was compared is what the descriptor holds.

    Raises:
        OSError: as `open_root` and `open_beneath`; it is another directory now (ESTALE).
    """
    root, below, device, inode = judged
    holder = open_root(root)
    try:
        fd = open_beneath(holder, below)
    finally:
        os.close(holder)
    if identity(fd) != (device, inode):
        os.close(fd)
        raise _error(errno.ESTALE, f"{root}/{below}".rstrip("/"))
    return fd


def identity(fd: int) -> "tuple[int, int]":
    """Return what tells an open directory from every other one: device and inode."""
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


def _open(root: int, path: str, resolve: int, flags: int = _PLACE | os.O_DIRECTORY) -> int:
    name = os.fsencode(path)
    if b"\0" in name:
        raise _error(errno.EINVAL, path)
    how, code = _OpenHow(flags, 0, resolve), errno.EAGAIN
    for _ in range(_TRIES):
        fd = _openat2(root, name, how)
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in {errno.EAGAIN, errno.EINTR}:
            break
    raise _error(code, path)


def _openat2(root: int, name: bytes, how: _OpenHow) -> int:
    size = ctypes.c_size_t(ctypes.sizeof(how))
    answer: int = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(root),
        ctypes.c_char_p(name),
        ctypes.byref(how),
        size,
    )
    return answer


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
