"""Landlock: what files, TCP ports, signals and sockets a process may still reach.

Standard library only: the launcher loads it. Never allows what its caller did not list, and
never fails because a kernel is newer than this file. Source: landlock(7), linux/landlock.h.
"""

import errno
import os
import stat
import struct

from cmesh.sandbox import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["KNOWN_ABI", "PORTS_ABI", "SCOPES_ABI", "restrict", "supported_abi"]

KNOWN_ABI = 7
"""The newest ABI whose rights stand here; a newer kernel is used as this one."""

PORTS_ABI = 4
"""The first ABI that limits TCP ports."""

SCOPES_ABI = 6
"""The first ABI that keeps signals and abstract sockets inside."""

# The same numbers on every architecture since Linux 5.13.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH, _NET_PORT = 1, 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_NET = (1 << 0) | (1 << 1)  # bind, connect
_CONNECT = 1 << 1
_SCOPES = (1 << 0) | (1 << 1)  # abstract unix sockets, signals
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16, 6: 16, 7: 16}
"""How many of the file rights, counted from bit 0, each ABI knows."""

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""The rights that may stand in a rule for what is no directory."""


def supported_abi() -> int:
    """Return the kernel's Landlock ABI; 0 = it has none, or it is switched off."""
    return max(0, libc.syscall(_CREATE_RULESET, None, 0, _VERSION))


def restrict(
    read: "Sequence[str]",
    write: "Sequence[str]",
    devices: "Sequence[str]",
    ports: "Sequence[int]",
    folders: "Sequence[str]" = (),
) -> int:
    """Restrict this process and all it starts, for good; return the ABI that was used.

    The caller has set `PR_SET_NO_NEW_PRIVS`. Paths that are not there are left out.

    Args:
        read: files and directories, with all below, to read and execute.
        write: directories in which everything but device files may be made and changed.
        devices: device files to read, write and control.
        ports: TCP ports to connect to, at any address; none may be listened on.
        folders: directories whose names may be listed, with all below, and nothing be read.

    Raises:
        OSError: the kernel does not do it; nothing may be started then.
    """
    abi = min(supported_abi(), KNOWN_ABI)
    if not abi:
        raise OSError(errno.ENOSYS, "this kernel has no Landlock")
    handled = (1 << _RIGHTS[abi]) - 1
    rules = _create(handled, abi)
    try:
        for path in read:
            _allow(rules, path, handled & _READ)
        for path in write:
            _allow(rules, path, handled & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV))
        for path in devices:
            _allow(rules, path, handled & (_READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV))
        for path in folders:
            _allow(rules, path, handled & _READ_DIR)
        for port in ports if abi >= PORTS_ABI else ():
            _call(_ADD_RULE, rules, _NET_PORT, struct.pack("=QQ", _CONNECT, port), 0)
        _call(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)
    return abi


def _create(handled: int, abi: int) -> int:
    # A kernel refuses a longer attribute than it knows, so the size says the ABI.
    attribute = struct.pack("=Q", handled)
    if abi >= PORTS_ABI:
        attribute += struct.pack("=Q", _NET)
    if abi >= SCOPES_ABI:
        attribute += struct.pack("=Q", _SCOPES)
    return _call(_CREATE_RULESET, attribute, len(attribute), 0)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what cannot be reached need not be allowed
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        # struct landlock_path_beneath_attr is packed.
        _call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _call(number: int, *arguments: "int | bytes") -> int:
    result = libc.syscall(number, *arguments)
    if result < 0:
        code = libc.last_error()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result
