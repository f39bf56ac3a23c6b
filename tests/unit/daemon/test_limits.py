"""What one peer may ask of a worker, and what a lying worker may tell a caller."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import cast

import pytest

from cmesh.daemon import outbound, refusals
from cmesh.daemon.views import Knowledge, event_view, task_view
from cmesh.errors import DiskFull
from cmesh.link.link import Link
from cmesh.model import Event, TaskId
from cmesh.protocol.link_messages import Failure
from cmesh.protocol.messages import (
    Accepted,
    Cancel,
    EventMessage,
    Gap,
    Message,
    Subscribe,
)
from cmesh.store.records import Record
from tests.fakes.half import SETTLE_LIMIT_S, START, Half
from tests.unit.daemon.conftest import Pair
from tests.unit.daemon.test_halves import Recorded, accepted, said, submit

pytestmark = pytest.mark.anyio


def limited(half: Half, limits: str, more: str = "", *, concurrent: int = 2) -> None:
    """Put worker limits into a node's configuration."""
    rule = half.rule(more, concurrent=concurrent)
    half.configure(rule.replace("[worker]\n", f"[worker]\n{limits}\n"))


def failures(link: Recorded) -> list[Failure]:
    return [message for message in link.posted if isinstance(message, Failure)]


def view(task: object, at: datetime, knowledge: Knowledge | None = None) -> int | None:
    shown = task_view(task, now=at, knowledge=knowledge or Knowledge())  # pyright: ignore[reportArgumentType]  # of the store
    return shown.retry_after_s


async def test_beyond_its_rate_a_peer_is_told_when_to_come_back_and_nothing_is_stored(
    pair: Pair,
) -> None:
    limited(pair.doer, "submits_per_minute = 2")
    link, before = Recorded(pair.asker), pair.doer.store.head
    for _ in range(2):
        await said(pair.doer, link, submit(pair.asker, pair.doer))
    stored = pair.doer.store.head
    for _ in range(2):
        await said(pair.doer, link, submit(pair.asker, pair.doer))
    assert [(f.code, f.retry_after_s) for f in failures(link)] == [("busy", 30), ("busy", 60)]
    assert pair.doer.store.head == stored != before
    assert len(link.slowed) == 2


async def test_a_tombstone_counts_as_a_request_too(pair: Pair) -> None:
    limited(pair.doer, "submits_per_minute = 1")
    link = Recorded(pair.asker)
    for _ in range(2):
        task_id = pair.asker.record(pair.doer).task_id
        await said(pair.doer, link, Cancel(task_id=task_id, reason="user", payload_hash="0" * 64))
    assert [failure.code for failure in failures(link)] == ["busy"]


async def test_a_denied_request_counts_as_several(pair: Pair) -> None:
    limited(pair.doer, f"submits_per_minute = {refusals.DENIED_COST}")
    link = Recorded(pair.asker)
    nowhere = pair.asker.record(pair.doer, directory="/nowhere").spec
    await said(pair.doer, link, worker_submit(nowhere))
    await said(pair.doer, link, submit(pair.asker, pair.doer))
    assert [failure.code for failure in failures(link)] == ["busy"]


def worker_submit(spec: object):
    from cmesh.protocol import convert

    return convert.submit(spec)  # pyright: ignore[reportArgumentType]


async def test_who_floods_on_loses_its_link_by_name(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "OVER_RATE_MOST", 2)
    limited(pair.doer, "submits_per_minute = 1")
    link = Recorded(pair.asker)
    for _ in range(5):
        await said(pair.doer, link, submit(pair.asker, pair.doer))
    assert set(link.refused) == {"the peer goes on asking beyond its rate"}


async def test_another_peer_is_served_while_one_is_over_its_rate(pair: Pair) -> None:
    limited(pair.doer, "submits_per_minute = 1")
    flooding, good = Recorded(pair.asker), Recorded(pair.doer)
    for _ in range(5):
        await said(pair.doer, flooding, submit(pair.asker, pair.doer))
    await said(pair.doer, good, submit(pair.asker, pair.doer))
    assert failures(good) == []


async def test_a_caller_that_was_too_fast_asks_again_by_itself(pair: Pair) -> None:
    limited(pair.doer, "submits_per_minute = 1")
    await pair.connect()
    first = await accepted(pair, "one")
    second = await pair.asker.delegate(pair.doer, prompt="two")
    async with asyncio.timeout(20):
        while not pair.asker.caller.hearsay.note(second).code:
            await pair.asker.news.next(second)
    note = pair.asker.caller.hearsay.note(second)
    assert (note.code, note.retry_after_s) == ("busy", 60)
    await pair.asker.caller.retry()
    assert (await pair.asker.seen(second)).state == "sent"
    pair.clock.passed_s += 61
    await pair.asker.caller.retry()
    await pair.asker.until(second, "accepted")
    assert pair.doer.shims.starts[first] == 1


async def test_a_full_queue_of_a_peer_is_refused_with_the_time_to_come_back(pair: Pair) -> None:
    limited(pair.doer, "queue_per_peer = 1")
    await pair.connect()
    await accepted(pair, "one")
    task_id = await pair.asker.delegate(pair.doer, prompt="two")
    task = await pair.asker.until(task_id, "denied")
    assert task.code == "busy"
    assert view(task, pair.clock.now()) == 60
    pair.clock.passed_s += 45
    assert view(task, pair.clock.now()) == 15
    assert view(await pair.doer.seen(task_id), pair.clock.now()) == 15
    await pair.asker.restart()
    assert view(await pair.asker.seen(task_id), pair.clock.now()) == 15


async def test_a_days_limit_ends_with_the_utc_day(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule("limits = { per_day = 1 }"))
    await pair.connect()
    await accepted(pair, "one")
    denied = await pair.asker.delegate(pair.doer, prompt="two")
    task = await pair.asker.until(denied, "denied")
    assert START.hour == 12
    assert view(task, pair.clock.now()) == 12 * 3600 + 1
    pair.clock.passed_s += 12 * 3600 + 1
    await accepted(pair, "three")


async def test_a_full_disk_says_when_to_come_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_records: Sequence[Record]) -> int:
        raise DiskFull("no room")

    monkeypatch.setattr(pair.doer.store, "commit", full)
    link = Recorded(pair.asker)
    await said(pair.doer, link, submit(pair.asker, pair.doer))
    assert [(f.code, f.retry_after_s) for f in failures(link)] == [("disk_full", 15)]


async def test_one_peer_takes_no_more_places_than_its_own_limit(pair: Pair) -> None:
    limited(pair.doer, "concurrent_per_peer = 1", concurrent=3)
    await pair.connect()
    tasks = [await accepted(pair, str(number)) for number in range(3)]
    await pair.doer.until(tasks[0], "running")
    assert (pair.doer.worker.running, pair.doer.worker.waiting) == (1, 2)
    pair.doer.shims.finish(tasks[0])
    await pair.doer.until(tasks[1], "running")
    assert pair.doer.worker.running == 1


async def test_a_stopping_worker_finishes_what_it_began_and_takes_nothing_new(pair: Pair) -> None:
    begun, late = Recorded(pair.asker), Recorded(pair.asker)
    message = submit(pair.asker, pair.doer)
    assert pair.doer.worker.take(cast("Link", begun), message)
    await pair.doer.worker.drain()
    assert await pair.doer.store.task(TaskId(message.task_id)) is not None
    await said(pair.doer, late, submit(pair.asker, pair.doer))
    assert [(f.code, f.retry_after_s) for f in failures(late)] == [("daemon_restarted", 5)]


async def test_events_beyond_the_budget_are_dropped_and_the_end_is_still_taken(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "EVENTS_PER_TASK", 1)
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.shims.write(task_id, b"hello\n")
    pair.doer.shims.finish(task_id)
    here = await pair.asker.until(task_id, "succeeded")
    there = await pair.doer.acknowledged(task_id)
    assert here.result == there.result
    assert here.last_event == there.last_event == 2
    assert outbound.EVENTS_CUT in here.facts
    events = await pair.asker.store.events(task_id, after=0, limit=9)
    assert [event.kind for event in events] == ["running"]


async def test_dropped_events_leave_no_rows(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "EVENT_BYTES_PER_TASK", 250)
    await pair.connect()
    task_id = await accepted(pair, "one")
    await pair.asker.until(task_id, "accepted")
    await pair.doer.until(task_id, "running")
    async with asyncio.timeout(20):
        while (await pair.asker.seen(task_id)).last_event < 1:
            await pair.asker.news.next(task_id)
    link = Recorded(pair.doer)
    first = await _told(pair, link, task_id, 2)
    assert await _told(pair, link, task_id, 3) == await _told(pair, link, task_id, 4) == first
    assert (await pair.asker.seen(task_id)).last_event == 1
    assert link.refused == []


async def _told(pair: Pair, link: Recorded, task_id: TaskId, seq: int) -> tuple[int, str]:
    """Let the worker tell an event; return the caller's head afterwards."""
    message = EventMessage(
        task_id=task_id, seq=seq, ts=pair.clock.now(), kind="text", text="x" * 200
    )
    assert pair.asker.caller.take(cast("Link", link), message)
    await pair.asker.settled(task_id)
    return pair.asker.store.head


async def test_events_before_a_dropped_one_come_again_when_they_could_not_be_stored(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    async with asyncio.timeout(SETTLE_LIMIT_S):
        while (await pair.asker.seen(task_id)).last_event < 1:
            await pair.asker.news.next(task_id)
    monkeypatch.setattr(outbound, "EVENT_BYTES_PER_TASK", 1_000)
    link, commit, posted = pair.asker.link, pair.asker.store.commit, list[Message]()
    assert link is not None

    async def full(records: Sequence[Record]) -> int:
        raise DiskFull("no room")

    monkeypatch.setattr(pair.asker.store, "commit", full)
    monkeypatch.setattr(link, "post", posted.append)
    for seq, text in ((2, "kept"), (3, "x" * 1_000)):
        event = EventMessage(task_id=task_id, seq=seq, ts=START, kind="output", text=text)
        assert pair.asker.caller.take(link, event)
    await pair.asker.settled(task_id)
    monkeypatch.setattr(pair.asker.store, "commit", commit)
    await pair.asker.caller.retry()
    await pair.asker.settled(task_id)
    assert [one.after_seq for one in posted if isinstance(one, Subscribe)] == [1]


async def test_a_worker_that_tells_of_gaps_without_end_loses_its_link(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "GAPS_PER_TASK", 2)
    await pair.connect()
    task_id = await accepted(pair, "one")
    link = Recorded(pair.doer)
    for through in (100, 200, 300):
        pair.asker.caller.take(cast("Link", link), Gap(task_id=task_id, through_seq=through))
        await pair.asker.settled(task_id)
    assert link.refused == ["the worker tells of more than 2 gaps"]
    assert (await pair.asker.seen(task_id)).last_event == 200


async def test_an_answer_said_again_and_again_is_noted_once(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule('approval = "ask"'))
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    task = await pair.asker.until(task_id, "accepted")
    await pair.asker.settled(task_id)
    head = pair.asker.store.head
    again = Accepted(task_id=task_id, payload_hash=task.record.payload_hash, waiting=True)
    pair.asker.caller.take(cast("Link", Recorded(pair.doer)), again)
    await pair.asker.settled(task_id)
    assert pair.asker.store.head == head


def test_a_shown_event_can_drive_no_terminal() -> None:
    data: dict[str, object] = {"a\x1b[2J": ["\u202ehi", {"b": "\x07x"}], "n": 1}
    event = Event(seq=1, ts=START, kind="te\u202ext", text="\x1b]52;c;eA==\x07ok", data=data)
    shown = event_view(event)
    assert shown.kind == "text"
    assert shown.text == "]52;c;eA==ok"
    assert shown.data == {"a[2J": ["hi", {"b": "x"}], "n": 1}
