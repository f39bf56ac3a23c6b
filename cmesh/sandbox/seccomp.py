"""The seccomp filter of a task: which system calls it may not make, as a BPF program.

Standard library only: the launcher loads it. Stops what neither mounts nor Landlock stop.
Sources: seccomp(2), linux/seccomp.h, linux/filter.h, linux/audit.h.
"""

import errno
import os
import struct

from cmesh.sandbox import libc
from cmesh.sandbox.calls import CHECKED, METADATA, REFUSED, UNKNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ARCHITECTURES", "available", "install", "program"]

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""By `uname -m`: the column of the numbers, and AUDIT_ARCH_*."""

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _AND, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06

# struct seccomp_data; little-endian, so the low half of an argument comes first.
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000  # asm/unistd.h: __X32_SYSCALL_BIT

_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE = 1, 5, 0xF
_IPPROTO_TCP = 6
_MSG_FASTOPEN = 0x20000000
_NAMESPACES = 0x7E020000  # every CLONE_NEW* of clone(2); CLONE_NEWTIME is not one of them
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

_Step = tuple[int, int, int, int]


def available() -> bool:
    """Return whether a filter can be made for this machine and its kernel takes one."""
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail", encoding="ascii") as file:
            actions = file.read().split()
    except OSError:
        return False
    return os.uname().machine in ARCHITECTURES and "errno" in actions


def install(*, metadata: bool) -> None:
    """Filter this thread and all it starts, for good; `PR_SET_NO_NEW_PRIVS` must be set.

    Args:
        metadata: changes of modes, owners, times and attributes stay possible.

    Raises:
        OSError: the kernel does not take it; nothing may be started then.
    """
    code = program(os.uname().machine, metadata=metadata)
    kept = libc.array_of(code)
    # struct sock_fprog: the number of steps, then the pointer, with the padding of the ABI.
    wanted = struct.pack("@HP", len(code) // 8, libc.address_of(kept))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, wanted, 0, 0) != 0:
        number = libc.last_error()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def program(machine: str, *, metadata: bool) -> bytes:
    """Return the filter for a machine, as an array of struct sock_filter.

    Raises:
        OSError: there are no numbers for this machine.
    """
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"seccomp: no table for `{machine}`")
    column, arch = ARCHITECTURES[machine]
    no_call = _errno(errno.ENOSYS)
    steps: list[_Step] = [_load(_ARCH), (_EQUAL, 1, 0, arch), no_call, _load(_NUMBER)]
    if machine == "x86_64":  # the x32 numbers would be a second door to the same calls
        steps += [(_AT_LEAST, 0, 1, _X32), no_call]
    refused = {**REFUSED, **({} if metadata else METADATA)}
    for table, answer in ((refused, _errno(errno.EPERM)), (UNKNOWN, no_call)):
        for numbers in table.values():
            if (number := numbers[column]) is not None:
                steps += [(_EQUAL, 0, 1, number), answer]
    for name, block in _CHECKS.items():
        number = CHECKED[name][column]
        assert number is not None
        steps += [(_EQUAL, 0, len(block), number), *block]
    steps.append(_return(_ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _load(offset: int) -> _Step:
    return (_LOAD, 0, 0, offset)


def _argument(index: int) -> _Step:
    """Load the low 32 bits: the kernel looks at no more of the arguments checked here."""
    return _load(_ARGUMENTS + 8 * index)


def _return(value: int) -> _Step:
    return (_RETURN, 0, 0, value)


def _errno(number: int) -> _Step:
    return _return(_ERRNO | number)


def _one_of(values: "Iterable[int]") -> "list[_Step]":
    """Refuse unless what is loaded is one of `values`; otherwise go on behind."""
    known = list(values)
    last = len(known)
    tests = [(_EQUAL, last - at, 0, value) for at, value in enumerate(known)]
    return [*tests, _errno(errno.EPERM)]


def _none_of(values: "Iterable[int]") -> "list[_Step]":
    """Refuse when what is loaded is one of `values`; otherwise go on behind."""
    return [step for value in values for step in ((_EQUAL, 0, 1, value), _errno(errno.EPERM))]


def _no_bit(index: int, bits: int) -> "list[_Step]":
    return [_argument(index), (_ANY_BIT, 0, 1, bits), _errno(errno.EPERM), _return(_ALLOW)]


_CHECKS: "dict[str, list[_Step]]" = {
    # TCP and nothing else: no unix socket to the daemon, no UDP, no netlink, and none of the
    # kinds whose ports Landlock does not see (MPTCP, SMC, SCTP).
    "socket": [
        *[_argument(0), *_one_of((_AF_INET, _AF_INET6))],
        *[_argument(1), (_AND, 0, 0, _SOCK_TYPE), *_one_of((_SOCK_STREAM,))],
        *[_argument(2), *_one_of((0, _IPPROTO_TCP)), _return(_ALLOW)],
    ],
    # A pair of datagram sockets could be sent on to any socket that has a name.
    "socketpair": [
        *[_argument(0), *_one_of((_AF_UNIX,))],
        *[_argument(1), (_AND, 0, 0, _SOCK_TYPE), *_one_of((_SOCK_STREAM, _SOCK_SEQPACKET))],
        _return(_ALLOW),
    ],
    # A connection opened with its first data is not seen by Landlock's hook of connect().
    "sendto": _no_bit(3, _MSG_FASTOPEN),
    "sendmsg": _no_bit(2, _MSG_FASTOPEN),
    "sendmmsg": _no_bit(3, _MSG_FASTOPEN),
    "clone": _no_bit(0, _NAMESPACES),
    "ioctl": [_argument(1), *_none_of((_TIOCSTI, _TIOCLINUX)), _return(_ALLOW)],
    # Of itself only (0): a limit of another process of this user can end it.
    "prlimit64": [_argument(0), *_one_of((0,)), _return(_ALLOW)],
    "sched_setaffinity": [_argument(0), *_one_of((0,)), _return(_ALLOW)],
    "setpriority": [
        *[_argument(0), *_one_of((0,)), _argument(1), *_one_of((0,)), _return(_ALLOW)],
    ],
}
