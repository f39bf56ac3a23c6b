"""Where exports lie: a directory, or a bucket of an S3-compatible store. Blocks.

What is put is there whole or not at all. Names have slashes and are below the place.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from typing_extensions import override

from cmesh.errors import DiskFull, StoreError, UsageError
from cmesh.paths import sync
from cmesh.store.bucket import Bucket, open_bucket

__all__ = ["Place", "open_place"]

_HALF = ".incoming"


class Place(Protocol):
    """Files by name; `where` is what people call it."""

    where: str

    def listing(self) -> dict[str, int]:
        """Return the names of all files, with their sizes."""
        ...

    def read(self, name: str, most: int) -> bytes | None:
        """Return up to `most` bytes of a file; None = there is none."""
        ...

    def put(self, file: Path, name: str) -> None:
        """Store a copy of a local file, in the place of any of this name.

        Raises:
            StoreError: it cannot be stored.
        """
        ...

    def fetch(self, name: str, into: Path) -> Path:
        """Return a local file with the content, below `into` where it must be copied.

        Raises:
            StoreError: it cannot be had.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove a file; harmless without it."""
        ...


class Folder(Place):
    """A directory of this machine; what is made in it is its owner's alone."""

    def __init__(self, root: Path) -> None:
        self.where = str(root)
        self._root = root

    @override
    def listing(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for directory, _, names in os.walk(self._root):
            for name in names:
                path = Path(directory, name)
                with contextlib.suppress(FileNotFoundError):
                    found[path.relative_to(self._root).as_posix()] = path.stat().st_size
        return found

    @override
    def read(self, name: str, most: int) -> bytes | None:
        try:
            with (self._root / name).open("rb") as file:
                return file.read(most)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _failed(self.where, error) from error

    @override
    def put(self, file: Path, name: str) -> None:
        target = self._root / name
        half = target.with_name(target.name + _HALF)
        try:
            # One by one: `parents` would give those between to everybody.
            for directory in (*reversed(target.relative_to(self._root.parent).parents[:-1]),):
                made = self._root.parent / directory
                made.mkdir(mode=0o700, parents=made == self._root, exist_ok=True)
            shutil.copyfile(file, half)
            half.chmod(0o600)
            sync(half)
            half.replace(target)
            sync(target.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                half.unlink(missing_ok=True)
            raise _failed(self.where, error) from error

    @override
    def fetch(self, name: str, into: Path) -> Path:
        path = self._root / name
        if not path.resolve().is_relative_to(self._root.resolve()) or not path.is_file():
            raise StoreError(f"`{self.where}` has no file `{name}`", hint="export again")
        return path

    @override
    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._root / name).unlink()
        # Days that are empty now: nobody asks for their directories.
        with contextlib.suppress(OSError):
            (self._root / name).parent.rmdir()


class InBucket(Place):
    """A prefix of a bucket."""

    def __init__(self, bucket: Bucket, where: str, prefix: str) -> None:
        self.where = where
        self._bucket = bucket
        self._prefix = prefix

    @override
    def listing(self) -> dict[str, int]:
        sizes = self._bucket.listing(self._prefix)
        return {key.removeprefix(self._prefix): size for key, size in sizes.items()}

    @override
    def read(self, name: str, most: int) -> bytes | None:
        return self._bucket.read(self._prefix + name, most)

    @override
    def put(self, file: Path, name: str) -> None:
        self._bucket.put(file, self._prefix + name)

    @override
    def fetch(self, name: str, into: Path) -> Path:
        path = into / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._bucket.fetch(self._prefix + name, path)
        return path

    @override
    def delete(self, name: str) -> None:
        self._bucket.delete(self._prefix + name)


def open_place(text: str, below: str = "") -> Place:
    """Return the place that `DIR` or `s3://bucket/prefix` names, or a directory `below` it.

    Raises:
        UsageError: it is neither, or `boto3` is not installed.
    """
    if "://" not in text:
        return Folder(Path(text).absolute() / below)
    url = urlsplit(text)
    if url.scheme != "s3" or not url.hostname or url.query or url.fragment or "@" in url.netloc:
        raise UsageError(
            "an export goes to a directory or to `s3://bucket/prefix`",
            hint="keys and the endpoint come from AWS_* variables or ~/.aws, never from here",
        )
    parts = [part for part in (*url.path.split("/"), below) if part]
    prefix = "".join(f"{part}/" for part in parts)
    return InBucket(open_bucket(url.netloc), f"s3://{url.netloc}/{prefix}", prefix)


def _failed(where: str, error: OSError) -> StoreError:
    reason = error.strerror or type(error).__name__
    if error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return DiskFull(f"no room in `{where}`", hint="free space there, then export again")
    return StoreError(f"`{where}` cannot be used: {reason}", hint="look at its rights, then retry")
