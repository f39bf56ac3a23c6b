"""Reading exports back: checked against their manifests, loaded into one database. Blocks.

The rows are loaded and the views made anew by this code, so that several nodes' exports, also
of older versions, answer as their stores would; the export's own view files are for others.
INVARIANT: no file is read as Parquet before its digest is the one that a manifest names.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import _duckdb as duckdb

from cmesh.errors import SchemaTooNew, StoreDamaged, StoreError
from cmesh.store.audit import Report, check_rows
from cmesh.store.chain import from_micros
from cmesh.store.database import Database, translate
from cmesh.store.head import Head
from cmesh.store.manifest import MANIFEST, MOST_BYTES, Manifest, read_manifest
from cmesh.store.migrations import MIGRATIONS, apply_all
from cmesh.store.places import Place, open_place
from cmesh.store.records import Finding
from cmesh.store.snapshot import FILE_NAME

__all__ = [
    "Export",
    "Loaded",
    "Told",
    "check_chain",
    "check_heads",
    "fetch",
    "find",
    "keys_known",
    "load",
]

Told = Callable[[str], None]
"""Told what is being done, in words."""

_CHUNK_BYTES = 1024 * 1024
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "async_threads": 1,
    "memory_limit": "2GB",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An export whose manifest its key has signed; `node` is unique among those opened."""

    place: Place
    manifest: Manifest
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An export with its chain's files on this machine, each as the manifest says."""

    export: Export
    rows: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])


def find(targets: Sequence[str]) -> list[Export]:
    """Return the exports in places: each is one, or has some in directories of its own.

    Raises:
        StoreError: a place has none, or cannot be read.
        StoreDamaged: a manifest is not what its key signed.
        SchemaTooNew: a newer cmesh wrote one.
    """
    found: dict[tuple[str, str], Export] = {}
    for target in targets:
        place = open_place(target)
        names = [n for n in place.listing() if n == MANIFEST or n.endswith(f"/{MANIFEST}")]
        # One level down only: an export has directories of its own.
        below = sorted(n.rpartition("/")[0] for n in names if n.count("/") < 2)
        if not below:
            hint = "name a directory or prefix that `cmesh audit export` wrote to"
            raise StoreError(f"there is no export in `{place.where}`", hint=hint)
        for directory in below:
            export = _open(open_place(target, directory), found)
            found[export.manifest.key, export.manifest.incarnation] = export
    return list(found.values())


def fetch(export: Export, into: Path, *, whole: bool, tell: Told | None = None) -> Loaded:
    """Check the files of an export and return those of the chain; with `whole` its views' too.

    Raises:
        StoreDamaged: one is missing, or not as the manifest says.
        StoreError: one cannot be had.
    """
    rows: dict[str, list[Path]] = {}
    files = [file for file in export.manifest.files if whole or file.kind == "rows"]
    for number, file in enumerate(files, start=1):
        try:
            path = export.place.fetch(file.path, into)
            good = path.stat().st_size == file.size and _sha256(path) == file.sha256
        except (OSError, StoreError) as error:
            raise StoreDamaged(_of(export, f"its file `{file.path}` cannot be had")) from error
        if not good:
            raise StoreDamaged(_of(export, f"its file `{file.path}` is not as it was written"))
        if file.kind == "rows":
            rows.setdefault(file.name, []).append(path)
        if tell is not None:
            tell(f"{export.node}: file {number:,} of {len(files):,}")
    return Loaded(export=export, rows=rows)


def check_chain(loaded: Loaded, work: Path) -> Report:
    """Check one export's rows and signatures as `cmesh audit verify` does a store's.

    `work` is an empty directory. About 20 s a million rows.

    Raises:
        StoreDamaged: the files cannot be loaded.
    """
    manifest = loaded.export.manifest
    database = Database(work)
    database.open()
    database.close()
    try:
        with duckdb.connect(str(work / FILE_NAME), config=_CONFIG) as connection:
            connection.execute("SET TimeZone='UTC'")
            _fill(connection, loaded)
            head = Head(seq=manifest.last_seq, hash=bytes.fromhex(manifest.head_hash))
            return check_rows(connection, head, last=manifest.last_seq)
    except duckdb.Error as error:
        raise _unreadable(loaded.export, error) from error


def load(loaded: Sequence[Loaded], work: Path) -> Path:
    """Make one database of exports in the directory `work` and return its file.

    A schema `n1`, `n2`, ... has each node's own tables and views. The views outside of them are
    those of all nodes, with a first column `node`.

    Raises:
        StoreDamaged: the files cannot be loaded.
    """
    path = work / FILE_NAME
    with duckdb.connect(str(path), config=_CONFIG) as connection:
        connection.execute("SET TimeZone='UTC'")
        for number, one in enumerate(loaded, start=1):
            try:
                # In one transaction: hundreds of statements, each synced, are most of the time.
                connection.begin()
                connection.execute(f"CREATE SCHEMA n{number}")
                connection.execute(f"SET schema='n{number}'")
                apply_all(connection)
                connection.commit()
                _fill(connection, one)
            except duckdb.Error as error:
                raise _unreadable(one.export, error) from error
        connection.execute("SET schema='main'")
        connection.begin()
        _join(connection, [one.export.node for one in loaded])
        connection.commit()
        connection.execute("CHECKPOINT")
    path.chmod(0o600)
    return path


def check_heads(database: Path, exports: Sequence[Export]) -> Finding | None:
    """Compare what each node holds of another's log with that log; None = nothing differs."""
    with duckdb.connect(str(database), read_only=True, config=_CONFIG) as connection:
        for holder, holding in enumerate(exports, start=1):
            for number, one in enumerate(exports, start=1):
                row = connection.execute(
                    f"SELECT r.head_seq FROM n{holder}.receipt_row r"  # noqa: S608  # numbers
                    f" LEFT JOIN n{number}.log l ON l.seq = r.head_seq"
                    " WHERE r.receipt_kind = 'head' AND r.peer_id = $1 AND r.head_seq <= $2"
                    " AND r.head_hash IS DISTINCT FROM lower(hex(l.h)) ORDER BY 1 LIMIT 1",
                    [one.manifest.node_id, one.manifest.last_seq],
                ).fetchone()
                if row is not None:
                    what = f"`{holding.node}` holds a head of it with another row of this number"
                    return Finding(seq=int(row[0]), kind="receipt", what=_of(one, what))
    return None


def keys_known(exports: Sequence[Export], own: str) -> dict[str, str]:
    """Say of each export's key, by the node's name here, who vouches for it."""
    return {one.node: _vouched(one, exports, own) for one in exports}


def _vouched(one: Export, exports: Sequence[Export], own: str) -> str:
    if own and one.manifest.key == own:
        return "this node's own key"
    told = {"person": "confirmed by a person", "first_use": "trusted on first use"}
    said = [
        f"{told.get(peer.how, 'trusted')} on {other.node}"
        for other in exports
        for peer in other.manifest.peers
        if peer.peer_id == one.manifest.node_id and peer.key == one.manifest.key and peer.trusted
    ]
    # What a person compared says more than what was pinned unseen.
    return min(said, default="vouched for by nobody here: compare its fingerprint")


def _open(place: Place, found: dict[tuple[str, str], Export]) -> Export:
    where = f"{place.where.rstrip('/')}/{MANIFEST}"
    data = place.read(MANIFEST, MOST_BYTES)
    if data is None:
        raise StoreError(f"`{where}` is gone", hint="try again: an export may be running")
    manifest = read_manifest(data, where)
    if manifest.schema_version > len(MIGRATIONS):
        raise SchemaTooNew(
            f"`{where}` has schema {manifest.schema_version}, this cmesh knows {len(MIGRATIONS)}"
        )
    taken = {export.node for key, export in found.items() if key != _mark(manifest)}
    node = manifest.node
    for more in (manifest.incarnation[:6], manifest.key[:6], manifest.incarnation):
        if node not in taken:
            break
        node = f"{manifest.node}-{more}"
    return Export(place=place, manifest=manifest, node=node)


def _mark(manifest: Manifest) -> tuple[str, str]:
    return manifest.key, manifest.incarnation


def _fill(connection: duckdb.DuckDBPyConnection, loaded: Loaded) -> None:
    """Insert an export's rows into the tables of the current schema."""
    export = loaded.export
    origin = export.manifest.origin
    there = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE NOT internal"
        " AND schema_name = current_schema()"
    ).fetchall()
    tables = {str(row[0]) for row in there}
    connection.execute(
        "INSERT INTO store_row VALUES ($1, $2, $3)",
        [origin.incarnation, origin.node, from_micros(origin.created_us)],
    )
    for table, paths in loaded.rows.items():
        if table not in tables or table in {"store_row", "schema_version"}:
            raise StoreDamaged(_of(export, f"it has rows of `{table}`, which is no table of cmesh"))
        connection.execute(
            f'INSERT INTO "{table}" BY NAME SELECT * FROM read_parquet('  # noqa: S608  # our table
            "$1, hive_partitioning=false, union_by_name=true)",
            [[str(path) for path in paths]],
        )


def _join(connection: duckdb.DuckDBPyConnection, nodes: Sequence[str]) -> None:
    columns = connection.execute(
        "SELECT v.view_name, v.comment, list(c.column_name), list(c.comment)"
        " FROM duckdb_views() v JOIN duckdb_columns() c ON c.table_name = v.view_name"
        " AND c.schema_name = v.schema_name WHERE v.schema_name = 'n1' AND NOT v.internal"
        " GROUP BY ALL ORDER BY 1"
    ).fetchall()
    for view, comment, names, comments in columns:
        rest = "* RENAME (node AS node_told)" if "node" in names else "*"
        selects = [
            f'SELECT {_text(node)} AS node, {rest} FROM n{number}."{view}"'  # noqa: S608
            for number, node in enumerate(nodes, start=1)
        ]
        connection.execute(f'CREATE VIEW "{view}" AS {" UNION ALL BY NAME ".join(selects)}')
        connection.execute(f'COMMENT ON VIEW "{view}" IS {_text(comment or "")}')
        connection.execute(f"COMMENT ON COLUMN \"{view}\".node IS 'whose record it is'")
        for name, said in zip(names, comments, strict=True):
            shown = "node_told" if name == "node" else name
            connection.execute(f'COMMENT ON COLUMN "{view}"."{shown}" IS {_text(said or "")}')


def _unreadable(export: Export, error: duckdb.Error) -> StoreError:
    told = translate(error, Path(export.node))
    if type(told) is StoreError:
        return StoreDamaged(_of(export, f"its files cannot be loaded: {told.message}"))
    return told


def _of(export: Export, what: str) -> str:
    return f"the export of `{export.node}` in `{export.place.where}`: {what}"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()
