"""Records for tests of the store."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uuid_utils
from typing_extensions import override

from cmesh.clock import Clock
from cmesh.model import (
    Direction,
    Event,
    Limits,
    NodeId,
    Profile,
    Result,
    TaskId,
    TaskSpec,
    TaskState,
    Usage,
)
from cmesh.store import child, queries
from cmesh.store.records import (
    DecisionRecord,
    EventRecord,
    ReceiptRecord,
    ResultRecord,
    StepRecord,
    TaskRecord,
    TaskSnapshot,
    TrustRecord,
)
from cmesh.store.store import Store

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
PEER = NodeId("nPEER")


class FixedClock(Clock):
    def __init__(self) -> None:
        self.time = NOON

    @override
    def now(self) -> datetime:
        return self.time

    @override
    def monotonic(self) -> float:
        return self.time.timestamp()

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def new_id() -> TaskId:
    return TaskId(str(uuid_utils.uuid7()))


def task(
    task_id: TaskId | None = None,
    *,
    direction: Direction = Direction.OUT,
    key: str = "",
    prompt: str = "why did the deploy fail?",
    session: str = "session-1",
    peer_id: NodeId = PEER,
    follows: TaskId | None = None,
) -> TaskRecord:
    spec = TaskSpec(
        task_id=new_id() if task_id is None else task_id,
        runner="command:look",
        profile=Profile.FULL,
        directory="/srv/myapp",
        prompt=prompt,
        limits=Limits(runtime_s=60, cost_usd=1.5),
        accept=("make", "test"),
        origin=(NodeId("nSELF"),),
        not_after=NOON + timedelta(hours=1),
        traceparent="",
        follows=follows,
    )
    return TaskRecord(
        task_id=spec.task_id,
        direction=direction,
        peer_id=peer_id,
        peer="buildbox",
        principal="me@example.com",
        session=session,
        project="/home/me/myapp",
        idempotency_key=key,
        spec=spec,
        payload_hash=spec.payload_hash(),
        worker_incarnation="0" * 32,
        rule="ask the build box",
    )


def state(record: TaskRecord, name: str, **more: Any) -> StepRecord:
    return StepRecord(
        task_id=record.task_id, direction=record.direction, kind="state", name=name, **more
    )


def fact(record: TaskRecord, name: str) -> StepRecord:
    return StepRecord(task_id=record.task_id, direction=record.direction, kind="fact", name=name)


def event(record: TaskRecord, seq: int, kind: str = "text", text: str = "looking") -> EventRecord:
    return EventRecord(
        task_id=record.task_id,
        direction=record.direction,
        event=Event(
            seq=seq, ts=NOON + timedelta(seconds=seq), kind=kind, text=text, data={"n": seq}
        ),
        spool_end=seq * 10,
    )


def result(
    record: TaskRecord,
    ended: TaskState = TaskState.SUCCEEDED,
    text: str = "a unit was missing",
    until: datetime | None = None,
) -> ResultRecord:
    """A task's end; a reply is possible `until` then."""
    return ResultRecord(
        task_id=record.task_id,
        direction=record.direction,
        result=Result(
            state=ended,
            witness="shim recorded exit 0",
            exit_code=0,
            text=text,
            output_bytes=18,
            output_kept=18,
            output_sha256="ab" * 32,
            usage=Usage(cost_usd=0.25, tokens_in=100, tokens_out=20),
            runner_version="1.0",
            started_at=NOON + timedelta(seconds=1),
            ended_at=NOON + timedelta(seconds=5),
            follow_up="possible" if until else "",
            follow_up_until=until,
        ),
        worker_signature="w" * 86,
    )


def decision(record: TaskRecord, effect: str = "deny") -> DecisionRecord:
    return DecisionRecord(
        task_id=record.task_id,
        direction=record.direction,
        peer_id=record.peer_id,
        peer=record.peer,
        principal=record.principal,
        operation="task",
        effect=effect,
        rule=None,
        reason="no rule allows `/etc`",
        failed=({"rule": "r", "condition": "paths", "wanted": "/srv", "got": "/etc"},),
        policy_sha256="cd" * 32,
    )


def trust(peer_id: NodeId = PEER, key: str = "k1", *, trusted: bool = True) -> TrustRecord:
    return TrustRecord(peer_id=peer_id, peer="buildbox", key=key, trusted=trusted, by="cli")


def acknowledgement(record: TaskRecord) -> ReceiptRecord:
    return ReceiptRecord(
        peer_id=record.peer_id,
        peer=record.peer,
        kind="result_ack",
        task_id=record.task_id,
        head_seq=7,
        head_hash="ef" * 32,
        signature="c" * 86,
    )


async def tasks_in_the_file(
    store: Store,
    *,
    direction: Direction | None = None,
    states: Sequence[TaskState] | None = None,
    session: str | None = None,
    limit: int,
) -> list[TaskSnapshot]:
    """What `Store.tasks` answers when memory does not: the database's own answer."""
    read = partial(
        queries.snapshots, direction=direction, states=states, session=session, limit=limit
    )
    now = store._clock.now()  # pyright: ignore[reportPrivateUsage]
    return await store._read(partial(read, now=now))  # pyright: ignore[reportPrivateUsage]


def add_migration(patch: pytest.MonkeyPatch, folder: Path, sql: str) -> None:
    """Let the database process be a newer cmesh's: this tree with one more migration."""
    newer = folder / "newer"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(child.ROOT / "cmesh", newer / "cmesh", ignore=ignored, dirs_exist_ok=True)
    code = newer / "cmesh" / "store" / "migrations.py"
    # Here: it loads DuckDB, and a test shows that a daemon does not.
    from cmesh.store.migrations import MIGRATIONS

    last = f'"{MIGRATIONS[-1]}",\n'
    one, two = f"{last})", f'{last}    "extra.sql",\n)'
    assert one in code.read_text("utf-8")
    code.write_text(code.read_text("utf-8").replace(one, two), "utf-8")
    code.with_name("extra.sql").write_text(sql, "utf-8")
    patch.setattr(child, "ROOT", newer)
