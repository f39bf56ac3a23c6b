"""What lies in a directory by size, time and hash: before a task that has no copy, and after it.

Read beneath an open directory: no link is followed, nothing is run, no other file system is
entered. Within named limits, so that a large directory costs a task little; what lies beyond them
is told as not looked at. Blocks on the disk.
"""

import contextlib
import hashlib
import os
import stat
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cmesh.beneath import open_file, open_part
from cmesh.clock import Clock

__all__ = ["FILES_MOST", "HASHED_BYTES", "LOOK_S", "Changes", "Entry", "Listing", "compare", "take"]

FILES_MOST, HASHED_BYTES, LOOK_S = 5_000, 32 * 1024 * 1024, 2.0
"""Names that one look reads, bytes that it hashes in all, and how long it goes on."""

_CHUNK_BYTES = 1024 * 1024
_NEVER = ".git"
_MORE = f"there are more than {FILES_MOST:,} names"

Entry = tuple[str, int, int, str]
"""One name: its kind (`f`, `d`, `l` for a link, `o` for others), bytes, time in nanoseconds, and
SHA-256 of content or target; empty = not hashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One look.

    Attributes:
        folders: those that were read whole, the root as the empty name, with what is in each.
        reason: why there is more than that, or not all of it is hashed; empty = that is all.
    """

    folders: dict[str, dict[str, Entry]] = field(default_factory=dict[str, dict[str, Entry]])
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is other than it was.

    Attributes:
        names: paths of files and links after a letter and a blank: A, D, M, T as in git's raw
            format; sorted by path.
        reason: why there may be more; empty = that is all.
    """

    names: tuple[str, ...] = ()
    reason: str = ""


def take(root: int, clock: Clock, skip: Collection[tuple[int, int]] = ()) -> Listing:
    """Return what lies below an open directory, nearest first; `skip` by device and inode."""
    look, folders, waiting = (
        _Look(root, clock, skip, FILES_MOST),
        dict[str, dict[str, Entry]](),
        deque([""]),
    )
    while waiting and not look.over:
        name = waiting.popleft()
        found = look.read(name, None)
        if found is None:
            continue
        folders[name] = found
        waiting += [_join(name, one) for one in sorted(found) if found[one][0] == "d"]
    return Listing(folders=folders, reason=look.why)


def compare(
    root: int, before: Listing, clock: Clock, skip: Collection[tuple[int, int]] = ()
) -> Changes:
    """Return what differs from an earlier look, in the folders of that look and in new ones."""
    look, names = _Look(root, clock, skip, 2 * FILES_MOST), list[tuple[str, str]]()
    waiting = deque(before.folders)
    while waiting and not look.over:
        folder = waiting.popleft()
        known = before.folders.get(folder, {})
        now = look.read(folder, known)
        if now is None:
            continue
        for name in {*known, *now}:
            path, was, is_ = _join(folder, name), known.get(name), now.get(name)
            if letter := _letter(was, is_):
                names.append((path, letter))
            if is_ is not None and is_[0] == "d" and (was is None or was[0] != "d"):
                waiting.append(path)
    why = before.reason or look.why
    return Changes(names=tuple(f"{letter} {path}" for path, letter in sorted(names)), reason=why)


def _letter(was: Entry | None, now: Entry | None) -> str:
    """Return how one name changed; empty = not, or it is a folder, of which its files tell."""
    old, new = was[0] if was else "", now[0] if now else ""
    if was is None or now is None or "d" in {old, new}:
        return "D" if was and old != "d" else "A" if now and new != "d" else ""
    if old != new:
        return "T"
    if was[1] != now[1]:
        return "M"
    if was[3] and now[3]:
        return "M" if was[3] != now[3] else ""
    return "M" if was[2] != now[2] else ""


class _Look:
    """One pass over a directory; `over` once a limit is reached, with `why` in words."""

    def __init__(
        self, root: int, clock: Clock, skip: Collection[tuple[int, int]], most: int
    ) -> None:
        self.over = False
        self.why = ""
        self._root, self._skip, self._room = root, skip, most
        self._bytes = HASHED_BYTES
        self._device = os.fstat(root).st_dev
        self._clock, self._until = clock, clock.monotonic() + LOOK_S

    def read(self, folder: str, known: Mapping[str, Entry] | None) -> dict[str, Entry] | None:
        """Return what is in a folder; None = it was not read whole.

        With what was `known` only that is hashed which size does not tell apart.
        """
        try:
            fd = self._open(folder)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            if folder and known is not None and not self._is_folder(folder):
                return {}  # a link stands there now
            self.why = self.why or f"a folder cannot be read: {error.strerror}"
            return None
        found: dict[str, Entry] = {}
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._room -= 1
                    self._check(_MORE if self._room < 0 else "")
                    if self.over:
                        return None
                    with contextlib.suppress(FileNotFoundError):
                        if made := self._entry(folder, fd, entry.name, known):
                            found[entry.name] = made
        except OSError as error:
            self.why = self.why or f"a folder cannot be read: {error.strerror}"
            return None
        finally:
            os.close(fd)
        return None if self.over else found

    def _open(self, folder: str) -> int:
        place = open_part(self._root, folder or ".")
        try:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
        finally:
            os.close(place)

    def _is_folder(self, folder: str) -> bool:
        with contextlib.suppress(OSError):
            return stat.S_ISDIR(os.lstat(folder, dir_fd=self._root).st_mode)
        return False

    def _entry(
        self, folder: str, fd: int, name: str, known: Mapping[str, Entry] | None
    ) -> Entry | None:
        if not _is_text(name):
            self.why = self.why or "a name is no text"
            return None
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            if name.lower() == _NEVER or (info.st_dev, info.st_ino) in self._skip:
                return None
            if info.st_dev != self._device:
                self.why = self.why or "another file system is mounted in it"
                return None
            return ("d", 0, 0, "")
        if stat.S_ISLNK(info.st_mode):
            target = os.fsencode(os.readlink(name, dir_fd=fd))
            return ("l", len(target), info.st_mtime_ns, hashlib.sha256(target).hexdigest())
        if not stat.S_ISREG(info.st_mode):
            return ("o", 0, 0, "")
        was = None if known is None else known.get(name)
        wanted = known is None or (was is not None and was[1] == info.st_size and was[3] != "")
        hashed = self._hash(_join(folder, name), info.st_size) if wanted else ""
        return ("f", info.st_size, info.st_mtime_ns, hashed)

    def _hash(self, path: str, size: int) -> str:
        """Return the SHA-256 of a file; empty where it is beyond the limit or cannot be read."""
        if size > self._bytes:
            self.why = self.why or "beyond 32 MiB files are compared by size and time alone"
            return ""
        self._bytes -= size
        try:
            fd = open_file(self._root, path)
        except OSError:
            self.why = self.why or "a file cannot be read, and is compared by size and time alone"
            return ""
        hasher, left = hashlib.sha256(), size
        with os.fdopen(fd, "rb") as file:
            # What grows meanwhile has another size in the next look.
            while left > 0 and (data := file.read(min(_CHUNK_BYTES, left))):
                hasher.update(data)
                left -= len(data)
                self._check()
                if self.over:
                    return ""
        return hasher.hexdigest()

    def _check(self, why: str = "") -> None:
        if not why and self._clock.monotonic() > self._until:
            why = f"a look takes at most {LOOK_S:g} s"
        if why:
            self.over, self.why = True, self.why or why


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
