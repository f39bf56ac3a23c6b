"""A store with the audit of many ended tasks, for all benchmarks, and the same rows in SQLite.

Rows are made as the daemon makes them: records, encoded, chained, inserted by the database's own
code into its own tables. Left out are the journal and the waiting for the disk, which two million
rows would spend minutes on. What comes out is a whole store: a daemon opens it, `verify` is content.
"""

import random
import secrets
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

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
from cmesh.paths import ensure_private_dir
from cmesh.store.chain import GENESIS, link, micros
from cmesh.store.database import Database
from cmesh.store.encode import encode
from cmesh.store.head import Head, HeadFile
from cmesh.store.journal import Entry
from cmesh.store.records import (
    DecisionRecord,
    EventRecord,
    Record,
    ResultRecord,
    StepRecord,
    TaskRecord,
)

__all__ = ["FIRST_DAY", "LAST_DAY", "NODE", "Filled", "copy_to_sqlite", "fill"]

NODE = "nSELF"
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
DAYS, EVENTS, ABREAST = 90, 20, 8
LAST_DAY = FIRST_DAY + timedelta(days=DAYS)
INSERT_ROWS, BLOCKS = 20_000, 12
_SALT_BYTES = 16
_PEERS, _USERS, _RUNNERS = 20, 12, ("claude", "codex", "gemini", "opencode", "command:make")
_STATES = (*[TaskState.SUCCEEDED] * 8, TaskState.FAILED, TaskState.TIMED_OUT)
_KINDS = ("text", "tool_call", "tool_result", "output", "output")
_REASONS = ("no rule allows the path", "no rule names the peer", "the runner is not allowed")
_SOME_WORDS = 1_500
_INDEXES = """
CREATE INDEX a ON event_row(task_id, n);
CREATE INDEX b ON event_row(event_kind, event_ts);
CREATE INDEX c ON task_row(task_id);
CREATE INDEX d ON task_row(ts);
CREATE INDEX e ON result_row(task_id);
CREATE INDEX f ON decision_row(effect, reason, peer);
CREATE INDEX g ON step_row(task_id, seq);
CREATE INDEX h ON log(seq);
ANALYZE;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What was put in: rows of the log, tasks and their events."""

    rows: int
    tasks: int
    events: int


def fill(directory: Path, tasks: int, events_each: int = EVENTS) -> Filled:
    """Make a store with so many finished tasks in a new directory; blocks for a minute or more."""
    ensure_private_dir(directory)
    database, chance = Database(directory), random.Random(tasks)
    database.open()
    database.held = True  # a checkpoint for every few blocks is enough
    database.incarnation(uuid.uuid4().hex, NODE)
    head, block, events = Head(seq=0, hash=GENESIS), list[Entry](), 0
    for ts, record in _told(chance, tasks, events_each):
        events += isinstance(record, EventRecord)
        entry = _chained(record, head, micros(ts))
        head = Head(seq=entry.seq, hash=entry.hash)
        block.append(entry)
        if len(block) == INSERT_ROWS:
            database.insert(block)
            block.clear()
            if entry.seq % (BLOCKS * INSERT_ROWS) == 0:
                database.checkpoint()
    database.insert(block)
    database.checkpoint()
    database.close()
    file = HeadFile(directory)
    file.open()
    file.write(head)
    file.close()
    return Filled(rows=head.seq, tasks=tasks, events=events)


def copy_to_sqlite(store: Path, target: Path) -> tuple[int, int]:
    """Put every table of a store in a new SQLite file; return its bytes without and with indexes.

    Ids and JSON are texts there, times are microseconds, hashes are blobs.
    """
    source = duckdb.connect(str(store), read_only=True, config={"threads": 1})
    to = sqlite3.connect(target)
    to.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-262144")
    for table, columns in _tables(source).items():
        names = ", ".join(columns)
        to.execute(f"CREATE TABLE {table} ({names})")
        chosen = ", ".join(_as_sqlite(column, kind) for column, kind in columns.items())
        rows = source.execute(f"SELECT {chosen} FROM {table}")
        marks = ", ".join("?" * len(columns))
        while block := rows.fetchmany(INSERT_ROWS):
            to.executemany(f"INSERT INTO {table} VALUES ({marks})", block)
    to.commit()
    bare = target.stat().st_size
    to.executescript(_INDEXES)
    to.commit()
    to.close()
    source.close()
    return bare, target.stat().st_size


def _tables(source: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
    tables: dict[str, dict[str, str]] = {}
    rows = source.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE table_name IN"
        " (SELECT table_name FROM duckdb_tables()) ORDER BY table_name, column_index"
    ).fetchall()
    for table, column, kind in rows:
        tables.setdefault(table, {})[column] = kind
    return tables


def _as_sqlite(column: str, kind: str) -> str:
    match kind:
        case "TIMESTAMP WITH TIME ZONE":
            return f"epoch_us({column})"
        case "UUID" | "JSON":
            return f"{column}::VARCHAR"
        case _:
            return column


def _chained(record: Record, head: Head, ts: int) -> Entry:
    row = encode(record, salt=secrets.token_hex(_SALT_BYTES))
    canon = row.canon(node=NODE, seq=head.seq + 1, ts=ts)
    return Entry(
        seq=head.seq + 1,
        ts=ts,
        kind=row.kind,
        task_id=row.task_id,
        canon=canon,
        hash=link(head.hash, canon),
        table=row.table,
        values=row.kept(),
    )


def _told(chance: random.Random, tasks: int, events: int) -> Iterator[tuple[datetime, Record]]:
    """Yield what the tasks told, in the order of time; some of them run side by side."""
    words = ["".join(chance.choices("abcdefghijklmnoprstuvwy", k=chance.randint(2, 10)))
             for _ in range(_SOME_WORDS)]  # fmt: skip
    apart = timedelta(days=DAYS) / max(1, tasks // ABREAST)
    begun = FIRST_DAY
    for first in range(0, tasks, ABREAST):
        many = min(ABREAST, tasks - first)
        lives = [list(_life(chance, words, begun, first + n, events)) for n in range(many)]
        told = [pair for life in lives for pair in life]
        yield from sorted(told, key=lambda pair: pair[0])
        for n in range(many // 2):
            yield begun, _decision(chance, None, "deny", n)
        begun += apart


def _life(
    chance: random.Random, words: list[str], begun: datetime, number: int, events: int
) -> Iterator[tuple[datetime, Record]]:
    task = _task(chance, words, begun, number)
    asked = task.direction is Direction.OUT
    yield begun, _decision(chance, task, "allow", 0)
    yield begun, task
    for name in ("sent", "accepted") if asked else ("intent", "running"):
        yield begun, _step(task, "state", name)
    at = begun
    for n in range(1, events + 1):
        at += timedelta(microseconds=int(chance.expovariate(1 / 2e6)))
        kind = {1: "queued", 2: "running", events: "cost"}.get(n) or chance.choice(_KINDS)
        yield at, _event(chance, words, task, n, at, kind)
    yield at, _result(chance, words, task, begun, at)
    if not asked:
        yield at, _step(task, "fact", "acknowledged")


def _task(chance: random.Random, words: list[str], ts: datetime, number: int) -> TaskRecord:
    peer = chance.randrange(_PEERS)
    stamp = f"{int(ts.timestamp() * 1000):012x}"
    tail = f"{chance.getrandbits(74):019x}"
    spec = TaskSpec(
        task_id=TaskId(f"{stamp[:8]}-{stamp[8:]}-7{tail[:3]}-8{tail[3:6]}-{tail[6:18]}"),
        runner=chance.choice(_RUNNERS),
        profile=chance.choice((Profile.QUERY, Profile.EDIT, Profile.BUILD)),
        directory=f"/srv/app{chance.randrange(40)}",
        prompt=" ".join(chance.choices(words, k=chance.randint(10, 80))),
        limits=Limits(runtime_s=900, cost_usd=5.0),
        accept=(),
        origin=(NodeId(NODE),),
        not_after=ts + timedelta(hours=1),
        traceparent=f"00-{chance.getrandbits(128):032x}-{chance.getrandbits(64):016x}-01",
    )
    out = number % 2 == 0
    return TaskRecord(
        task_id=spec.task_id,
        direction=Direction.OUT if out else Direction.IN,
        peer_id=NodeId(f"nPEER{peer}"),
        peer=f"box{peer}.tail1234.ts.net",
        principal="" if out else f"user{chance.randrange(_USERS)}@example.com",
        session=f"session-{number // 10}" if out else "",
        project="/home/me/app" if out else "",
        idempotency_key=f"{chance.getrandbits(128):032x}" if out else "",
        spec=spec,
        payload_hash=f"{chance.getrandbits(256):064x}",
        worker_incarnation="0" * 32,
        rule="ask the build box",
    )


def _step(task: TaskRecord, kind: str, name: str) -> StepRecord:
    return StepRecord(
        task_id=task.task_id,
        direction=task.direction,
        kind="fact" if kind == "fact" else "state",
        name=name,
        witness="this node committed the row" if kind == "state" else "",
    )


def _event(
    chance: random.Random, words: list[str], task: TaskRecord, n: int, ts: datetime, kind: str
) -> EventRecord:
    text = " ".join(chance.choices(words, k=chance.randint(3, 30)))
    tool = chance.choice(("Bash", "Read", "Edit", "Grep"))
    data: dict[str, object] = {"tool": tool, "ms": chance.randrange(9_000)}
    return EventRecord(
        task_id=task.task_id,
        direction=task.direction,
        event=Event(seq=n, ts=ts, kind=kind, text=text, data=data if "tool" in kind else {}),
        spool_end=n * 200,
    )


def _decision(
    chance: random.Random, task: TaskRecord | None, effect: str, number: int
) -> DecisionRecord:
    peer = chance.randrange(_PEERS)
    reason = _REASONS[number % len(_REASONS)] if effect == "deny" else "a rule allows it"
    return DecisionRecord(
        task_id=None if task is None else task.task_id,
        direction=Direction.IN if task is None else task.direction,
        peer_id=NodeId(f"nPEER{peer}") if task is None else task.peer_id,
        peer=f"box{peer}.tail1234.ts.net" if task is None else task.peer,
        principal=f"user{chance.randrange(_USERS)}@example.com",
        operation="task",
        effect=effect,
        rule=None if effect == "deny" else "ask the build box",
        reason=reason,
        failed=(),
        policy_sha256="cd" * 32,
    )


def _result(
    chance: random.Random, words: list[str], task: TaskRecord, begun: datetime, ended: datetime
) -> ResultRecord:
    state = chance.choice(_STATES)
    signature = f"{chance.getrandbits(512):0128x}"[:86]
    return ResultRecord(
        task_id=task.task_id,
        direction=task.direction,
        result=Result(
            state=state,
            witness="the shim recorded the exit",
            exit_code=0 if state is TaskState.SUCCEEDED else 1,
            text=" ".join(chance.choices(words, k=chance.randint(10, 60))),
            output_bytes=EVENTS * 200,
            output_kept=EVENTS * 200,
            output_sha256=f"{chance.getrandbits(256):064x}",
            usage=Usage(
                cost_usd=round(chance.expovariate(4), 6),
                tokens_in=chance.randrange(100_000),
                tokens_out=chance.randrange(9_000),
            ),
            runner_version="2.1.0",
            profile_enforced="tier3:bwrap,landlock7,seccomp,netns",
            started_at=begun + timedelta(seconds=1),
            ended_at=ended,
        ),
        worker_signature=signature,
        caller_signature=signature[::-1],
    )
