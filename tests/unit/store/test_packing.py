"""The log's texts packed: in old stores as in new ones, with every row and its hash as it was."""

from pathlib import Path

import duckdb
import pytest

from cmesh.store import migrations
from cmesh.store.compacting import Leash, copy_compact
from cmesh.store.database import Database
from cmesh.store.schema import foreign
from cmesh.store.snapshot import FILE_NAME

BEFORE = migrations.MIGRATIONS.index("packing.sql")
ROWS = "SELECT seq, ts, kind, task_id, canon, h FROM log ORDER BY seq"


def _older(directory: Path, patch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Make a store of the version before with some rows in its log."""
    directory.mkdir()
    patch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:BEFORE])
    database = Database(directory)
    assert database.open() == list(range(1, BEFORE + 1))
    database.close()
    patch.undo()
    with duckdb.connect(str(directory / FILE_NAME)) as connection:
        connection.execute("SET TimeZone='UTC'")
        connection.execute(
            "INSERT INTO log SELECT n, now(), 'event', uuid(), 'text ' || n, unhex(sha256(n::VARCHAR))"
            " FROM range(1, 5000) t(n)"
        )
        return connection.execute(ROWS).fetchall()


def _packed(path: Path) -> tuple[list[tuple[object, ...]], set[str]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("SET TimeZone='UTC'")
        assert not foreign(connection)
        kinds = connection.execute(
            "SELECT DISTINCT compression FROM pragma_storage_info('log')"
            " WHERE column_name = 'canon' AND segment_type = 'VARCHAR'"
        ).fetchall()
        return connection.execute(ROWS).fetchall(), {str(kind) for (kind,) in kinds}


def test_an_older_log_is_packed_with_all_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    before = _older(store, monkeypatch)
    database = Database(store)
    assert database.open()[0] == BEFORE + 1
    database.close()
    assert _packed(store / FILE_NAME) == (before, {"ZSTD"})


def test_a_file_that_is_written_anew_is_packed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    before = _older(store, monkeypatch)
    database = Database(store)
    database.open()
    database.close()
    leash = Leash()
    try:
        copy_compact(store / FILE_NAME, tmp_path / "new", leash)
    finally:
        leash.close()
    assert _packed(tmp_path / "new") == (before, {"ZSTD"})
