"""How much room the store's disk has, and whether that is enough to take something in."""

import os
from pathlib import Path

from cmesh.clock import Clock, SystemClock
from cmesh.errors import DiskFull

__all__ = ["DISK_FLOOR_BYTES", "Room"]

DISK_FLOOR_BYTES = 128 * 1024 * 1024
"""Free bytes below which no new task is taken. Tasks already taken may use half of it."""

LOOK_S = 0.05
"""How long a look at the disk counts: a call for each commit costs more than the commit itself."""


class Room:
    """The disk that a directory is on."""

    def __init__(self, directory: Path, floor_bytes: int, clock: Clock | None = None) -> None:
        self._directory = directory
        self._floor_bytes = floor_bytes
        self._clock = clock or SystemClock()
        self._free = 0
        self._seen_at: float | None = None

    def has_room(self) -> bool:
        """Say whether tasks that were taken already can be carried on."""
        return self._free_bytes() >= self._floor_bytes // 2

    def require(self, *, new: bool) -> None:
        """Refuse what the disk has no room for; what is `new` must leave the whole floor.

        Raises:
            DiskFull: too little is free.
        """
        floor_bytes = self._floor_bytes // (1 if new else 2)
        free_bytes = self._free_bytes()
        if free_bytes < floor_bytes:
            raise DiskFull(
                f"{free_bytes // 1024**2} MiB are free where the store is;"
                f" this needs {floor_bytes // 1024**2} MiB"
            )

    def require_bytes(self, count: int) -> None:
        """Refuse to write so many bytes when they would not leave half of the floor.

        Raises:
            DiskFull: too little is free.
        """
        free_bytes, needed = self._free_bytes(), count + self._floor_bytes // 2
        if free_bytes < needed:
            raise DiskFull(
                f"{free_bytes // 1024**2} MiB are free where the store is;"
                f" this needs {-(-needed // 1024**2)} MiB"
            )

    def _free_bytes(self) -> int:
        now = self._clock.monotonic()
        if self._seen_at is None or now - self._seen_at >= LOOK_S:
            disk = os.statvfs(self._directory)
            self._free, self._seen_at = disk.f_bavail * disk.f_frsize, now
        return self._free
