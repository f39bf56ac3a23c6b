"""Writing a store's rows and views as Parquet, by days, to a place that others can read. Blocks.

An export holds everything of one log. Each file is named by its content, and a day's files are
the same bytes for the same rows: so only days in which something came, or was erased, are sent
again. The manifest goes last. Before it the export is the one of before, after it the new one.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import _duckdb as duckdb

from cmesh import __version__
from cmesh.errors import StoreDamaged, StoreError
from cmesh.keys import SigningKey
from cmesh.store import proofs
from cmesh.store.database import Database, translate
from cmesh.store.head import Head
from cmesh.store.manifest import (
    FORMAT,
    MANIFEST,
    MOST_BYTES,
    ExportedFile,
    Manifest,
    Origin,
    read_manifest,
    seal,
    trusted_peers,
)
from cmesh.store.migrations import schema_version
from cmesh.store.places import Place, open_place
from cmesh.store.recovery import bring_in
from cmesh.store.schema import foreign
from cmesh.store.signatures import NODE_UP

__all__ = ["Exported", "export"]

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "async_threads": 1,
    "memory_limit": "2GB",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
_BOOKS = frozenset({"schema_version", "store_row"})
_MOMENTS = ("ts", "created_at")
_CHUNK_BYTES = 1024 * 1024
_NAMED_DIGITS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export did.

    Attributes:
        where: the directory or prefix with the manifest.
        first_seq, last_seq: rows that it did not have before; `first_seq` is the greater when
            there were none.
        put, kept, removed: files; `size` of those that were put.
    """

    where: str
    node: str
    first_seq: int
    last_seq: int
    put: int
    kept: int
    removed: int
    size: int


def export(
    copy: Path, head: Head, key: SigningKey, *, target: str, now: datetime, work: Path
) -> Exported:
    """Bring the export of a store in `target` up to date, from a copy that is changed on the way.

    `head` was acknowledged before the copy was made. `work` is an empty directory.

    Raises:
        StoreDamaged: the copy lacks rows, or has views that cmesh did not make.
        StoreError: the target has another log under this name, or cannot be written.
    """
    _complete(copy, head)
    manifest, staged = _staged(copy, key, now, work)
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", manifest.node) or "node"
    place = open_place(target, f"{stem}-{manifest.incarnation[:12]}")
    before = _before(place, manifest, copy)
    listing = place.listing()
    put = [file for file in manifest.files if listing.get(file.path) != file.size]
    for file in put:
        place.put(staged[file.path], file.path)
    if before is None or not _same(before, manifest):
        sealed = work / MANIFEST
        sealed.write_bytes(seal(manifest, key))
        place.put(sealed, MANIFEST)
    stale = listing.keys() - {file.path for file in manifest.files} - {MANIFEST}
    for name in stale:
        place.delete(name)
    return Exported(
        where=place.where,
        node=manifest.node,
        first_seq=1 if before is None else before.last_seq + 1,
        last_seq=manifest.last_seq,
        put=len(put),
        kept=len(manifest.files) - len(put),
        removed=len(stale),
        size=sum(file.size for file in put),
    )


def _complete(copy: Path, head: Head) -> None:
    database = Database(copy)
    try:
        database.open()
        try:
            top = bring_in(database, database.top(), None)
            if top.seq < head.seq or (head.seq and database.hash_at(head.seq) != head.hash):
                raise StoreDamaged(f"the store does not have row {head.seq} as it was acknowledged")
            database.checkpoint()
        except duckdb.Error as error:
            raise translate(error, database.path) from error
    finally:
        database.close()


def _staged(
    copy: Path, key: SigningKey, now: datetime, work: Path
) -> tuple[Manifest, dict[str, Path]]:
    """Write all files below `work`; return the manifest, unsigned, and where each file is."""
    path = Database(copy).path
    try:
        with duckdb.connect(str(path), read_only=True, config=_CONFIG) as connection:
            strange = foreign(connection)
            if strange:
                raise StoreDamaged(strange, hint="run `cmesh audit verify`")
            _confine(connection, work)
            files, staged = list[ExportedFile](), dict[str, Path]()
            for kind, name in _sets(connection):
                for file, at in _write(connection, kind, name, work):
                    files.append(file)
                    staged[file.path] = at
            return _manifest(connection, key, now, files), staged
    except duckdb.Error as error:
        raise translate(error, path) from error


def _confine(connection: duckdb.DuckDBPyConnection, work: Path) -> None:
    spill = work / "spill"
    spill.mkdir(mode=0o700)
    allowed = str(work).replace("'", "''")
    for statement in (
        "SET TimeZone='UTC'",
        f"SET temp_directory='{allowed}/spill'",
        f"SET allowed_directories=['{allowed}']",
        "SET enable_external_access=false",
        "SET lock_configuration=true",
    ):
        connection.execute(statement)


def _sets(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    found = connection.execute(
        "SELECT 'rows', table_name FROM duckdb_tables() WHERE NOT internal"
        " UNION ALL SELECT 'views', view_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL"
    ).fetchall()
    return [(kind, name) for kind, name in found if name not in _BOOKS]


def _write(
    connection: duckdb.DuckDBPyConnection, kind: str, name: str, work: Path
) -> list[tuple[ExportedFile, Path]]:
    """Write one table or view, a directory a day; nothing for an empty one."""
    columns = {
        str(column): str(type_)
        for column, type_, *_ in connection.execute(f'DESCRIBE "{name}"').fetchall()
    }
    day = next((one for one in _MOMENTS if columns.get(one) == "TIMESTAMP WITH TIME ZONE"), None)
    directory = work / kind / name
    directory.mkdir(mode=0o700, parents=True)
    chosen, into = f'SELECT * FROM "{name}"', f"{directory}/all.parquet"  # noqa: S608
    options = "FORMAT parquet, COMPRESSION zstd"
    if day and "day" not in columns:
        # A row without its moment would have no place; there should be none.
        chosen = (
            f"SELECT *, coalesce({day}, TIMESTAMPTZ '1970-01-01Z')::DATE AS day FROM \"{name}\""  # noqa: S608
        )
        into, options = str(directory), f"{options}, PARTITION_BY (day), OVERWRITE_OR_IGNORE"
    # The same rows must give the same bytes: a whole order, the number first where there is one.
    first = [column for column in ("seq", "task_id", "n") if column in columns]
    order = [f'"{column}"' for column in (*first, *(c for c in columns if c not in first))]
    order = ["day", *order] if "PARTITION_BY" in options else order
    connection.execute(
        f"COPY ({chosen} ORDER BY {', '.join(order)}) TO '{_quoted(into)}' ({options})"
    )
    return _named(connection, kind, name, directory, numbered="seq" in columns)


def _named(
    connection: duckdb.DuckDBPyConnection, kind: str, name: str, directory: Path, *, numbered: bool
) -> list[tuple[ExportedFile, Path]]:
    seqs = "min(seq), max(seq)" if numbered else "NULL, NULL"
    found: list[tuple[ExportedFile, Path]] = []
    for path in sorted(directory.rglob("*.parquet")):
        row = connection.execute(
            f"SELECT count(*), {seqs} FROM read_parquet('{_quoted(path)}')"  # noqa: S608
        ).fetchone()
        if row is None or not row[0]:
            continue
        sha256 = _sha256(path)
        day = path.parent.name.removeprefix("day=") if path.parent != directory else ""
        below = "/".join([kind, name, *([path.parent.name] if day else [])])
        file = ExportedFile.model_validate(
            {
                "path": f"{below}/part-{sha256[:_NAMED_DIGITS]}.parquet",
                "kind": kind,
                "name": name,
                "day": day,
                "rows": row[0],
                "first_seq": row[1],
                "last_seq": row[2],
                "size": path.stat().st_size,
                "sha256": sha256,
            }
        )
        found.append((file, path))
    return found


def _manifest(
    connection: duckdb.DuckDBPyConnection,
    key: SigningKey,
    now: datetime,
    files: Sequence[ExportedFile],
) -> Manifest:
    last = connection.execute("SELECT max(seq), hex(arg_max(h, seq)) FROM log").fetchone()
    store = connection.execute(
        "SELECT incarnation, node, epoch_us(created_at), coalesce((SELECT"
        " arg_max(data->>'incarnation', seq) FROM audit_row WHERE kind = 'store_restored'),"
        " incarnation) FROM store_row"
    ).fetchone()
    if last is None or store is None or not last[0]:
        raise StoreError("the store has no rows yet", hint="run `cmesh up` once")
    ids = [node_id for node_id, own in proofs.identities(connection, NODE_UP) if own == key.public]
    peers = connection.execute(
        "SELECT peer_id, peer, key, trusted, decided_by FROM peers WHERE key IS NOT NULL ORDER BY 1"
    ).fetchall()
    return Manifest(
        format=FORMAT,
        node=store[1],
        node_id=ids[-1] if ids else "",
        key=key.public,
        incarnation=store[3],
        origin=Origin(incarnation=store[0], node=store[1], created_us=store[2]),
        schema_version=schema_version(connection),
        cmesh=__version__,
        exported_at=f"{now:%Y-%m-%dT%H:%M:%SZ}",
        first_seq=1,
        last_seq=last[0],
        head_hash=str(last[1]).lower(),
        head_signature="",
        files=tuple(files),
        peers=trusted_peers(peers),
    )


def _before(place: Place, manifest: Manifest, copy: Path) -> Manifest | None:
    """Return the export that is there, which must be an earlier one of this log."""
    data = place.read(MANIFEST, MOST_BYTES)
    if data is None:
        return None
    where = f"{place.where.rstrip('/')}/{MANIFEST}"
    before = read_manifest(data, where)
    hint = "export to another place, and keep this one: it may be all there is of those rows"
    if before.key != manifest.key or before.incarnation != manifest.incarnation:
        raise StoreError(f"`{where}` is another node's", hint=hint)
    if before.last_seq > manifest.last_seq:
        raise StoreError(
            f"`{where}` has row {before.last_seq}, this store ends at {manifest.last_seq}",
            hint=hint,
        )
    with duckdb.connect(str(Database(copy).path), read_only=True, config=_CONFIG) as connection:
        row = connection.execute(
            "SELECT hex(h) FROM log WHERE seq = $1", [before.last_seq]
        ).fetchone()
    if row is None or str(row[0]).lower() != before.head_hash:
        raise StoreError(f"`{where}` has another row {before.last_seq} than this store", hint=hint)
    return before


def _same(before: Manifest, now: Manifest) -> bool:
    changing = {"exported_at": "", "signature": "", "head_signature": "", "cmesh": ""}
    return before.model_copy(update=changing) == now.model_copy(update=changing)


def _quoted(path: object) -> str:
    return str(path).replace("'", "''")


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()
