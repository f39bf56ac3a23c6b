"""Texts that are erased: gone from every file, while the chain still fits."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from cmesh.errors import DiskFull, StoreError, TaskConflict
from cmesh.model import Changes, Direction, NodeId
from cmesh.store.answer import Question
from cmesh.store.chain import canonical, digest
from cmesh.store.records import (
    AuditRecord,
    Record,
    ResultRecord,
    TaskRecord,
)
from cmesh.store.row import Row
from cmesh.store.store import Store
from cmesh.store.texts import sealed
from tests.unit.store.support import (
    FixedClock,
    acknowledgement,
    decision,
    event,
    fact,
    result,
    state,
    task,
)

pytestmark = pytest.mark.anyio

OpenStore = Callable[..., Awaitable[Store]]
WORDS = ("PROMPTWORD", "EVENTWORD", "RESULTWORD", "REASONWORD", "PATCHWORD", "HOSTWORD", "SIGNWORD")
ALL = [word.encode() for word in WORDS]


def told(record: TaskRecord) -> list[Record]:
    """All that a task leaves behind, with a word of its own in every kind of text."""
    spec = replace(record.spec, accept=("make PROMPTWORD",), answer_schema='{"PROMPTWORD":1}')
    record = replace(record, spec=spec)
    end = result(record, text="the RESULTWORD")
    whole = replace(
        end.result,
        error="RESULTWORD",
        evidence={"commands": [{"command": "cat RESULTWORD"}]},
        patch={"files": ["PATCHWORD.py"]},
        artifacts={"files": [{"path": "PATCHWORD"}]},
        basis={"caller": "PATCHWORD"},
        extra={"newer": "RESULTWORD"},
    )
    signed = replace(end, result=whole, worker_signature="SIGNWORD" + "w" * 78)
    refused = replace(
        decision(record, "allow"), reason="REASONWORD", failed=({"got": "REASONWORD"},)
    )
    done = [fact(record, "acknowledged")] if record.direction is Direction.IN else []
    connection = AuditRecord(kind="connection", task_id=record.task_id, data={"host": "HOSTWORD"})
    step = state(record, "running", reason="REASONWORD")
    step = replace(step, data={"why": "REASONWORD"})
    limits = replace(fact(record, "limits"), data={"runtime_s": 42})
    return [
        *(record, refused, step, limits, event(record, 1, "text", "EVENTWORD")),
        *(event(record, 2, "running", "EVENTWORD"), connection, signed),
        *(replace(acknowledgement(record), signature="SIGNWORD" + "c" * 78), *done),
    ]


def words_in(directory: Path) -> dict[str, set[bytes]]:
    found: dict[str, set[bytes]] = {}
    for path in (path for path in directory.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if there := {word for word in ALL if word in data}:
            found[path.name] = there
    return found


def ended(direction: Direction = Direction.IN, key: str = "") -> list[Record]:
    return told(task(direction=direction, prompt="say PROMPTWORD", key=key))


async def asked_by_a_peer(store: Store, base: Path) -> None:
    """Leave a peer's query process with a copy of its own."""
    asker = NodeId("nPEER")
    question = Question(
        text="SELECT 1 FROM tasks", limit=1, most_bytes=2**20, asker=asker, own=False
    )
    await store.answer(question, base / "answer")
    (base / "answer").unlink()


async def clean(store: Store) -> None:
    found = await store.verify()
    assert (found.finding, found.head_ok) == (None, True)
    assert (await store.sql("SELECT count(*) FROM chain_bad", [], 1)).rows == [[0]]


@pytest.mark.parametrize("direction", list(Direction))
async def test_nothing_erased_is_left_in_any_file_and_the_chain_still_fits(
    store: Store, clock: FixedClock, tmp_path: Path, direction: Direction
):
    records = ended(direction)
    await store.commit(records)
    await store.sql("SELECT count(*) FROM tasks", [], 1)  # leaves a copy of everything
    await asked_by_a_peer(store, tmp_path)
    assert {word for there in words_in(tmp_path).values() for word in there} == set(ALL)
    clock.advance(86_400)
    rows = await store.erase_due(clock.now() - timedelta(hours=23))
    assert rows == len(records)
    compacted = await store.compact()
    assert compacted.bytes_before > 0
    assert words_in(tmp_path) == {}
    await clean(store)
    assert (await store.verify()).erased == len(records)
    assert await store.erase_due(clock.now()) == 0


async def test_a_forgotten_task_stays_as_a_tombstone(store: Store, clock: FixedClock):
    first, *rest = ended(Direction.OUT, key="once")
    assert isinstance(first, TaskRecord)
    await store.commit([first, *rest])
    await store.forget([first.task_id], {"by": "a test"})
    await store.erase_due(None)
    found = await store.task(first.task_id)
    assert found is not None
    assert (found.forgotten, found.state) == (True, "succeeded")
    assert found.granted is not None
    assert found.granted.runtime_s == 42
    assert found.result is not None
    assert (found.result.text, found.result.patch, found.worker_signature) == ("", {}, "")
    assert found.result.usage.cost_usd == 0.25
    assert found.record.spec.prompt == ""
    assert await store.idempotent("once") == first.task_id
    assert [one.text for one in await store.events(first.task_id, after=0, limit=9)] == ["", ""]
    rows = (await store.sql("SELECT forgotten, receipt, peer, state FROM tasks", [], 9)).rows
    assert rows == [[True, "forgotten", "buildbox", "succeeded"]]
    with pytest.raises(TaskConflict, match="in the store already"):
        await store.commit([first])


async def test_only_ended_tasks_past_their_time_are_erased(store: Store, clock: FixedClock):
    old, unacknowledged, going, asked = (ended()[:], ended()[:-1], ended()[:3], ended())
    for records in (old, unacknowledged, going):
        await store.commit(records)
    clock.advance(3600)
    await store.commit(asked)
    assert await store.erase_due(clock.now() - timedelta(minutes=30)) == len(old)
    open_ = [records[0] for records in (unacknowledged, going)]
    kept = [record for record in (*open_, asked[0]) if isinstance(record, TaskRecord)]
    for record in kept:
        found = await store.task(record.task_id)
        assert found is not None
        assert found.record.spec.prompt == "say PROMPTWORD"
    listed = {one.task_id: one.ended_at for one in await store.forgettable()}
    assert listed.keys() == {record.task_id for record in kept}
    assert [moment is None for moment in listed.values()] == [True, True, False]
    with pytest.raises(StoreError, match="is open"):
        await store.forget([kept[0].task_id], {})


async def test_a_task_waits_for_the_turn_that_goes_on_from_its_patch(
    store: Store, clock: FixedClock
):
    patch = await store.blob(b"the patch")
    before, after = ended(), task(direction=Direction.IN)
    first = before[0]
    assert isinstance(first, TaskRecord)
    before = [
        replace(one, result=replace(one.result, patch={"sha256": patch}))
        if isinstance(one, ResultRecord)
        else one
        for one in before
    ]
    await store.commit(before)
    turn = replace(after, spec=replace(after.spec, follows=first.task_id))
    await store.commit([turn])
    clock.advance(86_400)
    [listed] = await store.forgettable(ids=[first.task_id])
    assert listed.ended_at is None
    assert await store.erase_due(clock.now()) == 0
    assert (await store.drop_files(clock.now())).files == 0
    await store.commit([state(turn, "succeeded"), result(turn), fact(turn, "acknowledged")])
    assert await store.erase_due(clock.now() + timedelta(seconds=1)) == len(before) + 4


async def test_files_are_kept_from_the_end_of_a_task_and_not_from_its_beginning(
    store: Store, clock: FixedClock
):
    sha256 = await store.blob(b"changes")
    record = task(direction=Direction.OUT)
    changes = Changes(commit="a" * 40, sha256=sha256, bytes=7)
    await store.commit([replace(record, spec=replace(record.spec, changes=changes))])
    clock.advance(7200)
    await store.commit([state(record, "succeeded"), result(record)])
    clock.advance(1800)
    assert (await store.drop_files(clock.now() - timedelta(hours=1))).files == 0
    clock.advance(7200)
    assert (await store.drop_files(clock.now() - timedelta(hours=1))).files == 1


async def test_a_store_that_was_put_back_forgets_what_is_open_there_once_it_has_ended(
    store: Store,
):
    record = task(direction=Direction.OUT)
    await store.commit([record, state(record, "sent")])
    await store.forget_again([record.task_id, task().task_id], {"by": "a test"})
    assert await store.erase_due(None) == 0
    await store.commit([state(record, "succeeded"), result(record)])
    assert await store.erase_due(None) == 4
    await clean(store)


async def test_a_row_that_comes_later_is_erased_too(store: Store, clock: FixedClock):
    records = ended()
    first = records[0]
    assert isinstance(first, TaskRecord)
    await store.commit(records)
    await store.forget([first.task_id], {})
    await store.erase_due(None)
    await store.commit([replace(fact(first, "late"), reason="REASONWORD")])
    assert await store.erase_due(None) == 1
    await clean(store)


async def test_what_was_asked_to_be_forgotten_goes_also_after_a_kill(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cmesh.store.keeping.BATCH_ROWS", 3)
    store = await open_store()
    records = ended()
    first = records[0]
    assert isinstance(first, TaskRecord)
    await store.commit(records)
    await store.forget([first.task_id], {"by": "a test"})
    erasing = asyncio.create_task(store.erase_due(None))
    while store.head[0] < len(records) + 3:  # one batch, or little more
        await asyncio.sleep(0)
    erasing.cancel()
    await asyncio.gather(erasing, return_exceptions=True)
    (tmp_path / "killed").mkdir(mode=0o700)
    await asyncio.to_thread(copy_as_a_kill_leaves_it, tmp_path / "state", tmp_path / "killed")
    again = await open_store("killed")
    await clean(again)
    assert await again.erase_due(None) > 0
    await again.compact()
    assert words_in(tmp_path / "killed") == {}
    await clean(again)


def copy_as_a_kill_leaves_it(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.is_file() and not path.name.endswith(".lock"):
            (target / path.name).write_bytes(path.read_bytes())


async def test_a_text_that_somebody_takes_out_by_hand_is_still_found(
    open_store: OpenStore, tmp_path: Path
):
    import duckdb

    store = await open_store()
    kept, gone = ended(), ended()
    await store.commit([*kept, *gone])
    first = gone[0]
    assert isinstance(first, TaskRecord)
    await store.forget([first.task_id], {})
    await store.erase_due(None)
    await store.close()
    with duckdb.connect(str(tmp_path / "state" / "store.duckdb")) as connection:
        connection.execute("UPDATE result_row SET text = NULL WHERE text IS NOT NULL")
    found = (await (await open_store()).verify()).finding
    assert found is not None
    assert found.what == "its `text` is gone"


async def test_files_go_when_no_row_names_them_any_more(store: Store, clock: FixedClock):
    shared, own = await store.blob(b"shared output"), await store.blob(b"own output")
    pending = await store.blob(b"not named yet")
    old, new = task(direction=Direction.OUT), task(direction=Direction.OUT)

    def with_files(record: TaskRecord, patch: str) -> ResultRecord:
        end = result(record)
        files = replace(end.result, output_sha256=shared, patch={"sha256": patch})
        return replace(end, result=files)

    await store.commit([old, with_files(old, own)])
    clock.advance(7200)
    await store.commit([new, with_files(new, "")])
    await store.forget([old.task_id], {})
    await store.erase_due(None)
    dropped = await store.drop_files(None)
    assert (dropped.files, dropped.bytes) == (1, len(b"own output"))
    assert store.blob_path(own) is None
    assert store.blob_path(shared) is not None
    assert store.blob_path(pending) is not None
    # `keep_output` is shorter than `keep_text`: files go, and their rows stay.
    clock.advance(7200)
    assert (await store.drop_files(clock.now() - timedelta(hours=1))).files == 1
    assert store.blob_path(shared) is None
    found = await store.task(new.task_id)
    assert found is not None
    assert found.result is not None
    assert found.result.text == "a unit was missing"


async def test_changes_of_a_task_that_goes_on_are_not_deleted(store: Store, clock: FixedClock):
    sha256 = await store.blob(b"changes")
    record = task(direction=Direction.IN)
    changes = Changes(commit="a" * 40, sha256=sha256, bytes=7)
    await store.commit([replace(record, spec=replace(record.spec, changes=changes))])
    clock.advance(90 * 86_400)
    assert (await store.drop_files(clock.now())).files == 0


async def test_compacting_without_room_changes_nothing(open_store: OpenStore):
    store = await open_store()
    await store.commit(ended())
    store._room._floor_bytes = 2**60  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(DiskFull, match="are free where the store is"):
        await store.compact()
    store._room._floor_bytes = 0  # pyright: ignore[reportPrivateUsage]
    await clean(store)


async def test_commits_go_on_while_the_file_is_written_anew(store: Store):
    await store.commit(ended())
    compacting = asyncio.create_task(store.compact())
    records = [ended() for _ in range(20)]
    for some in records:
        await store.commit(some)
    await compacting
    assert len(await store.tasks(limit=100)) == 21
    await clean(store)


async def test_a_half_written_new_file_is_no_matter(open_store: OpenStore, tmp_path: Path):
    store = await open_store()
    await store.commit(ended())
    await store.close()
    left = tmp_path / "state" / "store.duckdb.compact"
    left.write_bytes(b"half of it")
    again = await open_store()
    assert not left.exists()
    await clean(again)


OLD_TEXTS = {
    "task_row": {"prompt"},
    "event_row": {"text", "data"},
    "result_row": {"text", "error", "evidence", "answer"},
}


def canon_of_version_2(self: Row, *, node: str, seq: int, ts: int) -> str:
    """As rows were chained before: most texts stood in the clear."""
    texts = OLD_TEXTS.get(self.table, set[str]())
    fields: dict[str, object] = {k: v for k, v in self.values.items() if k not in {*texts, "salt"}}
    for name in texts:
        text = self.values[name]
        salted = None if text is None else digest(str(self.values["salt"]), name, str(text))
        fields[f"{name}_sha256"] = salted
    head = {"v": 2, "node": node, "seq": seq, "ts": ts, "kind": self.kind, "table": self.table}
    return canonical(fields | head)


def salted_in_version_2(self: Row) -> frozenset[str]:
    return frozenset(OLD_TEXTS.get(self.table, ()))


async def test_rows_from_before_are_erased_and_a_later_row_stands_for_what_is_left(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import duckdb

    old, kept = ended(Direction.OUT), ended()
    with monkeypatch.context() as before:
        before.setattr(Row, "canon", canon_of_version_2)
        before.setattr(Row, "salted", salted_in_version_2)
        store = await open_store()
        await store.commit([*old, *kept])
    new = ended()
    await store.commit(new)
    await clean(store)
    ids = [one.task_id for one in await store.forgettable()]
    await store.forget([ids[0], ids[2]], {})
    await store.erase_due(None)
    await clean(store)
    assert (await store.verify()).resealed == len(old) - 2  # events were salted before, too
    await store.forget([ids[1]], {})
    await store.erase_due(None)
    await store.compact()
    assert words_in(tmp_path) == {}
    await clean(store)
    await store.close()
    with duckdb.connect(str(tmp_path / "state" / "store.duckdb")) as connection:
        connection.execute(
            "UPDATE log SET canon = replace(canon, 'command:look', 'command:else')"
            " WHERE kind = 'task' AND contains(canon, 'resealed')"
        )
    again = await open_store()
    found = (await again.verify()).finding
    assert found is not None
    assert "does not follow" in found.what
    assert (await again.sql("SELECT count(*) > 0 FROM chain_bad", [], 1)).rows == [[True]]


@pytest.mark.parametrize("version", [3, 2])
async def test_no_later_row_stands_for_one_that_was_salted(
    open_store: OpenStore, tmp_path: Path, version: int
):
    """Whoever can write a last row must not be able to change an older one by it."""
    import duckdb

    store = await open_store()
    await store.commit([AuditRecord(kind="before"), *ended()])
    await store.close()
    with duckdb.connect(str(tmp_path / "state" / "store.duckdb")) as connection:
        [[canon]] = connection.execute("SELECT canon FROM log WHERE seq = 2").fetchall()
        forged = json.loads(canon) | {"v": version, "peer": "other", "resealed": True}
        connection.execute("UPDATE log SET canon = $1 WHERE seq = 2", [canonical(forged)])
        connection.execute("UPDATE task_row SET peer = 'other'")
    store = await open_store()
    told = {"rows": [[2, 2]], "resealed": [[2, sealed(canonical(forged))]]}
    await store.commit([AuditRecord(kind="texts_erased", data=told)])
    found = (await store.verify()).finding
    assert found is not None
    assert (found.seq, "does not follow" in found.what) == (2, True)
    assert (await store.sql("SELECT seq FROM chain_bad", [], 9)).rows == [[2]]


async def test_a_row_about_erasing_that_is_not_as_it_was_written_is_found(
    open_store: OpenStore, tmp_path: Path
):
    import duckdb

    store = await open_store()
    records = ended()
    first = records[0]
    assert isinstance(first, TaskRecord)
    await store.commit(records)
    await store.forget([first.task_id], {})
    await store.erase_due(None)
    await store.close()
    for broken in ('{"rows": [[1]]}', '{"rows": 3}', "[]", '{"resealed": [[{}, 1]]}'):
        with duckdb.connect(str(tmp_path / "state" / "store.duckdb")) as connection:
            connection.execute(
                "UPDATE audit_row SET data = $1 WHERE kind = 'texts_erased'", [broken]
            )
        store = await open_store()
        assert (await store.verify()).finding is not None
        await store.close()
