"""A caller and a worker against each other, with what may go wrong in between."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from cmesh.daemon import inbound, requests
from cmesh.errors import DiskFull, IdentityUnknown, NodeClosed, PolicyDenied
from cmesh.link.link import Link
from cmesh.model import TaskId, TaskState
from cmesh.protocol import convert
from cmesh.protocol.link_messages import Failure
from cmesh.protocol.messages import (
    Cancel,
    Denied,
    Message,
    ResultAck,
    StillWanted,
    Submit,
    Subscribe,
)
from tests.fakes.half import SETTLE_LIMIT_S, Half, allowed
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio


class Recorded:
    """The worker's view of a link on which a peer says what it likes."""

    def __init__(self, half: Half) -> None:
        self.identity = half.identity
        self.posted: list[Message] = []
        self.held: list[object] = []
        self.refused: list[str] = []
        self.closed: list[str] = []
        self.slowed: list[float] = []
        self.ended = False
        self.turned_away = False

    def post(self, message: Message) -> None:
        self.posted.append(message)

    def hold(self, work: object) -> None:
        self.held.append(work)

    def slow(self, pause_s: float) -> None:
        self.slowed.append(pause_s)

    async def refuse(self, error: Exception) -> None:
        self.refused.append(str(error))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed.append(reason)


async def said(half: Half, link: Recorded, message: Message) -> None:
    """Let `half`'s worker take a message and finish all that follows from it."""
    assert half.worker.take(cast("Link", link), message)
    for work in list(link.held):
        await cast("inbound.asyncio.Future[None]", work)


def submit(asker: Half, doer: Half) -> Submit:
    return convert.submit(asker.record(doer).spec)


async def accepted(pair: Pair, prompt: str) -> TaskId:
    """Delegate and wait for the worker's word: what is accepted first is first in its queue."""
    task_id = await pair.asker.delegate(pair.doer, prompt=prompt)
    await pair.asker.until(task_id, "accepted")
    return task_id


async def test_a_task_runs_once_and_both_hold_the_same_signed_end(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.shims.write(task_id, b"hello\n")
    pair.doer.shims.finish(task_id)
    here = await pair.asker.until(task_id, "succeeded")
    there = await pair.doer.acknowledged(task_id)
    assert here.result == there.result
    assert (here.worker_signature, here.caller_signature) == (
        there.worker_signature,
        there.caller_signature,
    )
    assert pair.doer.shims.starts[task_id] == 1
    events = await pair.asker.store.events(task_id, after=0, limit=9)
    assert [event.kind for event in events] == ["running", "output"]
    await pair.doer.quiet()
    assert not pair.asker.caller.owes(pair.doer.node_id)
    assert not pair.doer.worker.owes(pair.asker.node_id)


async def test_a_peer_that_is_asked_cannot_make_the_asked_task_run_here(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.asker.until(task_id, "accepted")
    spec = (await pair.asker.seen(task_id)).record.spec
    link = Recorded(pair.doer)
    await said(pair.asker, link, convert.submit(spec))
    cancel = Cancel(task_id=task_id, reason="user", payload_hash="0" * 64)
    await said(pair.asker, link, cancel)
    await said(pair.asker, link, Subscribe(task_id=task_id, after_seq=0))
    denied, *unknown = link.posted
    assert isinstance(denied, Denied)
    assert denied.code == "task_conflict"
    assert [m.code for m in unknown if isinstance(m, Failure)] == ["task_not_found"] * 2
    here = await pair.asker.seen(task_id)
    assert (here.state, "cancel_wish" in here.facts) == ("accepted", False)
    assert pair.asker.shims.starts[task_id] == 0


async def test_a_number_from_the_future_and_an_unknown_id_change_nothing(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    link, nobodys = Recorded(pair.asker), pair.asker.record(pair.doer).task_id
    await said(pair.doer, link, Subscribe(task_id=nobodys, after_seq=0))
    await said(pair.doer, link, ResultAck(task_id=nobodys, signature="x"))
    await said(pair.doer, link, ResultAck(task_id=task_id, signature="x"))  # not ended yet
    assert [m.code for m in link.posted if isinstance(m, Failure)] == ["task_not_found"] * 3
    await said(pair.doer, link, Subscribe(task_id=task_id, after_seq=99))
    assert (link.refused, [m.code for m in link.posted[3:] if isinstance(m, Failure)]) == (
        [],
        ["store_restored"],
    )
    pair.doer.shims.finish(task_id)
    ended = await pair.doer.acknowledged(task_id)
    assert (ended.state, pair.doer.shims.starts[task_id]) == ("succeeded", 1)


async def test_a_cancel_of_a_finished_task_changes_nothing(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.shims.finish(task_id)
    before = await pair.doer.acknowledged(task_id)
    link = Recorded(pair.asker)
    payload_hash = before.record.payload_hash
    await said(pair.doer, link, Cancel(task_id=task_id, reason="user", payload_hash=payload_hash))
    assert (link.posted, link.refused) == ([], [])
    assert await pair.doer.seen(task_id) == before
    assert (await pair.asker.seen(task_id)).state == "succeeded"


async def test_another_peer_learns_nothing_of_a_task_and_cannot_end_it(
    pair: Pair, tmp_path: Path
) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    spec = (await pair.doer.seen(task_id)).record.spec
    stranger = Recorded(Half("stranger", tmp_path, pair.clock))
    await said(pair.doer, stranger, convert.submit(spec))
    await said(pair.doer, stranger, Cancel(task_id=task_id, reason="user", payload_hash="0" * 64))
    await said(pair.doer, stranger, ResultAck(task_id=task_id, signature="x"))
    first, *rest = stranger.posted
    assert isinstance(first, Denied)
    assert (first.code, str(pair.doer.place) in first.reason) == ("task_conflict", False)
    assert [m.code for m in rest if isinstance(m, Failure)] == ["task_not_found"] * 2
    there = await pair.doer.seen(task_id)
    assert (there.state, "cancel_wish" in there.facts) == ("running", False)


async def test_a_row_that_was_not_stored_keeps_no_place(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, commit = Recorded(pair.asker), pair.doer.store.commit

    async def full(records: object) -> int:
        raise DiskFull("nothing is left")

    monkeypatch.setattr(pair.doer.store, "commit", full)
    for _ in range(3):
        await said(pair.doer, link, submit(pair.asker, pair.doer))
    assert [m.code for m in link.posted if isinstance(m, Failure)] == ["disk_full"] * 3
    assert (pair.doer.worker.running, pair.doer.worker.waiting) == (0, 0)
    assert not pair.doer.worker.owes(pair.asker.node_id)
    monkeypatch.setattr(pair.doer.store, "commit", commit)
    message = submit(pair.asker, pair.doer)
    await said(pair.doer, link, message)
    await pair.doer.until(TaskId(message.task_id), "running")


async def test_a_full_disk_in_a_look_loses_no_event_and_no_end(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    blob, refused = pair.doer.store.blob, 0

    async def full_at_first(data: bytes | Path) -> str:
        nonlocal refused
        refused += 1
        if refused < 3:
            raise DiskFull("nothing is left")
        return await blob(data)

    monkeypatch.setattr(pair.doer.store, "blob", full_at_first)
    pair.doer.shims.write(task_id, b"one\ntwo\n")
    pair.doer.shims.finish(task_id)
    await pair.asker.until(task_id, "succeeded")
    assert refused == 3
    events = await pair.asker.store.events(task_id, after=0, limit=9)
    assert [event.text for event in events if event.kind == "output"] == ["one", "two"]


async def test_a_shim_that_ends_unclaimed_is_not_spawned_in_a_loop(pair: Pair) -> None:
    await pair.connect()
    pair.doer.shims.claiming = False
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "intent")
    for _ in range(5):
        pair.doer.worker.changed(task_id)
        await pair.doer.settled(task_id)
    assert pair.doer.shims.spawns[task_id] == 1
    pair.clock.passed_s += inbound.PAUSE_MOST_S
    pair.doer.shims.claiming = True
    pair.doer.worker.changed(task_id)
    await pair.doer.until(task_id, "running")
    assert (pair.doer.shims.spawns[task_id], pair.doer.shims.starts[task_id]) == (2, 1)


async def test_processes_of_a_dead_shim_are_counted_to_zero_first(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.shims.kill(task_id, survivors=2)
    ended = await pair.asker.until(task_id, "interrupted")
    assert ended.result is not None
    assert pair.doer.shims.end_survivors(task_id) == 0


async def test_a_lost_claim_file_does_not_hide_living_processes(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.shims.kill(task_id, survivors=3)
    pair.doer.shims.lose_claim(task_id)
    pair.doer.worker.changed(task_id)
    await pair.doer.until(task_id, "interrupted")
    assert pair.doer.shims.end_survivors(task_id) == 0


async def test_two_ends_at_once_wake_two_that_wait(pair: Pair) -> None:
    await pair.connect()
    tasks = [await accepted(pair, str(n)) for n in range(4)]
    for task_id in tasks[:2]:
        await pair.doer.until(task_id, "running")
    assert (pair.doer.worker.running, pair.doer.worker.waiting) == (2, 2)
    for task_id in tasks[:2]:
        pair.doer.shims.finish(task_id)
    for task_id in tasks[2:]:
        await pair.doer.until(task_id, "running")


async def test_who_waits_longest_gets_the_place(pair: Pair) -> None:
    await pair.connect()
    tasks = [await accepted(pair, str(n)) for n in range(6)]
    for task_id in tasks[:2]:
        await pair.doer.until(task_id, "running")
    order: list[TaskId] = []
    for _ in tasks:
        [first, *_] = [t for t in tasks if t in pair.doer.shims.running()]
        order.append(first)
        pair.doer.shims.finish(first)
        await pair.doer.until(first, "succeeded")
        rest = [t for t in tasks if t not in order]
        for task_id in rest[:2]:
            await pair.doer.until(task_id, "running")
    assert order == tasks


async def test_a_task_whose_time_is_over_does_not_take_a_place(pair: Pair) -> None:
    await pair.connect()
    tasks = [await accepted(pair, str(n)) for n in range(3)]
    await pair.doer.until(tasks[1], "running")
    pair.clock.passed_s = 3_601
    pair.doer.shims.finish(tasks[0])
    ended = await pair.asker.until(tasks[2], "expired")
    assert (ended.code, pair.doer.shims.starts[tasks[2]]) == ("expired", 0)


async def test_the_reason_of_a_failed_start_reaches_the_caller(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer, prompt="x", directory=str(pair.doer.place))

    async def broken(_task: TaskId) -> None:
        raise PermissionError(13, "no shim here")

    other = pair.asker.record(pair.doer, prompt="y")
    pair.doer.shims.spawn = broken  # pyright: ignore[reportAttributeAccessIssue] -- a fault
    await pair.asker.caller.delegate(other, allowed(other))
    ended = await pair.asker.until(other.task_id, "cancelled")
    assert (ended.code, "no shim here" in ended.reason) == ("runner_failed", True)
    assert task_id != other.task_id


async def test_a_restart_right_after_the_intent_starts_the_task_once(pair: Pair) -> None:
    await pair.connect()
    pair.doer.shims.claiming = False
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "intent")
    await pair.doer.stop()
    pair.doer.shims.claiming = True
    pair.doer.whois_error = NodeClosed("the node is not on the tailnet yet")
    await pair.doer.start()
    await pair.doer.settled(task_id)
    # Nobody can say yet who asked: it waits, it is not refused.
    there = await pair.doer.seen(task_id)
    assert (there.state, "cancel_wish" in there.facts) == ("intent", False)
    pair.doer.whois_error = None
    pair.doer.worker.changed(task_id)
    await pair.doer.settled(task_id)
    # Its caller has not followed it in this life: this store may be a backup, and it has run.
    there = await pair.doer.seen(task_id)
    assert (there.state, pair.doer.shims.starts[task_id]) == ("intent", 0)
    await pair.connect()
    await pair.doer.until(task_id, "running")
    assert pair.doer.shims.starts[task_id] == 1


async def test_what_a_restored_store_was_about_to_start_is_interrupted_and_never_starts(
    pair: Pair,
) -> None:
    await pair.connect()
    pair.doer.shims.claiming = False
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "intent")
    await pair.doer.stop()
    pair.doer.shims.claiming = True
    await pair.doer.start()
    await pair.doer.worker.restored()
    ended = await pair.doer.until(task_id, "interrupted")
    assert (ended.code, pair.doer.shims.starts[task_id]) == ("store_restored", 0)
    assert ended.result is not None
    assert "restored" in ended.result.witness
    await pair.connect()
    assert (await pair.asker.until(task_id, "interrupted")).code == "store_restored"
    assert pair.doer.shims.starts[task_id] == 0


async def test_a_task_that_was_told_as_running_is_never_wanted_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for it lost the start, by a backup that no signed head shows."""
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    async with asyncio.timeout(SETTLE_LIMIT_S):
        while (await pair.asker.seen(task_id)).progress != "running":
            await pair.asker.news.next(task_id)
    link, posted = pair.asker.link, list[Message]()
    assert link is not None
    monkeypatch.setattr(link, "post", posted.append)
    assert pair.asker.caller.take(link, StillWanted(task_id=task_id))
    await pair.asker.settled(task_id)
    assert posted == []
    assert pair.asker.link is link  # the question itself breaks no protocol


async def test_a_restart_past_its_time_does_not_start_a_task(pair: Pair) -> None:
    await pair.connect()
    pair.doer.shims.claiming = False
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "intent")
    await pair.doer.stop()  # first, or a late look of this life could start it
    pair.doer.shims.claiming = True
    pair.clock.passed_s = 3_601
    await pair.doer.start()
    ended = await pair.doer.until(task_id, "cancelled")
    assert (ended.code, pair.doer.shims.starts[task_id]) == ("expired", 0)


async def test_an_end_that_nobody_saw_is_taken_in_at_the_next_start(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    await pair.doer.stop()
    pair.doer.shims.write(task_id, b"one\ntwo\n")
    pair.doer.shims.finish(task_id)
    await pair.doer.start()
    ended = await pair.doer.until(task_id, "succeeded")
    assert (ended.last_event, pair.doer.shims.starts[task_id]) == (3, 1)


async def test_what_ran_a_task_is_known_after_a_restart(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    await pair.doer.restart()
    pair.doer.shims.finish(task_id)
    ended = await pair.doer.until(task_id, "succeeded")
    assert ended.result is not None
    assert ended.result.credential == "none"


@pytest.mark.parametrize("error", [NodeClosed("closing"), None])
async def test_a_node_that_cannot_ask_ends_no_task(pair: Pair, error: NodeClosed | None) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.whois_error = error or IdentityUnknown("nobody has that address")
    await pair.doer.worker.recheck(pair.asker.node_id)
    await pair.doer.settled(task_id)
    there = await pair.doer.seen(task_id)
    assert ("cancel_wish" in there.facts) is (error is None)


async def test_a_broken_configuration_admits_nothing_and_ends_nothing(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.configure("[[inbound")
    await pair.doer.worker.recheck(pair.asker.node_id)
    await pair.doer.settled(task_id)
    there = await pair.doer.seen(task_id)
    assert "cancel_wish" not in there.facts
    other = await pair.asker.delegate(pair.doer, prompt="another")
    assert (await pair.asker.until(other, "denied")).code == "policy_denied"


async def test_a_lost_right_ends_the_task_and_tells_no_rule(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.configure(pair.doer.rule().replace("me@example.com", "you@example.com"))
    await pair.doer.worker.recheck(pair.asker.node_id)
    await pair.doer.settled(task_id)
    assert pair.doer.shims.ended[task_id] == "revoked"
    pair.doer.shims.finish(task_id, verdict="cancelled", code=-15)
    ended = await pair.asker.until(task_id, "cancelled")
    assert (ended.code, "friends" in ended.reason) == ("policy_denied", False)
    assert "right" in ended.reason


async def test_why_a_task_was_ended_is_known_after_a_restart(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    await pair.doer.worker.revoke(pair.asker.node_id, PolicyDenied.code, "trust was taken back")
    await pair.doer.settled(task_id)
    assert pair.doer.shims.ended.pop(task_id) == "revoked"
    await pair.doer.restart()
    await pair.doer.settled(task_id)
    assert pair.doer.shims.ended[task_id] == "revoked"
    await pair.connect()
    pair.doer.shims.finish(task_id, verdict="cancelled")
    ended = await pair.asker.until(task_id, "cancelled")
    assert (ended.code, ended.reason) == (PolicyDenied.code, "trust was taken back")


async def test_a_rule_that_lets_tasks_stay_holds_after_a_restart(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule('on_revoke = "stay"'))
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    await pair.doer.restart()
    pair.doer.whois_error = IdentityUnknown("nobody has that address")
    await pair.doer.worker.recheck(pair.asker.node_id)
    await pair.doer.settled(task_id)
    there = await pair.doer.seen(task_id)
    assert "cancel_wish" not in there.facts


async def test_a_task_counted_today_is_not_counted_against_itself(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule("limits = { per_day = 1 }"))
    await pair.connect()
    pair.doer.shims.claiming = False
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "intent")
    await pair.doer.stop()
    pair.doer.shims.claiming = True
    await pair.doer.start()
    await pair.connect()
    await pair.doer.until(task_id, "running")


async def test_a_relative_directory_is_refused_and_a_nul_too(pair: Pair) -> None:
    await pair.connect()
    for directory in ("app", f"{pair.doer.place}/\0", "."):
        task_id = await pair.asker.delegate(pair.doer, directory=directory)
        ended = await pair.asker.until(task_id, "denied", "queued", "sent")
        ended = await pair.asker.until(task_id, "denied")
        assert ended.code in {"policy_denied", "task_refused"}


@pytest.mark.parametrize("answered", [True, False])
async def test_a_task_is_never_sent_to_a_second_store(
    pair: Pair, tmp_path: Path, *, answered: bool
) -> None:
    await pair.connect()
    pair.doer.mute = not answered
    task_id = await pair.asker.delegate(pair.doer)
    assert pair.asker.wire is not None
    await pair.doer.until(task_id, "running")
    if answered:
        await pair.asker.until(task_id, "accepted")
    assert (await pair.asker.seen(task_id)).state == ("accepted" if answered else "sent")
    await pair.doer.stop()
    (pair.doer.base / "store").rename(tmp_path / "old-store")
    await pair.doer.start()
    for _ in range(4):  # each connect is a chance to choose wrongly
        await pair.connect()
        await pair.asker.settled(task_id)
        assert pair.asker.caller.elsewhere(task_id)
        pair.asker.wire.abort()
    assert await pair.doer.store.task(task_id) is None
    # A wish without a link learns nothing of that store, so what is shown stays.
    await asyncio.wait(pair.asker.carrying)
    await pair.asker.caller.cancel(await pair.asker.seen(task_id), "not wanted any more")
    assert pair.asker.caller.elsewhere(task_id)
    assert pair.doer.shims.starts[task_id] == 1


async def test_approval_is_seen_by_the_caller_and_may_come_while_it_is_away(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule('approval = "ask"'))
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    waiting = await pair.asker.until(task_id, "accepted")
    assert waiting.public_state is TaskState.WAITING_APPROVAL
    assert pair.asker.wire is not None
    pair.asker.wire.lose()
    there = await pair.doer.until(task_id, "waiting")
    await pair.doer.worker.approve(there, yes=True, reason="")
    assert pair.doer.shims.starts[task_id] == 0
    await pair.connect()
    await pair.doer.until(task_id, "running")
    pair.doer.shims.finish(task_id)
    assert (await pair.asker.until(task_id, "succeeded")).result is not None
    for half, direction in ((pair.asker, "out"), (pair.doer, "in")):
        found = await half.store.sql("SELECT direction, answer, reason FROM approvals", (), 9)
        assert found.rows == [[direction, "approved", None]]


async def test_a_refusal_by_the_owner_is_an_answer_on_both_sides(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule('approval = "ask"'))
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.asker.until(task_id, "accepted")
    there = await pair.doer.until(task_id, "waiting")
    await pair.doer.worker.approve(there, yes=False, reason="not on a Friday")
    await pair.asker.until(task_id, "denied")
    for half in (pair.asker, pair.doer):
        found = await half.store.sql("SELECT answer, reason FROM approvals", (), 9)
        assert found.rows == [["denied", "not on a Friday"]]


async def test_a_peer_that_acknowledges_nothing_cannot_fill_the_store(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "UNSETTLED_LIMIT", 3)
    link = Recorded(pair.asker)
    for number in range(5):
        task_id = pair.asker.record(pair.doer, prompt=str(number)).task_id
        cancel = Cancel(task_id=task_id, reason="user", payload_hash="0" * 64)
        await said(pair.doer, link, cancel)
    assert [m.code for m in link.posted if isinstance(m, Failure)] == ["busy"] * 2
    assert len(await pair.doer.store.unfinished()) == 3


async def test_a_late_copy_of_a_submit_leaves_nothing_behind(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.shims.finish(task_id)
    there = await pair.doer.acknowledged(task_id)
    await said(pair.doer, Recorded(pair.asker), convert.submit(there.record.spec))
    assert not pair.doer.worker.owes(pair.asker.node_id)
    assert pair.doer.shims.starts[task_id] == 1


async def test_directories_of_settled_tasks_go_at_the_next_start(pair: Pair) -> None:
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    await pair.doer.until(task_id, "running")
    pair.doer.shims.finish(task_id)
    await pair.doer.acknowledged(task_id)
    await pair.doer.quiet()
    pair.doer.shims.directory(task_id).mkdir(exist_ok=True)
    await pair.doer.restart()
    assert not pair.doer.shims.directory(task_id).exists()


async def test_a_delegated_task_is_dialled_for_even_if_nobody_waits(pair: Pair) -> None:
    record = pair.asker.record(pair.doer)
    await pair.asker.caller.delegate(record, allowed(record))
    assert pair.asker.wanted == [pair.doer.node_id]
