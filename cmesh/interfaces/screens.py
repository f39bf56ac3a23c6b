"""What a person keeps open of cmesh's, a dashboard or `cmesh watch`, and how it is ended.

Each has a lock file in the state directory, by its kind and process. A file counts while its lock
is held only, so a number that another process has by now is never ended.
"""

import contextlib
import os
import signal
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cmesh.errors import DaemonTimeout
from cmesh.interfaces.start import wait_gone
from cmesh.locks import FileLock, Held, holder

__all__ = ["SCREENS", "Screen", "end", "kept", "opened"]

SCREENS = "screens"
"""The directory of the lock files, in the state directory."""

END_LIMIT_S = 10.0

LOOKED_AT_S = 1.0
"""How long `opened` of another process may keep a lock: it looks who has it."""

Kind = Literal["dashboard", "watch"]


@dataclass(frozen=True, slots=True)
class Screen:
    """A command that shows something until it is ended."""

    kind: str
    pid: int

    @property
    def title(self) -> str:
        """How a person is told of it."""
        return f"`cmesh {self.kind}` (process {self.pid})"


@contextlib.contextmanager
def kept(state: Path, kind: Kind) -> Generator[None]:
    """Let this process be known as a screen meanwhile; where nothing can be written, it is not."""
    folder = state / SCREENS
    lock = FileLock(folder / f"{kind}-{os.getpid()}")
    with contextlib.suppress(OSError, Held):
        folder.mkdir(mode=0o700, exist_ok=True)
        _sweep(folder)
        lock.acquire_within(LOOKED_AT_S)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.path.unlink(missing_ok=True)
            lock.release()


def opened(state: Path) -> tuple[Screen, ...]:
    """Return the screens of a state directory that are open now. Blocks on the disk."""
    found: list[Screen] = []
    with contextlib.suppress(OSError):
        for path in sorted((state / SCREENS).iterdir()):
            kind, _, number = path.name.rpartition("-")
            if number.isdecimal() and holder(path) == int(number):
                found.append(Screen(kind, int(number)))
    return tuple(one for one in found if one.pid != os.getpid())


def end(screen: Screen) -> None:
    """End a screen as a person would. Blocks.

    Raises:
        DaemonTimeout: it does not end within `END_LIMIT_S`.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(screen.pid, signal.SIGTERM)
    if not wait_gone(screen.pid, END_LIMIT_S):
        raise DaemonTimeout(
            f"{screen.title} does not end within {END_LIMIT_S:g} s",
            hint="end it where it is open, then repeat",
        )


def _sweep(folder: Path) -> None:
    """Delete the files of processes that were killed."""
    for path in folder.iterdir():
        number = path.name.rpartition("-")[2]
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (PermissionError, ValueError):
            continue
