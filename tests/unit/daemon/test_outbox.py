"""What waits in the outbox, and which task a repeated call means."""

# pyright: reportPrivateUsage=false
# Two things that happen to a task at once have no other door than its own.

import asyncio
from collections.abc import Sequence

import pytest

from cmesh.daemon.happening import Happening
from cmesh.daemon.outbound import OUTBOX_S
from cmesh.daemon.twins import UNTOLD_S, Twins
from cmesh.errors import DiskFull
from cmesh.model import TaskId
from cmesh.protocol.happenings import Approved, Connected
from cmesh.protocol.messages import Submit, Wanted
from cmesh.store.records import Record, StepRecord, TaskRecord
from cmesh.store.store import Store
from tests.fakes.half import Half, allowed
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio


def heard(half: Half, kind: type) -> list[object]:
    """Return the messages of a kind that a node's worker gets from now on."""
    got: list[object] = []
    take = half.worker.take

    def taken(link: object, message: object) -> bool:
        if isinstance(message, kind):
            got.append(message)
        return take(link, message)  # pyright: ignore[reportArgumentType] -- passed on

    half.worker.take = taken
    return got


async def test_a_task_that_lay_in_the_outbox_is_asked_about_and_then_starts(pair: Pair) -> None:
    submits, wanted = heard(pair.doer, Submit), heard(pair.doer, Wanted)
    task_id = await pair.asker.delegate(pair.doer)
    pair.clock.passed_s += OUTBOX_S
    await pair.connect()
    await pair.doer.until(task_id, "running")
    assert [m.waited for m in submits if isinstance(m, Submit)] == [True]
    assert len(wanted) == 1
    assert "late" in (await pair.doer.seen(task_id)).facts


async def test_a_task_sent_at_once_is_not_asked_about(pair: Pair) -> None:
    submits, wanted = heard(pair.doer, Submit), heard(pair.doer, Wanted)
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    assert [m.waited for m in submits if isinstance(m, Submit)] == [False]
    assert wanted == []


async def test_a_late_task_whose_caller_is_gone_waits_for_its_word(pair: Pair) -> None:
    task_id = await pair.asker.delegate(pair.doer)
    pair.clock.passed_s += OUTBOX_S
    take = pair.asker.caller.take
    pair.asker.caller.take = lambda link, message: (
        True if message.type == "still_wanted" else take(link, message)
    )
    await pair.connect()
    await pair.doer.until(task_id, "accepted")
    await pair.doer.settled(task_id)
    assert pair.doer.shims.starts[task_id] == 0
    pair.asker.caller.take = take
    await pair.connect()
    await pair.doer.until(task_id, "running")
    assert pair.doer.shims.starts[task_id] == 1


class FullOnce:
    """Makes the first commit fail that holds a step of this name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.failed = asyncio.Event()
        commit = Store.commit

        async def full(store: Store, records: Sequence[Record]) -> int:
            names = [one.name for one in records if isinstance(one, StepRecord)]
            if name in names and not self.failed.is_set():
                self.failed.set()
                raise DiskFull("nothing is left")
            return await commit(store, records)

        monkeypatch.setattr(Store, "commit", full)


async def test_a_question_that_a_failed_commit_kept_back_is_asked(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.doer.configure(pair.doer.rule('approval = "ask"'))
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    there = await pair.doer.until(task_id, "waiting")
    FullOnce(monkeypatch, "late")
    inbound = pair.doer.worker._inbounds.tasks[task_id]
    both = (
        inbound.tell(Happening(event=Approved())),
        inbound.tell(Happening(event=Connected(), reply_to=pair.asker.node_id)),
    )
    for one in await asyncio.gather(*both, return_exceptions=True):
        assert isinstance(one, DiskFull)
    assert not inbound.asked
    await pair.doer.worker.approve(there, yes=True, reason="")
    await pair.doer.until(task_id, "running")


async def test_a_task_that_waited_over_a_start_is_asked_about_though_a_commit_failed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.connect()
    tasks: list[TaskId] = []
    for prompt in ("first", "second", "third"):  # two of them have a place
        tasks.append(await pair.asker.delegate(pair.doer, prompt=prompt))
        await pair.asker.until(tasks[-1], "accepted")
    first, second, third = tasks
    await pair.doer.until(second, "running")
    await pair.doer.stop()
    full = FullOnce(monkeypatch, "late")
    await pair.doer.start()
    await full.failed.wait()
    for task_id in (first, second):  # two places are free
        pair.doer.shims.finish(task_id)
        await pair.doer.until(task_id, "succeeded")
    await pair.doer.settled(third)
    assert pair.doer.shims.starts[third] == 0
    await pair.connect()
    await pair.doer.until(third, "running")
    assert "late" in (await pair.doer.seen(third)).facts


async def ended(pair: Pair, **change: object) -> TaskRecord:
    """Let a task run to its end and return its record."""
    record = pair.asker.record(pair.doer, **change)
    await pair.asker.caller.delegate(record, allowed(record))
    await pair.doer.until(record.task_id, "running")
    pair.doer.shims.finish(record.task_id)
    await pair.asker.until(record.task_id, "succeeded")
    return record


async def test_a_repeated_call_finds_the_first_task_until_its_end_was_told(pair: Pair) -> None:
    await pair.connect()
    twins = Twins(pair.asker.store, pair.clock.now())
    record = pair.asker.record(pair.doer)

    def same(other: TaskRecord) -> bool:
        return other.spec.prompt == record.spec.prompt

    async def found() -> TaskId | None:
        return await twins.find("s", "do it", same, pair.clock.now())

    assert await found() is None
    first = await ended(pair)
    twins.asked(first)
    assert await found() == first.task_id
    assert await twins.find("another", "do it", same, pair.clock.now()) is None
    twins.told("another", [await pair.asker.seen(first.task_id)])
    assert await found() == first.task_id
    twins.told("s", [await pair.asker.seen(first.task_id)])
    assert await found() is None


async def test_an_untold_end_is_forgotten_after_a_while(pair: Pair) -> None:
    await pair.connect()
    twins = Twins(pair.asker.store, pair.clock.now())
    first = await ended(pair)
    twins.asked(first)
    pair.clock.passed_s += UNTOLD_S + 1
    assert await twins.find("s", "do it", lambda _: True, pair.clock.now()) is None


async def test_after_a_restart_a_lately_ended_task_counts_as_untold(pair: Pair) -> None:
    await pair.connect()
    first = await ended(pair)
    await pair.asker.restart()
    twins = Twins(pair.asker.store, pair.clock.now())
    assert await twins.find("s", "do it", lambda _: True, pair.clock.now()) == first.task_id
    late = Twins(pair.asker.store, pair.clock.now())
    pair.clock.passed_s += UNTOLD_S + 1
    assert await late.find("s", "do it", lambda _: True, pair.clock.now()) is None
