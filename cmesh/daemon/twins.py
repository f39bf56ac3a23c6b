"""Which ends of tasks each agent session was told, so that a repeated call finds the first task.

An agent whose client timed out calls `delegate` again. While the first task is unfinished, or
has ended without the session being told, that call means the first. In memory only: after a
restart nobody counts as told.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from cmesh.errors import TaskConflict
from cmesh.model import NEVER_RAN, Direction, TaskId
from cmesh.store.records import TaskRecord, TaskSnapshot
from cmesh.store.store import Store

__all__ = ["UNTOLD_S", "Twins"]

UNTOLD_S = 300.0
"""How long after its end a task that its session was not told of answers a repeated call."""

REMEMBERED = 1_000
"""Tasks that are remembered, and ends that were told."""

RECENT = 50
"""Tasks of an earlier life that are looked at once, after a start."""


class Twins:
    """The tasks that sessions of this node asked for lately."""

    def __init__(self, store: Store, began: datetime) -> None:
        """Make it; `began` is when this life of the daemon did."""
        self._store = store
        self._began = began
        self._asked: OrderedDict[TaskId, bytes] = OrderedDict()
        self._told: OrderedDict[TaskId, bytes] = OrderedDict()
        self._earlier = False

    def asked(self, record: TaskRecord) -> None:
        """Remember what a session has asked for."""
        _remember(self._asked, record.task_id, _mark(record.session, record.spec.prompt))

    def told(self, session: str, tasks: Sequence[TaskSnapshot]) -> None:
        """Note that a session is given these tasks, and so the end of those that have one."""
        for task in tasks:
            if task.terminal and task.record.session == session:
                _remember(self._told, task.record.task_id, b"")

    def knows(self, task_id: TaskId) -> bool:
        """Whether a task's session was told its end."""
        return task_id in self._told

    async def retried(self, key: str, same: Callable[[TaskRecord], bool]) -> TaskRecord | None:
        """Return the task that a call with the same idempotency key asked for, or None.

        Raises:
            TaskConflict: the key belongs to a task of another content.
        """
        task_id = await self._store.idempotent(key) if key else None
        known = await self._store.task(task_id) if task_id else None
        if known is None:
            return None
        if not same(known.record):
            raise TaskConflict(f"idempotency key `{key}` belongs to another task")
        return known.record

    async def find(
        self, session: str, prompt: str, same: Callable[[TaskRecord], bool], now: datetime
    ) -> TaskId | None:
        """Return the session's task that a call with `prompt`, for the `same`, means, or None.

        Costs the same, however many tasks with other prompts there are.
        """
        await self._look_back(now)
        for task in self._store.alike(session, prompt):
            if _is(task, same):
                return task.record.task_id
        oldest, wanted = now - timedelta(seconds=UNTOLD_S), _mark(session, prompt)
        for task_id, mark in reversed(self._asked.items()):
            if mark != wanted or task_id in self._told:  # else it may have to be read back
                continue
            task = await self._store.task(task_id)
            lately = task is not None and _may_have_run(task) and task.state_ts >= oldest
            if task is not None and lately and _is(task, same):
                return task_id
        return None

    async def _look_back(self, now: datetime) -> None:
        """Take up what an earlier life was asked for, while a client may still repeat itself."""
        if self._earlier:
            return
        self._earlier = True
        if now - self._began > timedelta(seconds=UNTOLD_S):
            return
        for task in reversed(await self._store.tasks(direction=Direction.OUT, limit=RECENT)):
            if task.record.task_id not in self._asked:
                self.asked(task.record)
                self._asked.move_to_end(task.record.task_id, last=False)


def _is(task: TaskSnapshot, same: Callable[[TaskRecord], bool]) -> bool:
    return task.record.direction is Direction.OUT and same(task.record)


def _may_have_run(task: TaskSnapshot) -> bool:
    """Whether a task ended with a worker's word, and not before anything was started."""
    return task.terminal and task.result is not None and task.state not in NEVER_RAN


def _mark(session: str, prompt: str) -> bytes:
    """Return what tells calls of other sessions, or with other prompts, apart: 16 bytes."""
    return hashlib.sha256(f"{session}\0{prompt}".encode()).digest()[:16]


def _remember(table: "OrderedDict[TaskId, bytes]", task_id: TaskId, mark: bytes) -> None:
    table[task_id] = mark
    while len(table) > REMEMBERED:
        table.popitem(last=False)
