"""The copy before a migration: whole, of one state only, and a way back."""

from pathlib import Path

import pytest

from cmesh.errors import SchemaTooNew, StoreBusy, StoreError
from cmesh.store import migrations
from cmesh.store.backup import backup_directory, head_mark, rehearse, restore
from tests.unit.store.conftest import OpenStore
from tests.unit.store.support import add_migration, task

pytestmark = pytest.mark.anyio

MORE = "ALTER TABLE audit_row ADD COLUMN extra VARCHAR;"
FAILS = "SELECT error('no such luck');"


def add(monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    """Let the code know one migration more."""
    read = migrations._text  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, "more.sql"))
    monkeypatch.setattr("cmesh.store.backup.MIGRATIONS", migrations.MIGRATIONS)

    def text(name: str) -> str:
        return sql if name == "more.sql" else read(name)

    monkeypatch.setattr(migrations, "_text", text)


async def test_a_migrated_store_goes_back_to_the_state_before_and_no_other(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, schema = tmp_path / "state", len(migrations.MIGRATIONS)
    store = await open_store()
    await store.commit([task()])
    before = store.head
    await store.close()
    mark = head_mark(directory)
    with monkeypatch.context() as patch:
        add_migration(patch, tmp_path, MORE)
        newer = await open_store()
        assert newer.head != before
        with pytest.raises(StoreBusy):
            restore(directory, schema, mark)
        await newer.close()
    with pytest.raises(SchemaTooNew):
        await open_store()
    assert not restore(directory, schema, head_mark(directory))  # a later state's mark
    assert not restore(directory, schema, b"")
    assert not restore(directory, schema + 1, mark)
    assert restore(directory, schema, mark)
    again = await open_store()
    assert again.head == before
    assert len(await again.tasks(limit=9)) == 1
    assert backup_directory(directory, schema).exists()


async def test_a_copy_of_a_store_is_tried_and_the_store_stays_what_it_was(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    await store.commit([task()])
    first, second = await store.copy(), await store.copy()
    assert not rehearse(first).migrates
    with monkeypatch.context() as patch:
        add(patch, MORE)
        found = rehearse(first)
        assert (found.want - found.have, found.migrates) == (1, True)
    with pytest.raises(SchemaTooNew):
        rehearse(first)
    with monkeypatch.context() as patch:
        add(patch, FAILS)
        with pytest.raises(StoreError, match="no such luck"):
            rehearse(second)
    await store.commit([task()])


def test_without_a_store_there_is_nothing_to_migrate(tmp_path: Path) -> None:
    found = rehearse(tmp_path)
    assert (found.have, found.migrates) == (0, False)
