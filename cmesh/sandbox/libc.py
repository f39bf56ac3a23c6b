"""The C library's functions that the launcher calls, without the import of `ctypes`.

That import costs a start about as much as all else the launcher does. `_ctypes`, of which
`ctypes` is made, is loaded in a tenth of it. Standard library only; no rule of a sandbox here.
"""

# pyright: reportPrivateUsage=false, reportMissingTypeArgument=false
import _ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["address_of", "array_of", "last_error", "prctl", "syscall"]


_dlopen: "Any" = _ctypes.dlopen


class _Long(_ctypes._SimpleCData):  # noqa: SLF001 - it has no other name
    _type_ = "l"


class _Char(_ctypes._SimpleCData):  # noqa: SLF001 - as above
    _type_ = "c"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Long


class _Itself:
    """The process, with the C library in it, in the form that `_Function` takes."""

    _handle = _dlopen(None, 0)


_make: "Any" = _Function
_syscall = _make(("syscall", _Itself()))
_prctl = _make(("prctl", _Itself()))


def syscall(number: int, *arguments: "int | bytes | None") -> int:
    """Make a system call; -1 = it failed, `last_error` says why. Blocks as the call does."""
    return _syscall(_Long(number), *map(_passed, arguments))


def prctl(option: int, *arguments: "int | bytes") -> int:
    """Set something of this process (see the manual page of that name); -1 = it failed."""
    # An int in C: the library's own declaration, whatever this calls it with.
    return -1 if _prctl(_Long(option), *map(_passed, arguments)) & 0xFFFFFFFF else 0


def last_error() -> int:
    """Return why the last call of this thread failed, as `errno`."""
    return _ctypes.get_errno()


def array_of(data: bytes) -> "Any":
    """Return a copy of `data` that stays where it is while it is kept."""
    return (_Char * len(data)).from_buffer_copy(data)


def address_of(kept: "Any") -> int:
    """Return where an array lies; good as long as the caller keeps it."""
    return _ctypes.addressof(kept)


def _passed(argument: "int | bytes | None") -> "_Long | bytes | None":
    # Python would pass an int as C's, of half the width.
    return _Long(argument) if isinstance(argument, int) else argument
