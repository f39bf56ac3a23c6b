"""The store against a model of tasks in plain dictionaries, over restarts and crashes.

A crash is a copy of the directory taken while the store is open: what a kill leaves.
"""

import asyncio
import shutil
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typing_extensions import override

from cmesh.model import NEVER_RAN, TERMINAL, Direction, TaskId, TaskState
from cmesh.store import index
from cmesh.store.records import Record, TaskRecord, TaskSnapshot
from cmesh.store.store import Store
from tests.unit.store.support import (
    FixedClock,
    acknowledgement,
    decision,
    event,
    fact,
    result,
    state,
    task,
    tasks_in_the_file,
    trust,
)

T = TypeVar("T")

STATES = {
    Direction.OUT: ("queued", "sent", "accepted", *sorted(TERMINAL)),
    Direction.IN: ("accepted", "intent", "waiting", "running", *sorted(TERMINAL)),
}
FACTS = ("cancel_wish", "late", "acknowledged")
KINDS = ("text", "running", "waiting_input", "tool_call")
# DuckDB keeps no null character, so that none comes this far (`Prompt` in operations.py).
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
PICK = st.integers(0, 10_000)
ASKS = "Looked.\n**CMESH-QUESTION: which?**"
OPEN = [state for state in TaskState if state not in TERMINAL]
KEPT = 2
"""How many finished tasks are in memory here, so that most are not."""


class StoreModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.clock = FixedClock()
        self.generation = 0
        self.store: Store | None = None
        self.tasks: dict[TaskId, TaskRecord] = {}
        self.states: dict[TaskId, str] = {}
        self.facts: dict[TaskId, set[str]] = {}
        self.numbers: dict[TaskId, list[int]] = {}
        self.results: dict[TaskId, TaskState] = {}
        self.until: dict[TaskId, float] = {}
        self.rows = 0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(index, "FINISHED_KEPT", KEPT)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    @property
    def directory(self) -> Path:
        return Path(self.folder.name) / f"state-{self.generation}"

    @property
    def opened(self) -> Store:
        assert self.store is not None
        return self.store

    def commit(self, *records: Record) -> None:
        self.clock.advance(1)
        self.rows += len(records)
        assert self.run(self.opened.commit(records)) == self.rows

    def pick(self, number: int) -> TaskRecord:
        return list(self.tasks.values())[number % len(self.tasks)]

    @initialize()
    def open_new(self) -> None:
        self.store = self.run(Store.open(self.directory, clock=self.clock, node="nSELF"))
        self.rows = self.store.head[0]

    @rule(direction=st.sampled_from(Direction), prompt=TEXTS, denied=st.booleans())
    def new_task(self, direction: Direction, prompt: str, denied: bool) -> None:
        record = task(direction=direction, prompt=prompt, key=f"key {len(self.tasks)}")
        steps = [state(record, "denied", reason=prompt)] if denied else []
        self.commit(record, decision(record), *steps)
        default = "queued" if direction is Direction.OUT else "accepted"
        self.tasks[record.task_id] = record
        self.states[record.task_id] = "denied" if denied else default
        self.facts[record.task_id], self.numbers[record.task_id] = set(), []

    @precondition(lambda self: self.until)
    @rule(number=PICK)
    def reply(self, number: int) -> None:
        asked = self.tasks[list(self.until)[number % len(self.until)]]
        record = task(direction=asked.direction, follows=asked.task_id)
        self.commit(record)
        self.tasks[record.task_id] = record
        self.states[record.task_id] = "queued" if asked.direction is Direction.OUT else "accepted"
        self.facts[record.task_id], self.numbers[record.task_id] = set(), []

    @rule(seconds=st.sampled_from([5, 60]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.tasks)
    @rule(number=PICK, which=PICK)
    def step(self, number: int, which: int) -> None:
        record = self.pick(number)
        states = STATES[record.direction]
        name = states[which % len(states)]
        if record.spec.follows and record.task_id in self.results:
            return  # an end that has come is not followed by another
        self.commit(state(record, name))
        self.states[record.task_id] = name

    @precondition(lambda self: self.tasks)
    @rule(number=PICK, name=st.sampled_from(FACTS))
    def learn(self, number: int, name: str) -> None:
        record = self.pick(number)
        self.commit(fact(record, name))
        self.facts[record.task_id].add(name)

    @precondition(lambda self: self.tasks)
    @rule(number=PICK, kind=st.sampled_from(KINDS), text=TEXTS, count=st.sampled_from([1, 3, 300]))
    def happen(self, number: int, kind: str, text: str, count: int) -> None:
        record = self.pick(number)
        seen = self.numbers[record.task_id]
        fresh = range(len(seen) + 1, len(seen) + 1 + count)
        self.commit(*(event(record, n, kind, text) for n in fresh))
        seen.extend(fresh)

    @precondition(lambda self: self.tasks)
    @rule(number=PICK, kept_s=st.sampled_from([20, 90]), signed=st.booleans())
    def end_with_a_question(self, number: int, kept_s: float, signed: bool) -> None:
        record = self.pick(number)
        if record.task_id in self.results:
            return
        until = self.clock.now() + timedelta(seconds=kept_s)
        end = result(record, text=ASKS, until=until)
        self.commit(end, *([acknowledgement(record)] if signed else []))
        self.states[record.task_id] = "succeeded"
        self.results[record.task_id] = TaskState.SUCCEEDED
        self.until[record.task_id] = until.timestamp()

    @precondition(lambda self: self.tasks)
    @rule(number=PICK, ended=st.sampled_from(sorted(TERMINAL)), text=TEXTS, signed=st.booleans())
    def end(self, number: int, ended: TaskState, text: str, signed: bool) -> None:
        record = self.pick(number)
        if record.task_id in self.until or (record.spec.follows and record.task_id in self.results):
            return
        self.commit(result(record, ended, text), *([acknowledgement(record)] if signed else []))
        self.states[record.task_id] = ended.value
        self.results[record.task_id] = ended

    @rule()
    def trust_somebody(self) -> None:
        self.commit(trust(key=f"key {self.rows}"))

    @rule()
    def restart(self) -> None:
        before = self.snapshots()
        self.run(self.opened.close())
        self.reopen()
        assert self.snapshots() == before

    @rule()
    def crash(self) -> None:
        before, old = self.snapshots(), self.opened
        left = self.directory
        self.generation += 1
        # Copied with the main file first, as a kill would never leave it: the WAL may be newer.
        shutil.copytree(left, self.directory, ignore=shutil.ignore_patterns("store.lock"))
        self.run(old.close())
        self.reopen()
        assert self.snapshots() == before

    @rule()
    def verify(self) -> None:
        found = self.run(self.opened.verify())
        assert (found.rows, found.bad_seq, found.head_ok) == (self.rows, None, True)

    @invariant()
    def every_task_is_as_the_model_says(self) -> None:
        if self.store is None:
            return
        for task_id, record in self.tasks.items():
            found = self.run(self.store.task(task_id))
            assert found is not None
            assert (found.state, found.facts) == (self.states[task_id], self.facts[task_id])
            assert found.last_event == len(self.numbers[task_id])
            assert found.record.payload_hash == record.payload_hash
            assert (found.result and found.result.state) == self.results.get(task_id)
        assert {one.record.task_id for one in self.run(self.store.unfinished())} == {
            task_id for task_id in self.tasks if self.waits(task_id)
        }

    @invariant()
    def what_waits_for_input_is_as_the_model_says(self) -> None:
        if self.store is None:
            return
        waiting = {task_id for task_id in self.until if self.asks(task_id)}
        for states in ([TaskState.WAITING_INPUT], OPEN, [TaskState.SUCCEEDED], list(TaskState)):
            listed = self.run(self.store.tasks(states=states, limit=1000))
            assert listed == self.run(tasks_in_the_file(self.store, states=states, limit=1000))
            found = {one.record.task_id for one in listed} & set(self.until)
            if states != list(TaskState):
                expected = (
                    waiting if TaskState.WAITING_INPUT in states else set(self.until) - waiting
                )
                succeeded = {one for one in self.until if self.states[one] == "succeeded"}
                assert found & succeeded == expected & succeeded

    def asks(self, task_id: TaskId) -> bool:
        turns = [one for one, record in self.tasks.items() if record.spec.follows == task_id]
        over = self.until[task_id] <= self.clock.now().timestamp()
        return self.states[task_id] == "succeeded" and not over and not any(map(self.holds, turns))

    def holds(self, turn: TaskId) -> bool:
        unsent = self.states[turn] == TaskState.CANCELLED and turn not in self.results
        return self.states[turn] not in NEVER_RAN and not unsent

    def waits(self, task_id: TaskId) -> bool:
        inbound = self.tasks[task_id].direction is Direction.IN
        unacknowledged = inbound and "acknowledged" not in self.facts[task_id]
        return self.states[task_id] not in TERMINAL or unacknowledged

    def snapshots(self) -> list[TaskSnapshot | None]:
        listed = self.run(self.opened.tasks(limit=1000))
        assert listed == self.run(tasks_in_the_file(self.opened, limit=1000))
        single = [self.run(self.opened.task(one.record.task_id)) for one in listed]
        assert listed == single
        for task_id, numbers in self.numbers.items():
            read = self.run(self.opened.events(task_id, after=1, limit=10_000))
            assert [one.seq for one in read] == numbers[1:]
        return single

    def reopen(self) -> None:
        self.store = self.run(Store.open(self.directory, clock=self.clock, node="nSELF"))
        assert self.store.head[0] == self.rows

    @override
    def teardown(self) -> None:
        if self.store is not None:
            self.run(self.store.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.patch.undo()
        self.folder.cleanup()


StoreModel.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
# Each restart and crash starts a database process: 0.3 s of processor time.
TestStoreModel = pytest.mark.timeout(300)(StoreModel.TestCase)
