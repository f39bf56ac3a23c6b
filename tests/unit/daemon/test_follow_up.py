"""Follow-up turns between a caller and a worker: which the worker takes, and why not others."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from cmesh.daemon import followup
from cmesh.errors import TaskConflict, TaskRefused
from cmesh.model import Limits, Profile, Result, TaskId, TaskState, Usage
from cmesh.protocol import convert
from cmesh.runner.sessions import KEEP
from cmesh.sandbox.tier import Enforcement
from cmesh.store.records import TaskRecord, TaskSnapshot
from tests.fakes.half import SETTLE_LIMIT_S, Half, allowed
from tests.unit.daemon.conftest import Pair
from tests.unit.daemon.test_halves import Recorded, said

pytestmark = pytest.mark.anyio


@pytest.fixture
async def talk(pair: Pair) -> "Talk":
    """Return a pair whose worker has an agent that keeps conversations."""
    key = pair.doer.base / "key"
    key.write_text("k", "utf-8")
    key.chmod(0o600)
    agent = f'[runners.claude]\nprogram = "/bin/true"\nkey_file = "{key}"\n'
    rule = pair.doer.rule().replace('"command:x"]', '"command:x", "claude"]')
    pair.doer.configure(agent + rule)
    await pair.doer.restart()
    await pair.connect()
    return Talk(pair)


class Talk:
    """Turns between `asker` and `doer`; the agent's record is a file that a test makes."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.asker, self.doer = pair.asker, pair.doer

    def after(self, before: TaskRecord, prompt: str = "go on") -> TaskRecord:
        record = self.asker.record(self.doer, runner=before.spec.runner, prompt=prompt)
        spec = replace(
            before.spec,
            task_id=record.task_id,
            prompt=prompt,
            follows=before.task_id,
            not_after=record.spec.not_after,
        )
        return replace(
            record,
            spec=spec,
            payload_hash=spec.payload_hash(),
            thread=before.first,
            turn=before.turn + 1,
        )

    async def ask(self, record: TaskRecord) -> TaskId:
        await self.asker.caller.delegate(record, allowed(record))
        return record.task_id

    async def turn(self, record: TaskRecord, cost_usd: float = 0.5) -> TaskSnapshot:
        """Let a turn run to its end."""
        await self.ask(record)
        await self.run(record, cost_usd)
        return await self.asker.until(record.task_id, "succeeded")

    async def run(self, record: TaskRecord, cost_usd: float = 0.5) -> None:
        await self.doer.until(record.task_id, "running")
        files = self.file(record.first).parent
        files.mkdir(parents=True, exist_ok=True)
        self.file(record.first).write_text("{}", "utf-8")
        line = {"type": "result", "is_error": False, "result": "ok", "total_cost_usd": cost_usd}
        line |= {"usage": {"input_tokens": 200, "output_tokens": 30}}
        self.doer.shims.write(record.task_id, json.dumps(line).encode() + b"\n")
        self.doer.shims.finish(record.task_id)

    async def first(self) -> TaskRecord:
        record = self.asker.record(self.doer, runner="claude")
        await self.turn(record)
        return record

    def file(self, thread: TaskId) -> Path:
        return self.doer.base / "sessions" / thread / "files" / "app" / f"{thread}.jsonl"

    async def denied(self, record: TaskRecord) -> TaskSnapshot:
        return await self.asker.until(await self.ask(record), "denied")


async def test_turns_follow_each_other_as_tasks_of_their_own(talk: Talk) -> None:
    one = await talk.first()
    two = talk.after(one)
    ended = await talk.turn(two, cost_usd=0.8)
    there = await talk.doer.acknowledged(two.task_id)
    assert (there.record.thread, there.record.turn) == (one.task_id, 2)
    assert there.result is not None
    assert there.result.follow_up == "possible"
    assert there.result.follow_up_until == talk.pair.clock.now() + KEEP
    assert there.result.usage.cost_usd == pytest.approx(0.3)
    assert ended.result == there.result
    assert (await talk.doer.seen(one.task_id)).state == "succeeded"
    three = talk.after(two)
    await talk.turn(three, cost_usd=1.0)
    at = await talk.doer.seen(three.task_id)
    assert (at.record.thread, at.record.turn) == (one.task_id, 3)
    assert at.result is not None
    assert at.result.usage.cost_usd == pytest.approx(0.2)


async def test_the_next_turn_is_denied_while_the_one_before_runs(talk: Talk) -> None:
    one = talk.asker.record(talk.doer, runner="claude")
    await talk.ask(one)
    await talk.doer.until(one.task_id, "running")
    assert (await talk.denied(talk.after(one))).code == "task_unfinished"


async def test_a_turn_that_was_cancelled_or_interrupted_cannot_be_followed(talk: Talk) -> None:
    for end in (TaskState.CANCELLED, TaskState.INTERRUPTED):
        one = talk.asker.record(talk.doer, runner="claude", prompt=end.value)
        await talk.ask(one)
        await talk.doer.until(one.task_id, "running")
        if end is TaskState.CANCELLED:
            talk.doer.shims.finish(one.task_id, verdict="cancelled")
        else:
            talk.doer.shims.kill(one.task_id)
        task = await talk.asker.until(one.task_id, end.value)
        refused = await talk.denied(talk.after(one))
        assert (refused.code, f"ended `{end.value}`" in refused.reason) == ("task_refused", True)
        now = await followup.standing(talk.asker.store, task, talk.pair.clock.now())
        with pytest.raises(TaskRefused, match=f"ended {end.value}"):
            followup.require_possible(task, now)


async def test_of_two_next_turns_at_once_one_is_taken_and_named(talk: Talk) -> None:
    one = await talk.first()
    left, right = talk.after(one, "left"), talk.after(one, "right")
    await asyncio.gather(talk.ask(left), talk.ask(right))
    states: dict[TaskId, TaskSnapshot] = {}
    for record in (left, right):
        states[record.task_id] = await talk.asker.until(record.task_id, "accepted", "denied")
    [lost] = [task for task in states.values() if task.state == "denied"]
    [won] = [task_id for task_id, task in states.items() if task.state == "accepted"]
    assert (lost.code, won in lost.reason) == ("task_conflict", True)
    first = await talk.asker.seen(one.task_id)
    now = await followup.standing(talk.asker.store, first, talk.pair.clock.now())
    assert (now.code, now.by) == ("followed", won)
    with pytest.raises(TaskConflict, match=won):
        followup.require_possible(first, now)


async def test_a_turn_that_never_began_gives_its_place_free(talk: Talk) -> None:
    one = await talk.first()
    assert talk.asker.wire is not None
    talk.asker.wire.abort()
    await asyncio.wait_for(asyncio.wait(talk.asker.carrying), SETTLE_LIMIT_S)
    assert talk.asker.link is None
    unsent = talk.after(one, "unsent")
    await talk.ask(unsent)
    await talk.asker.caller.cancel(await talk.asker.seen(unsent.task_id), "not that")
    first = await talk.asker.seen(one.task_id)
    now = await followup.standing(talk.asker.store, first, talk.pair.clock.now())
    assert now.code == "possible"
    await talk.pair.connect()
    await talk.turn(talk.after(one, "this"))


@pytest.mark.parametrize(
    "change",
    [
        {"runner": "command:x"},
        {"directory": "/srv"},
        {"limits": Limits(runtime_s=901)},
        {"limits": Limits(output_bytes=2**29)},
    ],
    ids=["runner", "directory", "runtime", "output"],
)
def test_a_turn_asks_for_the_same_and_never_for_more(
    tmp_path: Path, change: dict[str, object]
) -> None:
    half = Half("asker", tmp_path, Pair(tmp_path / "x").clock)
    before = half.record(half, runner="claude").spec
    same = replace(before, prompt="go on", limits=Limits(runtime_s=5, cost_usd=1.0))
    assert not followup.wider(same, before)
    assert followup.wider(replace(before, **change), before)
    dear = replace(before, limits=Limits(cost_usd=1.0))
    assert followup.wider(replace(before, limits=Limits(cost_usd=2.0)), dear)
    assert followup.wider(before, dear)


async def test_another_peer_cannot_follow_a_task_and_learns_nothing(
    talk: Talk, tmp_path: Path
) -> None:
    one = await talk.first()
    other = Half("stranger", tmp_path, talk.pair.clock)
    link = Recorded(other)
    known, unknown = talk.after(one), talk.after(talk.asker.record(talk.doer, runner="claude"))
    for record in (known, unknown):
        await said(talk.doer, link, convert.submit(record.spec))
    tasks = [await talk.doer.seen(record.task_id) for record in (known, unknown)]
    assert [(task.state, task.code) for task in tasks] == [("denied", "task_not_found")] * 2
    assert tasks[0].reason == tasks[1].reason


async def test_a_rule_without_the_operation_denies_the_turn(talk: Talk) -> None:
    one = await talk.first()
    text = talk.doer.config.read_text("utf-8").replace('"task", "follow_up"', '"task"')
    talk.doer.configure(text)
    refused = await talk.denied(talk.after(one))
    assert (refused.code, "operation" in refused.reason) == ("policy_denied", True)


async def test_a_conversation_that_is_gone_is_named_on_both_sides(talk: Talk) -> None:
    one = await talk.first()
    talk.file(one.task_id).unlink()
    assert (await talk.denied(talk.after(one))).code == "session_gone"
    task = await talk.asker.seen(one.task_id)
    now = await followup.standing(talk.asker.store, task, talk.pair.clock.now())
    assert now.code == "session_gone"


async def test_a_conversation_lost_after_the_turn_was_taken_ends_the_turn(talk: Talk) -> None:
    one = await talk.first()
    filler = [talk.asker.record(talk.doer, prompt=f"filler {n}") for n in range(2)]
    for record in filler:
        await talk.ask(record)
        await talk.doer.until(record.task_id, "running")
    two = talk.after(one)
    await talk.ask(two)
    await talk.asker.until(two.task_id, "accepted")
    talk.file(one.task_id).unlink()
    talk.doer.shims.finish(filler[0].task_id)
    ended = await talk.asker.until(two.task_id, "cancelled")
    assert (ended.code, talk.doer.shims.starts[two.task_id]) == ("session_gone", 0)


async def test_a_conversation_is_deleted_a_while_after_its_last_turn(talk: Talk) -> None:
    one = await talk.first()
    talk.pair.clock.passed_s += KEEP.total_seconds() - 60
    two = talk.after(one)
    await talk.turn(two)
    talk.pair.clock.passed_s += KEEP.total_seconds() - 60
    await talk.doer.worker.sweep()
    assert talk.file(one.task_id).exists()
    talk.pair.clock.passed_s += 60
    task = await talk.asker.seen(two.task_id)
    now = await followup.standing(talk.asker.store, task, talk.pair.clock.now())
    assert now.code == "session_gone"
    await talk.doer.worker.sweep()
    assert not talk.file(one.task_id).parent.parent.exists()


async def test_a_restarted_worker_goes_on_with_a_turn_it_had_taken(talk: Talk) -> None:
    one = await talk.first()
    two = talk.after(one)
    await talk.ask(two)
    await talk.doer.until(two.task_id, "running")
    await talk.doer.restart()
    await talk.pair.connect()
    other = talk.after(one, "another")
    assert (await talk.denied(other)).code == "task_conflict"
    await talk.run(two)
    await talk.asker.until(two.task_id, "succeeded")
    assert talk.doer.shims.starts[two.task_id] == 1


async def test_a_command_says_that_it_cannot_be_followed(talk: Talk) -> None:
    record = talk.asker.record(talk.doer)
    await talk.ask(record)
    await talk.doer.until(record.task_id, "running")
    talk.doer.shims.finish(record.task_id)
    task = await talk.asker.until(record.task_id, "succeeded")
    assert task.result is not None
    assert (task.result.follow_up, task.result.follow_up_until) == ("runner_cannot", None)
    assert (await talk.denied(talk.after(record))).code == "runner_cannot"


async def test_an_agent_that_goes_on_where_it_began_needs_a_place_that_stays(talk: Talk) -> None:
    record = talk.asker.record(talk.doer, runner="opencode")
    # Without mounts a copy has a name of its own for each task.
    talk.doer.parts.sandboxes.found = Enforcement()
    result = Result(state=TaskState.SUCCEEDED, witness="w", ended_at=talk.pair.clock.now())
    for profile, expected in ((Profile.EDIT, "runner_cannot"), (Profile.FULL, "session_gone")):
        turn = replace(record, spec=replace(record.spec, profile=profile))
        settled = await followup.settle(talk.doer.parts, turn, result, "ses_1")
        assert settled.follow_up == expected


async def test_of_tokens_that_add_up_a_turn_has_its_own(talk: Talk) -> None:
    record = talk.asker.record(talk.doer, runner="codex")
    used = Usage(tokens_in=500, tokens_out=70)
    result = Result(state=TaskState.FAILED, witness="w", usage=used)
    first = await followup.settle(talk.doer.parts, record, result, "")
    assert first.usage == used
    one = await talk.first()
    turn = talk.after(replace(one, spec=replace(one.spec, runner="codex")))
    later = await followup.settle(talk.doer.parts, turn, result, "")
    assert later.usage == Usage(tokens_in=300, tokens_out=40)
