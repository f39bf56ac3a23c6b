"""Committing and reading back through the store's one door."""

import asyncio
import math
import os
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from cmesh.errors import DiskFull, StoreBusy, StoreError, TaskConflict
from cmesh.model import Direction, Event, NodeId, TaskState
from cmesh.store import unsettled
from cmesh.store.index import FINISHED_KEPT
from cmesh.store.journal import Entry, Journal
from cmesh.store.records import AuditRecord, EventRecord
from cmesh.store.room import Room
from cmesh.store.store import Store
from tests.unit.store.conftest import OpenStore
from tests.unit.store.support import (
    NOON,
    PEER,
    FixedClock,
    acknowledgement,
    decision,
    event,
    fact,
    new_id,
    result,
    state,
    task,
    tasks_in_the_file,
    trust,
)

pytestmark = pytest.mark.anyio

DISK_LIMIT_S = 20.0


async def test_a_commit_returns_the_number_of_its_last_row(store: Store) -> None:
    before, _ = store.head
    asked = task()
    assert await store.commit([asked, state(asked, "sent")]) == before + 2
    assert store.head[0] == before + 2
    assert await store.commit([]) == before + 2


async def test_what_the_disk_has_begun_with_is_waited_for_and_what_waits_behind_is_taken_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answers, append = threading.Event(), threading.Event(), Journal.append

    def slow(journal: Journal, entries: Sequence[Entry]) -> None:
        begun.set()
        assert answers.wait(DISK_LIMIT_S)
        append(journal, entries)

    monkeypatch.setattr(Journal, "append", slow)
    monkeypatch.setattr(unsettled, "COMMIT_LIMIT_S", 0.01)
    asked, behind = task(), task(key="k")
    first = asyncio.create_task(store.commit([asked]))
    try:
        assert await asyncio.to_thread(begun.wait, DISK_LIMIT_S)
        with pytest.raises(StoreError, match="has not answered"):
            await store.commit([behind])
        assert not first.done()  # it may be on the disk: nobody may do it a second time
    finally:
        answers.set()
    last = await first
    assert store.head[0] == last
    assert await store.task(asked.task_id) is not None
    assert await store.task(behind.task_id) is None
    # Id and key are free again, and the chain has no hole.
    await store.commit([behind])
    assert await store.idempotent("k") == behind.task_id
    assert (await store.verify()).finding is None


async def test_what_nobody_waits_for_any_more_is_stored_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answers, append = threading.Event(), threading.Event(), Journal.append

    def slow(journal: Journal, entries: Sequence[Entry]) -> None:
        begun.set()
        assert answers.wait(DISK_LIMIT_S)
        append(journal, entries)

    asked = task()
    await store.commit([asked])
    monkeypatch.setattr(Journal, "append", slow)
    waiting = asyncio.create_task(store.commit([event(asked, 1)]))
    assert await asyncio.to_thread(begun.wait, DISK_LIMIT_S)
    behind = asyncio.create_task(store.commit([event(asked, 2)]))
    await asyncio.sleep(0)
    for one in (waiting, behind):
        one.cancel()
    answers.set()
    await asyncio.gather(waiting, behind, return_exceptions=True)
    await store.commit([event(asked, 3)])
    stored = await store.events(asked.task_id, after=0, limit=9)
    assert [one.seq for one in stored] == [1, 2, 3]
    assert (waiting.cancelled(), behind.cancelled()) == (True, True)


async def test_a_task_tells_its_latest_state_and_all_its_facts(store: Store) -> None:
    asked = task()
    await store.commit([asked])
    first = await store.task(asked.task_id)
    assert first is not None
    assert (first.state, first.public_state) == ("queued", TaskState.SUBMITTING)
    await store.commit([state(asked, "sent"), state(asked, "accepted", witness="worker's row 5")])
    await store.commit([event(asked, 1, "running"), fact(asked, "cancel_wish")])
    found = await store.task(asked.task_id)
    assert found is not None
    assert (found.state, found.witness, found.progress) == ("accepted", "worker's row 5", "running")
    assert found.facts == {"cancel_wish"}
    assert found.public_state is TaskState.CANCELLING
    assert (found.last_event, found.spool_end) == (1, 10)
    assert found.started_at == NOON + timedelta(seconds=1)


async def test_a_worker_task_is_unfinished_until_its_caller_acknowledges(store: Store) -> None:
    asked = task(direction=Direction.IN)
    await store.commit([asked])
    await store.commit([state(asked, "succeeded"), result(asked)])
    assert [one.record.task_id for one in await store.unfinished()] == [asked.task_id]
    await store.commit([acknowledgement(asked), fact(asked, "acknowledged")])
    assert await store.unfinished() == []
    ended = await store.task(asked.task_id)
    assert ended is not None
    assert (ended.caller_signature, ended.worker_signature) == ("c" * 86, "w" * 86)
    assert ended.ended_at == NOON + timedelta(seconds=5)


async def test_what_was_committed_is_the_same_after_a_restart(open_store: OpenStore) -> None:
    store = await open_store()
    mine, theirs = task(key="k"), task(direction=Direction.IN)
    await store.commit([mine, theirs, decision(theirs, "allow"), trust()])
    await store.commit([state(theirs, "running"), event(theirs, 1), event(theirs, 2)])
    await store.commit([state(mine, "failed", code="internal", reason="why"), result(mine)])
    before = [await store.task(mine.task_id), await store.task(theirs.task_id)]
    head = store.head
    await store.close()
    again = await open_store()
    assert again.head == head
    assert again.incarnation == store.incarnation
    assert [await again.task(mine.task_id), await again.task(theirs.task_id)] == before
    assert [e.seq for e in await again.events(theirs.task_id, after=0, limit=9)] == [1, 2]
    assert await again.idempotent("k") == mine.task_id
    assert await again.trust() == [trust()]


async def test_a_second_task_with_the_same_id_is_refused(store: Store) -> None:
    asked = task()
    outcomes = await asyncio.gather(
        store.commit([asked]), store.commit([asked]), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [int, TaskConflict]
    with pytest.raises(TaskConflict, match="in the store already"):
        await store.commit([asked])


async def test_an_idempotency_key_is_used_once(store: Store) -> None:
    first = task(key="once")
    assert await store.idempotent("once") is None
    await store.commit([first])
    assert await store.idempotent("once") == first.task_id
    with pytest.raises(TaskConflict, match="used before"):
        await store.commit([task(key="once")])


async def test_a_refused_commit_leaves_nothing_behind_and_hurts_no_other(store: Store) -> None:
    bad = [task(), AuditRecord(kind="x", data={"n": math.nan})]
    good = task()
    outcomes = await asyncio.gather(store.commit(bad), store.commit([good]), return_exceptions=True)
    assert isinstance(outcomes[0], StoreError)
    assert await store.task(good.task_id) is not None
    assert [one.record.task_id for one in await store.tasks(limit=9)] == [good.task_id]
    assert (await store.verify()).bad_seq is None
    await store.commit([bad[0]])


@pytest.mark.parametrize(
    "data",
    [{"n": 10**400}, {"n": -1.5}, {"s": "\ud800 \0 \u202e"}, {"deep": {"list": [1, None, True]}}],
)
async def test_any_json_object_can_be_an_events_data(store: Store, data: dict[str, object]) -> None:
    asked = task()
    happened = Event(seq=1, ts=NOON, kind="raw", text="\ud83d\0", data=data)
    record = EventRecord(task_id=asked.task_id, direction=Direction.OUT, event=happened)
    await store.commit([asked, record])
    rows = await tasks_in_the_file(store, limit=1)
    assert rows[0].last_event == 1
    assert (await store.verify()).bad_seq is None


@pytest.mark.parametrize("task_id", ["", "x", "0190-", "'; DROP TABLE log; --"])
async def test_an_id_that_is_none_is_refused(store: Store, task_id: str) -> None:
    with pytest.raises(StoreError, match="is not a task id"):
        await store.commit([task(task_id)])  # pyright: ignore[reportArgumentType]  # the point


async def test_events_come_in_order_from_memory_and_from_the_file(open_store: OpenStore) -> None:
    store = await open_store()
    asked = task(direction=Direction.IN)
    await store.commit([asked])
    for first in range(1, 601, 100):
        await store.commit([event(asked, n) for n in range(first, first + 100)])
    for _ in range(2):
        numbers = [e.seq for e in await store.events(asked.task_id, after=2, limit=500)]
        assert numbers == list(range(3, 503))
        assert [e.seq for e in await store.events(asked.task_id, after=590, limit=5)] == [
            591, 592, 593, 594, 595,
        ]  # fmt: skip
        assert [e.seq for e in await store.last_events(asked.task_id, 3)] == [598, 599, 600]
        assert len(await store.last_events(asked.task_id, 400)) == 400
        await store.close()
        store = await open_store()


async def test_tasks_are_listed_newest_first_by_direction_state_and_session(store: Store) -> None:
    old, new = task(), task(session="other")
    theirs = task(direction=Direction.IN, session="")
    for record in (old, theirs, new):
        await store.commit([record])
    await store.commit([state(old, "sent"), state(old, "denied")])

    async def ids(**wanted: object) -> list[str]:
        found = await store.tasks(limit=9, **wanted)  # pyright: ignore[reportArgumentType]
        assert found == await tasks_in_the_file(store, limit=9, **wanted)  # pyright: ignore[reportArgumentType]
        return [t.record.task_id for t in found]

    assert await ids() == [new.task_id, theirs.task_id, old.task_id]
    assert await ids(direction=Direction.OUT) == [new.task_id, old.task_id]
    assert await ids(states=[TaskState.QUEUED]) == [theirs.task_id]
    assert await ids(states=[TaskState.DENIED, TaskState.SUBMITTING]) == [new.task_id, old.task_id]
    assert await ids(session="other") == [new.task_id]
    assert len(await store.tasks(limit=1)) == 1


async def test_more_tasks_are_listed_than_memory_holds(open_store: OpenStore) -> None:
    store = await open_store()
    asked = [task() for _ in range(FINISHED_KEPT + 10)]
    await store.commit(asked)
    for record in asked:
        await store.commit([state(record, "succeeded")])
    old = asked[0]
    waiting = task(direction=Direction.IN)
    await store.commit([waiting])
    for _ in range(2):
        for limit in (1, FINISHED_KEPT, FINISHED_KEPT + 5, 999):
            listed = await store.tasks(limit=limit)
            assert listed == await tasks_in_the_file(store, limit=limit)
        assert [one.record for one in await store.tasks(states=[TaskState.QUEUED], limit=9)] == [
            waiting
        ]
        found = await store.task(old.task_id)
        assert found is not None
        assert found.record == old
        await store.close()
        store = await open_store()


async def test_a_prefix_finds_the_ids_that_start_with_it(store: Store) -> None:
    asked = [task(new_id()) for _ in range(3)]
    await store.commit(asked)
    whole = asked[0].task_id
    assert await store.find_by_prefix(whole) == [whole]
    assert await store.find_by_prefix(whole[:30]) == [whole]
    assert set(await store.find_by_prefix(whole[:8])) == {one.task_id for one in asked}
    assert await store.find_by_prefix(whole.upper()) == [whole]
    assert await store.find_by_prefix(new_id()) == []
    assert await store.find_by_prefix("0000") == []
    assert await store.find_by_prefix("not hex") == []


async def test_tasks_of_a_peer_are_counted_without_the_denied_ones(
    store: Store, clock: FixedClock
) -> None:
    early, denied, late = (task(direction=Direction.IN) for _ in range(3))
    other = task(direction=Direction.IN, peer_id=NodeId("nOTHER"))
    await store.commit([early, other, task()])
    clock.advance(3600)
    await store.commit([denied, state(denied, "denied"), late])
    assert await store.counts(PEER, NOON) == 2
    assert await store.counts(PEER, NOON + timedelta(hours=1)) == 1
    clock.advance(3 * 86400)
    assert await store.counts(PEER, NOON) == 2
    assert await store.counts(PEER, clock.now() - timedelta(hours=1)) == 0


async def test_the_latest_trust_decision_holds(store: Store) -> None:
    await store.commit([trust(), trust(NodeId("nOTHER"))])
    await store.commit([trust(key="k2", trusted=False)])
    assert {one.peer_id: (one.key, one.trusted) for one in await store.trust()} == {
        PEER: ("k2", False),
        "nOTHER": ("k1", True),
    }


async def test_a_second_store_on_the_directory_is_refused(
    store: Store, open_store: OpenStore
) -> None:
    with pytest.raises(StoreBusy, match=r"in use by process \d+"):
        await open_store()
    await store.commit([task()])


async def test_too_little_room_refuses_new_tasks_before_anything_else(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    running = task()
    await store.commit([running])
    monkeypatch.setattr(store, "_room", _with_floor(store, share=1.5))
    with pytest.raises(DiskFull, match="MiB are free"):
        await store.commit([task()])
    await store.commit([state(running, "succeeded"), result(running)])
    monkeypatch.setattr(store, "_room", _with_floor(store, share=3))
    with pytest.raises(DiskFull):
        await store.commit([AuditRecord(kind="x")])
    with pytest.raises(DiskFull):
        await store.blob(b"x")


async def test_a_cancelled_commit_breaks_nothing(store: Store) -> None:
    asked = task()
    waiting = asyncio.ensure_future(store.commit([asked]))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await store.commit([AuditRecord(kind="after")])
    assert await store.task(asked.task_id) is not None


async def test_a_closed_store_refuses_politely(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.commit([task()])
    with pytest.raises(StoreError, match="closed"):
        await store.tasks(limit=1)


async def test_closing_settles_what_was_committed_before(open_store: OpenStore) -> None:
    store = await open_store()
    commits = [asyncio.ensure_future(store.commit([task()])) for _ in range(50)]
    await asyncio.sleep(0)
    await store.close()
    assert len(set(await asyncio.gather(*commits))) == 50
    again = await open_store()
    assert len(await again.tasks(limit=99)) == 50


async def test_outputs_are_files_named_by_their_digest(store: Store, tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    source = tmp_path / "spool"
    source.write_bytes(data)
    sha256 = await store.blob(data)
    assert await store.blob(source) == sha256
    path = store.blob_path(sha256)
    assert path is not None
    assert path.read_bytes() == data
    assert await store.read_blob(sha256, 255, 3) == b"\xff\x00\x01"
    assert store.blob_path("0" * 64) is None
    assert store.blob_path("../../etc/passwd") is None
    with pytest.raises(StoreError, match="no stored output"):
        await store.read_blob("../" * 20, 0, 1)


async def test_prompts_that_must_not_be_kept_last_until_their_task_ends(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = await open_store(store_prompts="digest")
    secret = "the prompt nobody may find later"
    asked = task(prompt=secret)
    await store.commit([asked])
    await tasks_in_the_file(store, limit=1)
    await store.close()
    again = await open_store(store_prompts="digest")
    found = await again.task(asked.task_id)
    assert found is not None
    assert found.record.spec.prompt == secret
    await again.commit([state(asked, "cancelled")])
    ended = await again.task(asked.task_id)
    assert ended is not None
    assert ended.record.spec.prompt == ""
    assert (await again.verify()).bad_seq is None
    await again.close()
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in left if secret.encode() in path.read_bytes()]


async def test_an_end_that_comes_with_the_last_event_is_told_once_and_drops_the_prompt(
    open_store: OpenStore,
) -> None:
    store = await open_store(store_prompts="digest")
    told: list[tuple[str, str]] = []
    store.on_end(lambda ended: told.append((ended.record.task_id, ended.state)))
    asked = task(prompt="forget me")
    await store.commit([asked])
    await store.commit([state(asked, "running"), event(asked, 1)])
    assert told == []
    await store.commit([event(asked, 2), result(asked)])
    await store.commit([acknowledgement(asked)])
    assert told == [(asked.task_id, "succeeded")]
    ended = await store.task(asked.task_id)
    assert ended is not None
    assert ended.record.spec.prompt == ""


def _with_floor(store: Store, *, share: float) -> Room:
    directory = store._options.directory  # pyright: ignore[reportPrivateUsage]
    disk = os.statvfs(directory)
    return Room(directory, int(disk.f_bavail * disk.f_frsize * share))


async def test_a_question_is_open_until_it_is_answered_or_over(open_store: OpenStore) -> None:
    store = await open_store()
    clock = store._clock  # pyright: ignore[reportPrivateUsage]
    assert isinstance(clock, FixedClock)
    until = clock.now() + timedelta(days=7)
    asked, late, other = task(), task(), task()
    for record in (asked, late, other):
        await store.commit([record])
        await store.commit([result(record, text="CMESH-QUESTION: which?", until=until)])
    turn, refused, gone = (
        task(follows=asked.task_id),
        *(task(follows=o) for o in (late.task_id, other.task_id)),
    )
    await store.commit([refused, state(refused, "denied", code="policy_denied")])
    await store.commit([gone, state(gone, "denied", code="session_gone")])
    crowd = [task() for _ in range(FINISHED_KEPT + 1)]
    await store.commit([*crowd, *(state(record, "succeeded") for record in crowd)])

    async def open_() -> list[str]:
        states = [TaskState.WAITING_INPUT, TaskState.RUNNING, TaskState.SUBMITTING]
        found = await store.tasks(states=states, limit=9)
        assert found == await tasks_in_the_file(store, states=states, limit=9)
        return [one.record.task_id for one in found]

    for _ in range(2):
        assert await open_() == [late.task_id, asked.task_id]
        await store.close()
        store = await open_store()
    await store.commit([turn])
    assert await open_() == [turn.task_id, late.task_id]
    await store.commit([result(turn)])
    assert await open_() == [late.task_id]
    clock = store._clock  # pyright: ignore[reportPrivateUsage]
    assert isinstance(clock, FixedClock)
    clock.advance(7 * 86_400)
    assert await open_() == []
