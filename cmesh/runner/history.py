"""What a repository has of a history, read from its files: is a commit there, which ones are named?

Asked of a directory that was judged, which an agent may have written to: no git runs, no link is
followed, and all that is read has a limit. It tells what to ask for, and proves nothing: whoever
makes a copy finds out for itself.
"""

import contextlib
import errno
import os
import re
import struct
from collections.abc import Iterator

from cmesh.beneath import Judged, open_file, open_judged, open_part
from cmesh.runner.before import read_head

__all__ = ["TIPS_MOST", "lacking"]

TIPS_MOST = 32
"""Commits that are named to who may send what is lacking."""

PACKS_MOST, NAMES_MOST = 2_000, 256
_PACKED_BYTES, _REF_BYTES = 1024 * 1024, 128
_COMMIT = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")

_HEAD = b"\377tOc\0\0\0\2"
_FANOUT, _FANOUT_AT = 256, 8
"""Git's format of a pack's index, version 2 (gitformat-pack(5))."""


def lacking(judged: Judged, commit: str) -> tuple[str, ...] | None:
    """Return the commits that a repository names, when it has not this one; None = it has it.

    None also where nothing that is sent could help: it is no repository of its own, or one
    without a commit. Blocks on the disk.

    Raises:
        OSError: the directory is another one now.
    """
    root = open_judged(judged)
    try:
        head = read_head(root)
        if head is None or not head.commit or len(head.commit) != len(commit):
            return None
        if _has(root, commit):
            return None
        with contextlib.suppress(OSError):
            os.close(open_part(root, ".git/shallow"))
            return ()  # what lies behind its commits is not all there
        named = (oid for oid in _named(root) if len(oid) == len(commit))
        return tuple(dict.fromkeys([head.commit, *named]))[:TIPS_MOST]
    except OSError:
        return None
    finally:
        os.close(root)


def _has(root: int, oid: str) -> bool:
    """Say whether an object is there, loose or in a pack; yes where that cannot be told."""
    with contextlib.suppress(OSError):
        os.close(open_part(root, f".git/objects/{oid[:2]}/{oid[2:]}"))
        return True
    names = [name for name in _listed(root, ".git/objects/pack") if name.endswith(".idx")]
    if len(names) > PACKS_MOST:
        return True
    wanted = bytes.fromhex(oid)
    return any(_packed(root, f".git/objects/pack/{name}", wanted) for name in names)


def _packed(root: int, name: str, wanted: bytes) -> bool:
    """Say whether a pack's index names an object; one of another version is taken for one that does."""
    try:
        fd = open_file(root, name)
    except OSError:
        return False
    try:
        head = os.pread(fd, _FANOUT_AT + 4 * _FANOUT, 0)
        if not head.startswith(_HEAD) or len(head) < _FANOUT_AT + 4 * _FANOUT:
            return True
        fanout = struct.unpack_from(f">{_FANOUT}I", head, _FANOUT_AT)
        first, last = (fanout[wanted[0] - 1] if wanted[0] else 0), fanout[wanted[0]]
        while first < last:
            middle = (first + last) // 2
            found = os.pread(fd, len(wanted), len(head) + middle * len(wanted))
            if found == wanted:
                return True
            first, last = (middle + 1, last) if found < wanted else (first, middle)
        return False
    finally:
        os.close(fd)


def _named(root: int) -> Iterator[str]:
    """Yield the commits of branches, of this repository and of others as it knows them."""
    for folder in (".git/refs/heads", *_remotes(root)):
        for name in _listed(root, folder)[:NAMES_MOST]:
            found = _COMMIT.fullmatch(_read(root, f"{folder}/{name}", _REF_BYTES).strip())
            if found is not None:
                yield found[0].decode()
    for line in _read(root, ".git/packed-refs", _PACKED_BYTES).splitlines():
        oid, _, name = line.partition(b" ")
        if name.startswith((b"refs/heads/", b"refs/remotes/")) and _COMMIT.fullmatch(oid):
            yield oid.decode()


def _remotes(root: int) -> list[str]:
    folder = ".git/refs/remotes"
    return [f"{folder}/{name}" for name in _listed(root, folder)[:NAMES_MOST]]


def _listed(root: int, folder: str) -> list[str]:
    """Return the names in a folder; none where it cannot be read."""
    with contextlib.suppress(OSError):
        holder = open_part(root, folder)
        try:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=holder)
        finally:
            os.close(holder)
        try:
            with os.scandir(fd) as entries:
                return sorted(entry.name for entry in entries)
        finally:
            os.close(fd)
    return []


def _read(root: int, name: str, most: int) -> bytes:
    """Return a file's content; nothing where it is longer, or cannot be read."""
    try:
        with os.fdopen(open_file(root, name), "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise
        return b""
    return data if len(data) <= most else b""
