"""What the store does about files that somebody or something changed."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from cmesh.errors import SchemaTooNew, StoreBusy, StoreDamaged, StoreError, UnsafePermissions
from cmesh.model import Direction, TaskId
from cmesh.protocol.facts import (
    ACCEPTED,
    INTENT,
    QUEUED,
    RUNNING,
    SENT,
    TERMINALS,
    WAITING,
    CallerFacts,
    WorkerFacts,
)
from cmesh.protocol.state import public
from cmesh.store import migrations
from cmesh.store.drafts import drafts
from cmesh.store.migrations import describe
from cmesh.store.store import Store
from tests.unit.store.conftest import OpenStore
from tests.unit.store.support import (
    add_migration,
    event,
    fact,
    result,
    state,
    task,
    tasks_in_the_file,
)

pytestmark = pytest.mark.anyio


async def test_every_file_is_its_owners_alone(open_store: OpenStore, tmp_path: Path) -> None:
    store = await open_store()
    await store.commit([task()])
    await store.verify()
    await store.blob(b"x")
    for path in [tmp_path / "state", *(tmp_path / "state").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0 or path.suffix == ".wal", path
    await store.close()
    (tmp_path / "state").chmod(0o755)
    with pytest.raises(UnsafePermissions):
        await open_store()


async def test_rows_still_in_the_journal_are_brought_in_at_the_next_start(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = await open_store()
    asked = [task() for _ in range(5)]
    await store.commit(asked)
    shutil.copytree(tmp_path / "state", tmp_path / "crashed")
    again = await open_store("crashed")
    assert again.head == store.head
    assert len(await tasks_in_the_file(again, limit=9)) == 5
    assert not list((tmp_path / "crashed").glob("journal-*"))


async def test_a_torn_last_append_was_never_acknowledged_and_goes(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = await open_store()
    await store.commit([task()])
    head = store.head
    crashed = tmp_path / "crashed"
    await store.close()
    shutil.copytree(tmp_path / "state", crashed)
    (crashed / f"journal-{head[0] + 1:020d}").write_bytes(b"cmj1\x40\0\0\0\1\2\3\4half of a fr")
    again = await open_store("crashed")
    assert again.head == head


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        ("no file", "is missing"),
        ("no head", "head file is missing"),
        ("garbled head", "cannot be read"),
        ("older file", "rows are lost"),
        ("flipped bits", "cannot be read"),
        ("cut off", "cannot be read"),
        ("rewritten row", "not the one that was acknowledged"),
    ],
)
async def test_a_store_that_lost_acknowledged_rows_does_not_open(
    open_store: OpenStore, tmp_path: Path, break_it: str, said: str
) -> None:
    directory = tmp_path / "state"
    store = await open_store()
    await store.commit([task()])
    await store.close()
    shutil.copy(directory / "store.duckdb", directory / "early.duckdb")
    store = await open_store()
    await store.commit([task(), task()])
    await store.close()
    _break(directory, break_it)
    for _ in range(2):
        with pytest.raises(StoreDamaged, match=said):
            await open_store()


async def test_a_damaged_journal_is_noticed(open_store: OpenStore, tmp_path: Path) -> None:
    store = await open_store()
    await store.commit([task()])
    await store.commit([task()])
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path / "state", crashed, ignore=shutil.ignore_patterns("*.wal"))
    for journal in crashed.glob("journal-*"):
        _flip(journal, 30)
    (crashed / "store.duckdb").unlink()
    with duckdb.connect(str(crashed / "store.duckdb")) as connection:
        migrations.migrate(connection)
    with pytest.raises(StoreDamaged, match="are lost"):
        await open_store("crashed")


async def test_a_store_of_a_newer_cmesh_is_left_alone(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = await open_store()
    await store.close()
    with duckdb.connect(str(tmp_path / "state" / "store.duckdb")) as connection:
        connection.execute("INSERT INTO schema_version VALUES (99, now(), '9.9')")
    with pytest.raises(SchemaTooNew, match="schema 99"):
        await open_store()


async def test_a_migration_backs_up_first_and_is_recorded(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    await store.commit([task()])
    await store.close()
    add_migration(monkeypatch, tmp_path, "ALTER TABLE audit_row ADD COLUMN extra VARCHAR;")
    again = await open_store()
    await again.commit([task()])
    assert len(await tasks_in_the_file(again, limit=9)) == 2
    rows = await again.sql("SELECT kind FROM audit WHERE kind LIKE 'store_%' ORDER BY seq", [], 9)
    assert rows.rows == [["store_created"], ["store_migrated"]]
    backup = tmp_path / "state" / f"backup-schema-{len(migrations.MIGRATIONS)}" / "store.duckdb"
    with duckdb.connect(str(backup), read_only=True) as connection:
        assert migrations.schema_version(connection) == len(migrations.MIGRATIONS)


async def test_a_newer_cmesh_installed_under_a_running_daemon_does_not_touch_the_file(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    asked = task()
    await store.commit([asked])
    process = store._process  # pyright: ignore[reportPrivateUsage]
    with monkeypatch.context() as patch:
        add_migration(patch, tmp_path, "SELECT 1;")
        (tmp_path / "newer" / "cmesh" / "__init__.py").write_text("__version__ = '99'", "utf-8")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(StoreError, match="cmesh 99 was installed over") as caught:
            await store.verify()
        assert "cmesh down" in caught.value.hint
        await store.commit([task()])
        assert await store.task(asked.task_id) is not None
    assert (await store.verify()).rows == store.head[0]


async def test_a_failed_migration_changes_nothing(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    await store.commit([task()])
    head = store.head
    await store.close()
    with monkeypatch.context() as patch:
        add_migration(patch, tmp_path, "CREATE TABLE half (a INTEGER); SELECT error('stop');")
        with pytest.raises(StoreError, match="stop"):
            await open_store()
    again = await open_store()
    assert again.head == head


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        ("UPDATE log SET canon = replace(canon, 'myapp', 'other') WHERE seq = 2", 2),
        ("DELETE FROM log WHERE seq = 3", 3),
        ("UPDATE task_row SET directory = '/etc' WHERE seq = 2", 2),
        ("UPDATE task_row SET prompt = 'harmless' WHERE seq = 2", 2),
        ("UPDATE task_row SET not_after = not_after + INTERVAL 1 DAY WHERE seq = 2", 2),
        ("DELETE FROM step_row WHERE seq = 4", 4),
        ("UPDATE event_row SET data = '{\"n\": 2}' WHERE seq = 3", 3),
        ("UPDATE result_row SET cost_usd = 0.01 WHERE seq = 5", 5),
        ("UPDATE result_row SET truncated = true WHERE seq = 5", 5),
        ("UPDATE task_row SET prompt = NULL, salt = NULL WHERE seq = 2", 2),
        ("UPDATE event_row SET text = NULL, data = NULL, salt = NULL", 3),
        ("INSERT INTO step_row SELECT * FROM step_row WHERE seq = 4", 4),
        ("UPDATE result_row SET ts = ts + INTERVAL 1 SECOND WHERE seq = 5", 5),
        ("UPDATE log SET kind = 'fact' WHERE seq = 2", 2),
    ],
)
async def test_a_changed_row_is_found(
    open_store: OpenStore, tmp_path: Path, change: str, bad: int
) -> None:
    store = await open_store()
    asked = task()
    await store.commit([asked, event(asked, 1), fact(asked, "late"), result(asked)])
    await store.commit([state(asked, "succeeded")])
    assert (await store.verify()).bad_seq is None
    await store.close()
    with duckdb.connect(str(tmp_path / "state" / "store.duckdb")) as connection:
        connection.execute(change)
    again = await open_store()
    found = await again.verify()
    assert (found.bad_seq, found.head_ok) == (bad, True)


async def test_every_view_and_column_has_a_comment() -> None:
    described = describe()
    assert {view for view, *_ in described} == {
        "tasks", "events", "decisions", "denials", "results", "receipts", "peers", "audit",
        "threads", "connections", "steps", "commands_run", "releases",
        "chain_bad", "traces", "costs", "approvals", "files_changed",
    }  # fmt: skip
    assert [row for row in described if not row[3]] == []


CALLER_STATES = (QUEUED, SENT, ACCEPTED, *TERMINALS)
WORKER_STATES = (ACCEPTED, WAITING, INTENT, RUNNING, *TERMINALS)


async def test_the_state_a_view_shows_is_the_snapshots(open_store: OpenStore) -> None:
    store = await open_store()
    facts = ((), ("cancel_wish",), ("waiting_approval",), ("expiry_wish", "gap"))
    told = ((), ("running",), ("queued",), ("waiting_approval", "text", "running"))
    cases = [
        (direction, name, more, kinds)
        for direction, names in ((Direction.OUT, CALLER_STATES), (Direction.IN, WORKER_STATES))
        for name in ("", *names)
        for more in facts
        for kinds in told
    ]
    for direction, name, more, kinds in cases:
        asked = task(direction=direction)
        steps = [state(asked, name)] if name else []
        steps += [fact(asked, one) for one in more]
        steps += [event(asked, seq, kind) for seq, kind in enumerate(kinds, start=1)]
        await store.commit([asked, *steps])
    rows = (await store.sql("SELECT task_id, state FROM tasks", [], 999)).rows
    assert len(rows) == len(cases)
    for task_id, shown in rows:
        found = await store.task(TaskId(str(task_id)))
        assert found is not None
        assert (found.record.direction, found.state, found.public_state) == (
            found.record.direction,
            found.state,
            shown,
        )


async def test_each_step_has_the_name_that_people_see(store: Store) -> None:
    sides = (
        (Direction.OUT, "caller", (QUEUED, SENT, ACCEPTED, *TERMINALS)),
        (Direction.IN, "worker", (ACCEPTED, WAITING, INTENT, RUNNING, *TERMINALS)),
    )
    for direction, side, names in sides:
        asked = task(direction=direction)
        await store.commit([asked, *(state(asked, name) for name in names)])
        sql = f"SELECT state FROM steps WHERE task_id = '{asked.task_id}' ORDER BY seq"
        seen = [str(row[0]) for row in (await store.sql(sql, [], 99)).rows]
        wanted = [
            public("caller", name, CallerFacts(state=name))
            if side == "caller"
            else public("worker", name, WorkerFacts(state=name))
            for name in names
        ]
        assert seen == [one.value for one in wanted]


async def test_a_file_another_process_has_open_is_refused(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = await open_store()
    await store.close()
    path = tmp_path / "state" / "store.duckdb"
    script = f"import duckdb; c = duckdb.connect({str(path)!r}); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreBusy):
            await open_store()
        other.kill()


def _break(directory: Path, how: str) -> None:
    database, head = directory / "store.duckdb", directory / "head"
    match how:
        case "no file":
            database.unlink()
        case "no head":
            head.unlink()
        case "garbled head":
            head.write_bytes(b"x" * 8192)
        case "older file":
            shutil.copy(directory / "early.duckdb", database)
        case "flipped bits":
            _flip(database, 20)
        case "cut off":
            os.truncate(database, 5000)
        case _:
            with duckdb.connect(str(database)) as connection:
                connection.execute("UPDATE log SET h = unhex(repeat('ab', 32)) WHERE seq = 4")


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_a_task_from_before_follow_up_turns_is_a_first_turn(tmp_path: Path) -> None:
    record = task()
    with duckdb.connect(str(tmp_path / "old.duckdb")) as connection:
        real = migrations._text  # pyright: ignore[reportPrivateUsage]  # the released step
        connection.execute(real("schema.sql"))
        connection.execute(
            "CREATE TABLE schema_version AS SELECT 1 AS version, now() AS applied_at, '0' AS app_version"
        )
        connection.execute(
            "INSERT INTO task_row BY NAME SELECT 1 AS seq, now() AS ts, $1::UUID AS task_id,"
            " 'out' AS direction, 'n' AS peer_id, 'n' AS peer, '' AS principal, '' AS session,"
            " '' AS project, '' AS idempotency_key, '' AS payload_hash, '' AS worker_incarnation,"
            " 'x' AS runner, 'full' AS profile, '/' AS directory, 0 AS prompt_bytes,"
            " 1 AS runtime_s, 1 AS limit_bytes, '[]' AS accept, '[]' AS origin, now() AS not_after,"
            " '' AS traceparent",
            [record.task_id],
        )
        assert migrations.migrate(connection) == list(range(2, len(migrations.MIGRATIONS) + 1))
        turns = connection.execute("SELECT thread::VARCHAR, turn, follows FROM tasks").fetchall()
        [draft] = drafts(connection, [record.task_id])
    assert turns == [(record.task_id, 1, None)]
    assert (draft.record.first, draft.record.turn) == (record.task_id, 1)


async def test_turns_come_back_as_they_were_stored(open_store: OpenStore) -> None:
    store, one = await open_store(), task()
    two = task()
    spec = replace(two.spec, follows=one.task_id)
    two = replace(two, spec=spec, thread=one.task_id, turn=2)
    await store.commit([one])
    await store.commit([two])
    assert store.followers(one.task_id) == [two.task_id]
    await store.close()
    again = await open_store()
    assert again.followers(one.task_id) == [two.task_id]
    found = await again.task(two.task_id)
    assert found is not None
    assert found.record == two
    assert (await again.verify()).bad_seq is None
    rows = await again.sql("SELECT turns, last_task FROM threads WHERE turns > 1", [], 9)
    assert rows.rows == [[2, two.task_id]]
