"""A whole store as one file: a tar of its database, its outputs, and a list of both. Blocks.

Nothing is believed of an archive: names, lengths and digests are checked against its list, and
the list's head against the rows, before anything is put anywhere.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, cast

import _duckdb as duckdb

from cmesh import __version__
from cmesh.errors import DiskFull, SchemaTooNew, StoreDamaged, StoreError, UsageError
from cmesh.paths import ensure_private_dir, sync
from cmesh.store.compacting import Leash, copy_compact
from cmesh.store.database import Database, translate
from cmesh.store.head import Head, HeadFile
from cmesh.store.migrations import MIGRATIONS
from cmesh.store.recovery import bring_in
from cmesh.store.snapshot import FILE_NAME

__all__ = ["Contents", "pack", "require_backup", "unpack"]

FORMAT = 1
_LIST = "cmesh-backup.json"
_LIST_BYTES = 64 * 1024
_OUTPUT = re.compile(r"blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What an archive holds.

    Attributes:
        schema: of the database; one that is higher than this code's cannot be restored.
        head_seq, head_hash: its last row.
        outputs, output_bytes: files beside it.
    """

    format: int = FORMAT
    version: str
    schema: int
    incarnation: str
    head_seq: int
    head_hash: str
    database_bytes: int
    database_sha256: str
    outputs: int
    output_bytes: int


def pack(copy: Path, outputs: Path, target: Path) -> Contents:
    """Write a copy of a store, which is changed on the way, and its outputs into one new file.

    The file has its name once it is whole and durable.

    Raises:
        DiskFull: there is no room; nothing is left.
        StoreError: the copy cannot be read, or the file cannot be written.
    """
    head, incarnation = _whole(copy)
    leash = Leash()
    compact, part = copy / "backup.duckdb", target.with_name(f".{target.name}.part")
    files = sorted(path for path in outputs.glob("??/*") if path.is_file())
    sizes = {path: path.stat().st_size for path in files}
    try:
        copy_compact(copy / FILE_NAME, compact, leash)
        needed = compact.stat().st_size + sum(sizes.values())
        _require_room(target.parent, needed)
        contents = Contents(
            version=__version__,
            schema=len(MIGRATIONS),
            incarnation=incarnation,
            head_seq=head.seq,
            head_hash=head.hash.hex(),
            database_bytes=compact.stat().st_size,
            database_sha256=_sha256(compact),
            outputs=len(files),
            output_bytes=sum(sizes.values()),
        )
        with _private(part) as file, tarfile.open(fileobj=file, mode="w|") as tar:
            _add(tar, _LIST, json.dumps(asdict(contents), indent=1).encode())
            tar.add(compact, FILE_NAME, recursive=False, filter=_plain)
            for path in files:
                name = f"blobs/{path.parent.name}/{path.name}"
                # One that was deleted meanwhile is left out, as the store has no name for it.
                with contextlib.suppress(FileNotFoundError):
                    tar.add(path, name, recursive=False, filter=_plain)
        os.replace(part, target)  # noqa: PTH105  # as one step
        sync(target.parent)
    except OSError as error:
        raise _failed(target, error) from error
    finally:
        leash.close()
        part.unlink(missing_ok=True)
        compact.unlink(missing_ok=True)
    return contents


def require_backup(archive: Path) -> None:
    """Look whether a file begins as an archive does; whether all of it is there, `unpack` says.

    Raises:
        UsageError: it cannot be read, or is no backup.
        StoreDamaged: its list cannot be read.
        SchemaTooNew: a newer cmesh wrote it.
    """
    hint = "name a file that `cmesh audit backup` wrote"
    if archive.exists() and not archive.is_file():  # a pipe in its place must not make us wait
        raise UsageError(f"`{archive}` is no file", hint=hint)
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            first = tar.next()
            if not _is_list(first):
                raise UsageError(f"`{archive}` is no backup of cmesh", hint=hint)
            _contents(archive, cast("BinaryIO", tar.extractfile(first)).read())
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"`{archive}` is no backup of cmesh", hint=hint) from error
    except OSError as error:
        raise UsageError(f"`{archive}` cannot be read: {error.strerror}", hint=hint) from error


def unpack(archive: Path, target: Path) -> Contents:
    """Put an archive's store into a new, private directory, and look whether all of it is there.

    Raises:
        StoreDamaged: it is no backup, or not as it was written.
        SchemaTooNew: a newer cmesh wrote it.
        DiskFull: there is no room.
    """
    ensure_private_dir(target)
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            contents = _unpacked(archive, tar, target)
    except (tarfile.TarError, EOFError) as error:
        raise StoreDamaged(f"`{archive}` is no whole backup: {error}") from error
    except OSError as error:
        raise _failed(archive, error) from error
    head = Head(seq=contents.head_seq, hash=bytes.fromhex(contents.head_hash))
    file_of_head = HeadFile(target)
    file_of_head.open()
    file_of_head.write(head)
    file_of_head.close()
    for path in (*target.rglob("*"), target):
        sync(path)
    return contents


def _is_list(first: tarfile.TarInfo | None) -> TypeGuard[tarfile.TarInfo]:
    if first is None or first.name != _LIST:
        return False
    return first.isfile() and first.size <= _LIST_BYTES


def _unpacked(archive: Path, tar: tarfile.TarFile, target: Path) -> Contents:
    members = iter(tar)
    first = next(members, None)
    if not _is_list(first):
        raise StoreDamaged(f"`{archive}` is no backup of cmesh")
    contents = _contents(archive, cast("BinaryIO", tar.extractfile(first)).read())
    _require_room(target, contents.database_bytes + contents.output_bytes)
    seen, size = set[str](), 0
    for member in members:
        found = _OUTPUT.fullmatch(member.name)
        wanted = contents.database_sha256 if member.name == FILE_NAME else found and found[2]
        if not wanted or not member.isfile() or member.name in seen:
            raise StoreDamaged(f"`{archive}` holds what no backup holds: `{member.name[:80]}`")
        seen.add(member.name)
        size += member.size
        if size > contents.database_bytes + contents.output_bytes:
            raise StoreDamaged(f"`{archive}` holds more than its list says")
        path = target / member.name
        for directory in reversed(path.relative_to(target).parents[:-1]):
            ensure_private_dir(target / directory)
        if _extracted(cast("BinaryIO", tar.extractfile(member)), path) != wanted:
            raise StoreDamaged(f"`{member.name}` in `{archive}` is not as it was written")
    if FILE_NAME not in seen:
        raise StoreDamaged(f"`{archive}` has no database in it")
    return contents


def _contents(archive: Path, data: bytes) -> Contents:
    try:
        told = cast("Mapping[str, Any]", json.loads(data))
        wanted = dict(Contents.__annotations__)
        found = {name: told[name] for name in wanted}
        if any(type(found[name]) is not kind for name, kind in wanted.items()):
            raise ValueError("a value of another kind")
        bytes.fromhex(found["head_hash"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(f"the list of `{archive}` cannot be read") from error
    if found["format"] > FORMAT or found["schema"] > len(MIGRATIONS):
        raise SchemaTooNew(
            f"cmesh {found['version'][:40]} wrote `{archive}`; this is cmesh {__version__}"
        )
    return Contents(**found)


def _whole(copy: Path) -> tuple[Head, str]:
    """Bring a copy's journal in and close it, without a WAL; return its head and incarnation."""
    database = Database(copy)
    try:
        database.open()
        head = bring_in(database, database.top(), None)
        incarnation = database.incarnation("", "")
        database.checkpoint()
    except duckdb.Error as error:
        raise translate(error, database.path) from error
    finally:
        database.close()
    return head, incarnation


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    tar.addfile(member, io.BytesIO(data))


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out whose the file was and when: neither is restored."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime, member.mode = 0, 0o600
    return member


@contextlib.contextmanager
def _private(path: Path) -> Generator[BinaryIO]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        yield file
        file.flush()
        os.fsync(fd)


def _extracted(source: BinaryIO, path: Path) -> str:
    hasher = hashlib.sha256()
    with _private(path) as file:
        for chunk in _chunks(source):
            hasher.update(chunk)
            file.write(chunk)
    return hasher.hexdigest()


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in _chunks(file):
            hasher.update(chunk)
    return hasher.hexdigest()


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _require_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise DiskFull(
            f"{free // 1024**2} MiB are free in `{directory}`, {needed // 1024**2} needed"
        )


def _failed(path: Path, error: OSError) -> StoreError:
    full = error.errno is not None and os.strerror(error.errno).startswith(
        ("No space", "Disk quota")
    )
    why = error.strerror or str(error)
    return (DiskFull if full else StoreError)(f"`{path}`: {why}")
