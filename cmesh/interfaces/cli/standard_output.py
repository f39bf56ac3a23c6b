"""Standard output that says in one way that nobody reads it, or that it cannot be written.

`head` closes a pipe early and a disk may be full: neither is a fault of the command. An
`OSError` would be taken for one of the work's own, so it becomes another error where it arises.
What is told beside the data may be lost: no command does or ends otherwise for that.
"""

import io
import os
import sys
from pathlib import Path
from typing import TextIO

from typing_extensions import override

from cmesh.errors import CmeshError

__all__ = ["PIPE_EXIT", "OutputClosed", "OutputFailed", "guard_output"]

PIPE_EXIT = 141
"""Nobody reads any more (128 + SIGPIPE), as a shell has it of other programs."""


class OutputClosed(Exception):
    """Raised when the other end of standard output is closed."""


class OutputFailed(CmeshError):
    """Raised when standard output takes no more, such as a file on a full disk."""

    default_hint = ""


class _Output(io.FileIO):
    """The file descriptor of standard output; after its first failure it takes all in silence."""

    _failed = False

    @override
    def write(self, data: object, /) -> int:
        if self._failed:
            return memoryview(data).nbytes  # type: ignore[arg-type]
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError as error:
            self._failed = True
            raise OutputClosed from error
        except BlockingIOError:
            raise
        except OSError as error:
            self._failed = True
            raise OutputFailed(f"standard output cannot be written: {error.strerror}") from error


class _Words(io.FileIO):
    """The file descriptor of standard error, which takes all in silence when it can take nothing."""

    @override
    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BlockingIOError:
            raise
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def guard_output() -> None:
    """Put such streams in the place of this process's own `sys.stdout` and `sys.stderr`."""
    sys.stdout = _guarded(sys.stdout, sys.__stdout__, _Output)
    sys.stderr = _guarded(sys.stderr, sys.__stderr__, _Words)


def _guarded(given: TextIO | None, own: TextIO | None, kind: type[io.FileIO]) -> TextIO:
    if given is None:  # `>&-` of a shell; its number must not become that of a socket
        return Path(os.devnull).open("w", encoding="utf-8")
    if given is not own or not isinstance(given, io.TextIOWrapper):
        return given
    return io.TextIOWrapper(
        io.BufferedWriter(kind(given.fileno(), "w", closefd=False)),
        encoding=given.encoding,
        errors="backslashreplace",
        # Not as given: PYTHONUNBUFFERED=1 gives a stream that has no buffer, and so no lines.
        line_buffering=kind is _Words or given.isatty(),
    )
