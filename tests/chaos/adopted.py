"""Daemons that the harness has not started itself: found in /proc, followed by a pidfd."""

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path

__all__ = ["Adopted", "daemons"]


def daemons(place: Path) -> set[int]:
    """Return the processes that are, or try to be, the daemon of the machine with this place."""
    found: set[int] = set()
    mark = f"CHAOS_DIR={place}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit():
                continue
            if b"tests.chaos.crashing" not in (entry / "cmdline").read_bytes().split(b"\0"):
                continue
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found


class Adopted:
    """A daemon that another process has started, followed by its pidfd; the part of a `Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self._handle)

    def poll(self) -> int | None:
        """Return 0 when it has ended, whatever its status was, which only its parent learns."""
        return 0 if select.select([self._handle], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Blocks."""
        if not select.select([self._handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return 0

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)
