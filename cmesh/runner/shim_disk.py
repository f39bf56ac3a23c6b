"""How much of the disk a task's places hold, looked at by its shim. Standard library only.

In slices, so that no tree holds up the shim; it follows no link and changes nothing. It only
says that a task must be ended, and never ends one.
"""

import os
import stat

from cmesh.beneath import open_part, open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

__all__ = ["ROUND_PAUSE_S", "SHARE_BYTES", "SLICE_PAUSE_S", "DiskWatch", "held_open"]

SLICE_NAMES, SLICE_PAUSE_S = 1000, 0.05
"""So many names are looked at, then the shim goes on with its task for so long."""

ROUND_PAUSE_S = 1.0
"""Between the end of one look at everything and the next one."""

ROUND_SLICES = 1000
"""Slices of a look at everything, above which it counts as one that cannot be made: names are
given faster than they are looked at, or nearly."""

FOLDERS_MOST = 100_000
"""Folders that are known and not looked at yet; more are not measured."""

OPEN_MOST = 100_000
"""Descriptors of a task that are looked at; its limits allow 33 million, and a shim that looks at
them hears no cancel meanwhile. More are not measured."""

SHARE_BYTES = 64 * 1024**2
"""A task that has taken less is not why a disk is full, and is not ended for it."""

BLOCK_BYTES = 512  # what `st_blocks` counts: inode(7)
MIB = 1024**2


class DiskWatch:
    """The places of one task, and what they held before its agent began.

    Attributes:
        next_at: monotonic seconds at which `look` wants to be called again.
        grown: bytes by which they have grown, as far as is known; falls at a round's end alone.
        blind: part of it could not be measured in the last whole round.
    """

    def __init__(self, order: "dict[str, Any]", free: "Callable[[str], int] | None" = None) -> None:
        """Measure the places as they are; blocks for as long as that takes.

        Args:
            order: `places`, absolute paths of directories that the task may write; `copy`, one
                that it has not written yet, empty = none; `most_bytes` that it may add to them;
                `floor_bytes` of which the disk keeps half, 0 = none.
            free: what tells the free bytes where a path is.
        """
        # A link above them is the owner's; from here on none is followed.
        places = [*order["places"], *([order["copy"]] if order["copy"] else ())]
        self._places = [os.path.realpath(place) for place in places]
        self._fresh = self._places[len(order["places"]) :]
        self._most: int = order["most_bytes"]
        self._least: int = order["floor_bytes"] // 2
        self._free = free or _free_bytes
        self._sum = self.grown = 0
        self.blind = self._blind = False
        self._base = self._slices = 0
        self._again = False  # one look has said that it is too much
        self._walk = self._names()
        while self._slice():
            pass
        self._base, self._fresh = self._sum, []
        self._begin()
        self.next_at = 0.0

    def look(self, now: float, processes: "Callable[[], Iterable[int]]") -> str:
        """Do the next slice; return why the task must be ended, empty = it need not be.

        `processes` are those of the task; asked for only when the disk has no room.
        """
        more = self._slice()
        seen = self._sum - self._base
        self.grown = max(self.grown if more else 0, seen)
        self.next_at = now + (SLICE_PAUSE_S if more else ROUND_PAUSE_S)
        long = self._slices > ROUND_SLICES
        if seen > self._most:
            # What is moved while it is looked at is met twice: the next look must say it as well.
            sure, self._again, more = self._again, not self._again, True
            self.next_at = now + SLICE_PAUSE_S
            self._begin()
            if sure:
                return f"it took {_mib(seen)} of disk and may take {_mib(self._most)}"
        elif not more:
            self.blind, self._again = self._blind, False
            self._begin()
        if not self._least:
            return ""
        try:
            return self._want_of_room(processes, more=more, long=long)
        except OSError:
            return ""  # the worker has taken the task's directory away

    def _want_of_room(
        self, processes: "Callable[[], Iterable[int]]", *, more: bool, long: bool
    ) -> str:
        free = min(self._free(place) for place in self._places)
        if free >= self._least:
            return ""
        taken, hidden = self.grown, self.blind or long
        if more and taken < SHARE_BYTES and not hidden:
            return ""  # the end of the round will tell
        if taken < SHARE_BYTES and not hidden:
            open_bytes, hidden = held_open(processes(), self._places[0])
            taken += open_bytes
        if taken < SHARE_BYTES and not hidden:
            return ""
        also = ", and some that cannot be measured" if hidden else ""
        return (
            f"the disk has {_mib(free)} left of the {_mib(self._least)} that it must keep,"
            f" and the task took {_mib(taken)}{also}"
        )

    def _begin(self) -> None:
        self._sum, self._slices, self._blind = 0, 0, False
        self._walk = self._names()

    def _slice(self) -> bool:
        """Look at some names; False when that was the last of them."""
        self._slices += 1
        for _ in range(SLICE_NAMES):
            size = next(self._walk, None)
            if size is None:
                return False
            self._sum += size
        return True

    def _names(self) -> "Iterator[int]":
        """Return the bytes of each name, one by one."""
        for place in self._places:
            try:
                root = open_root(place)
            except OSError:
                self._blind = True
                continue
            try:
                folders, fresh = [""], place in self._fresh
                while folders:
                    yield from self._folder(root, folders.pop(), folders, fresh=fresh)
            finally:
                os.close(root)

    def _folder(
        self, root: int, folder: str, folders: list[str], *, fresh: bool
    ) -> "Iterator[int]":
        try:
            fd = _open_folder(root, folder)
        except FileNotFoundError:
            return  # it went away since it was named
        except OSError:
            self._blind = True  # nobody may read it, or it lies too deep
            return
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    except OSError:
                        self._blind = True  # its folder can be listed, and not be entered
                        continue
                    if stat.S_ISDIR(info.st_mode):
                        if len(folders) < FOLDERS_MOST:
                            folders.append(f"{folder}/{entry.name}" if folder else entry.name)
                        else:
                            self._blind = True
                        yield info.st_blocks * BLOCK_BYTES
                    else:  # of a file with several names each has its share
                        taken = info.st_blocks * BLOCK_BYTES
                        # ZFS and Btrfs give a file its blocks seconds after it was written. A
                        # length alone may be a hole, so what the task has made goes by blocks.
                        taken = max(taken, info.st_size) if fresh else taken
                        yield taken // max(1, info.st_nlink)
        except OSError:
            self._blind = True  # a disk that fails must not end the shim
        finally:
            os.close(fd)


def held_open(processes: "Iterable[int]", place: str) -> tuple[int, bool]:
    """Return the bytes of files without a name that processes hold, and whether one hides them.

    Only of the disk that `place` is on.
    """
    found: dict[int, int] = {}
    hidden, disk, room = False, os.stat(place).st_dev, OPEN_MOST
    for pid in processes:
        try:
            names = os.listdir(f"/proc/{pid}/fd")
            room -= len(names)
            if room < 0:
                return sum(found.values()), True
            for name in names:
                try:
                    info = os.stat(f"/proc/{pid}/fd/{name}")
                except OSError:
                    continue  # closed meanwhile
                if stat.S_ISREG(info.st_mode) and not info.st_nlink and info.st_dev == disk:
                    found[info.st_ino] = info.st_blocks * BLOCK_BYTES
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError:
            hidden = True
    return sum(found.values()), hidden


def _open_folder(root: int, folder: str) -> int:
    """Open a folder below another one to be read, with no link on the way."""
    place = open_part(root, folder or ".")
    try:
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(place)


def _free_bytes(place: str) -> int:
    room = os.statvfs(place)
    return room.f_bavail * room.f_frsize


def _mib(size: int) -> str:
    return f"{size // MIB} MiB"
