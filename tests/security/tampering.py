"""Random edits of an audit store, by somebody who owns the file and knows its schema.

`python -m tests.security.tampering 1000` is the long form of the test beside it; it prints
how many edits were found, by kind, and each that was not.
"""

import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from cmesh.keys import SigningKey
from cmesh.model import Direction, NodeId
from cmesh.protocol.convert import outcome_from
from cmesh.protocol.receipts import head_bytes, result_bytes
from cmesh.store.audit import check_rows
from cmesh.store.chain import link
from cmesh.store.head import Head, read_head
from cmesh.store.records import AuditRecord, ReceiptRecord, Record, ResultRecord, TaskRecord
from cmesh.store.signatures import NODE_UP
from cmesh.store.store import Store
from cmesh.store.texts import ERASABLE
from tests.unit.store.support import (
    PEER,
    FixedClock,
    decision,
    event,
    fact,
    result,
    state,
    task,
    trust,
)

SELF = NodeId("nSELF")
TASKS = 6
TYPED = (
    "task_row", "step_row", "event_row", "decision_row", "result_row", "receipt_row", "trust_row",
    "audit_row",
)  # fmt: skip

Connection = duckdb.DuckDBPyConnection


@dataclass(frozen=True, slots=True)
class Edited:
    """An edit that was made, in words; `missed` = the check found nothing."""

    kind: str
    words: str
    missed: bool


async def write_store(directory: Path) -> None:
    """Write a store as a daemon does, with real signatures of two nodes, in both directions."""
    ours, theirs = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
    store = await Store.open(directory, clock=FixedClock(), node="laptop")
    try:
        up = AuditRecord(kind=NODE_UP, data={"node_id": SELF, "key": ours.public})
        await store.commit([up, trust(key=theirs.public)])
        for number in range(TASKS):
            direction = Direction.IN if number % 2 else Direction.OUT
            record = task(prompt=f"look {number}", direction=direction)
            await store.commit([decision(record, "allow"), record, state(record, "running")])
            await store.commit(
                [event(record, 1, "running"), event(record, 2), fact(record, "late")]
            )
            await store.commit(_end(record, ours, theirs, number))
        # One of them has no texts any more.
        [erased, *_] = await store.tasks(limit=1)
        await store.forget_again([erased.record.task_id], {"by": "a test"})
        await store.commit([fact(erased.record, "acknowledged")])
        assert await store.erase_due(None) > 0
    finally:
        await store.close()


def _end(record: TaskRecord, ours: SigningKey, theirs: SigningKey, number: int) -> list[Record]:
    inbound = record.direction is Direction.IN
    worker, caller = (SELF, PEER) if inbound else (PEER, SELF)
    ended = result(record, text=f"found {number}")
    told = replace(ended.result, basis={"caller": "me@example.com", "head_seq": number})
    message = result_bytes(
        record.task_id, record.payload_hash, worker, caller, outcome_from(told), 2
    )
    by_worker = (ours if inbound else theirs).sign(message)
    by_caller = (theirs if inbound else ours).sign(message)
    receipt = ReceiptRecord(
        peer_id=PEER,
        peer="buildbox",
        kind="result_ack" if inbound else "head",
        task_id=record.task_id if inbound else None,
        head_seq=0 if inbound else number,
        head_hash="" if inbound else "ab" * 32,
        signature=by_caller if inbound else theirs.sign(head_bytes(PEER, number, "ab" * 32)),
    )
    signed = ResultRecord(
        task_id=record.task_id,
        direction=record.direction,
        result=told,
        worker_signature=by_worker,
        caller_signature="" if inbound else by_caller,
    )
    return [signed, receipt]


class Tamperer:
    """Makes one random edit at a time in an open transaction."""

    def __init__(self, connection: Connection, chance: random.Random) -> None:
        self._db = connection
        self._chance = chance
        self.kinds: dict[str, Callable[[], str]] = {
            "field": self._field,
            "gone": self._gone,
            "log row gone": self._log_gone,
            "typed row gone": self._typed_gone,
            "texts gone": self._texts_gone,
            "swapped": self._swapped,
            "copied": self._copied,
            "forged": self._forged,
            "appended": self._appended,
            "cut off": self._cut_off,
            "rewritten": self._rewritten,
            "receipt": self._receipt,
            "moved": self._moved,
            "books": self._books,
            "catalogue": self._catalogue,
        }

    def edit(self) -> tuple[str, str]:
        """Make an edit; return its kind and what was done."""
        # Most edits are of fields: there are most of those.
        kind = "field" if self._chance.random() < 0.4 else self._chance.choice(sorted(self.kinds))
        return kind, self.kinds[kind]()

    def _field(self) -> str:
        return self._flip(self._chance.choice(("log", *TYPED)))

    def _receipt(self) -> str:
        table = self._chance.choice(("receipt_row", "result_row"))
        columns = ("signature", "head_seq", "head_hash", "peer_id")
        if table == "result_row":
            columns = ("worker_signature", "exit_code", "cost_usd", "output_sha256", "basis")
        return self._flip(table, self._chance.choice(columns))

    def _flip(self, table: str, column: str = "") -> str:
        """Change one value of one row."""
        seq = self._pick(table)
        columns = self._columns(table)
        name = column or self._chance.choice([one for one in columns if one != "seq"])
        kind = columns[name]
        read = f'epoch_us("{name}")' if kind.startswith("TIMESTAMP") else f'"{name}"'
        before = self._one(f"SELECT {read} FROM {table} WHERE seq = {seq}")
        after = None if self._may_go(table, name, before) else self._other(before, kind)
        made = "make_timestamptz($1)" if kind.startswith("TIMESTAMP") else f"$1::{kind}"
        self._db.execute(f'UPDATE {table} SET "{name}" = {made} WHERE seq = {seq}', [after])
        return f"{table}.{name} of row {seq}: {before!r} -> {after!r}"

    def _other(self, value: Any, kind: str) -> Any:
        chance = self._chance
        match kind:
            case "BOOLEAN":
                return not value
            case "BIGINT":
                return (value or 0) + chance.choice((-1, 1, 1000))
            case "DOUBLE":
                return (value or 0.0) + chance.choice((-0.01, 0.01, 1e9))
            case "BLOB":
                return _flipped(bytes(value), chance)
            case "UUID":
                return _flipped_text(
                    str(value or "0" * 32).replace("-", ""), "0123456789abcdef", chance
                )
            case "JSON":
                return json.dumps({"n": chance.randrange(1000, 9999)})
            case "VARCHAR":
                return _flipped_text(value, "abcdefghijklmnop", chance) if value else "x"
            case _:
                return (value or 0) + chance.choice((-1, 1, 86_400_000_000))

    def _may_go(self, table: str, column: str, value: Any) -> bool:
        nullable = self._one(
            "SELECT is_nullable FROM duckdb_columns()"
            f" WHERE table_name = '{table}' AND column_name = '{column}'"
        )
        return bool(nullable) and value is not None and self._chance.random() < 0.2

    def _gone(self) -> str:
        seq = self._pick("log", but_last=True)
        for table in ("log", *TYPED):
            self._db.execute(f"DELETE FROM {table} WHERE seq = {seq}")
        return f"row {seq} gone everywhere"

    def _log_gone(self) -> str:
        seq = self._pick("log")
        self._db.execute(f"DELETE FROM log WHERE seq = {seq}")
        return f"row {seq} of the log gone"

    def _typed_gone(self) -> str:
        table = self._chance.choice(TYPED)
        seq = self._pick(table)
        self._db.execute(f"DELETE FROM {table} WHERE seq = {seq}")
        return f"row {seq} of {table} gone"

    def _texts_gone(self) -> str:
        """Take texts out as erasing does, without a word of it in the chain."""
        table = self._chance.choice(("task_row", "event_row", "result_row"))
        seqs = self._db.execute(f"SELECT seq FROM {table} WHERE salt IS NOT NULL").fetchall()
        seq = self._chance.choice(seqs)[0]
        gone = ", ".join(f"{column} = NULL" for column in sorted(ERASABLE[table]))
        self._db.execute(f"UPDATE {table} SET salt = NULL, {gone} WHERE seq = {seq}")
        self._db.execute(f"INSERT INTO erased VALUES ({seq}, {max(self._seqs('log'))})")
        return f"texts of row {seq} of {table} gone"

    def _swapped(self) -> str:
        one, two = self._chance.sample(self._seqs("log"), 2)
        for table in ("log", *TYPED):
            self._db.execute(
                f"UPDATE {table} SET seq = CASE seq WHEN {one} THEN {two} ELSE {one} END"
                f" WHERE seq IN ({one}, {two})"
            )
        return f"rows {one} and {two} swapped"

    def _copied(self) -> str:
        table = self._chance.choice(("log", *TYPED))
        seq = self._pick(table)
        self._db.execute(f"INSERT INTO {table} SELECT * FROM {table} WHERE seq = {seq}")
        return f"row {seq} of {table} twice"

    def _moved(self) -> str:
        table = self._chance.choice(TYPED)
        seq, other = self._pick(table), self._chance.choice((-1, 0, 10**12, self._pick("log")))
        if seq == other:
            other = 10**6
        self._db.execute(f"UPDATE {table} SET seq = {other} WHERE seq = {seq}")
        return f"row {seq} of {table} is {other} now"

    def _forged(self) -> str:
        """Put a row between, and number the later ones anew."""
        seq = self._pick("log")
        for table in ("log", *TYPED):
            self._db.execute(f"UPDATE {table} SET seq = seq + 1 WHERE seq >= {seq}")
        self._add(seq)
        return f"a forged row {seq}"

    def _appended(self) -> str:
        seq = max(self._seqs("log")) + 1
        self._add(seq)
        return f"a forged row {seq} at the end, with its right hash"

    def _add(self, seq: int) -> None:
        canon = json.dumps(
            {"kind": "forged", "table": "audit_row", "seq": seq, "ts": 5, "v": 3, "data": "{}",
             "task_id": None, "node": "laptop"}, sort_keys=True, separators=(",", ":"),
        )  # fmt: skip
        before = self._one(f"SELECT h FROM log WHERE seq = {seq - 1}") or bytes(32)
        self._db.execute(
            "INSERT INTO log VALUES ($1, make_timestamptz(5), 'forged', NULL, $2, $3)",
            [seq, canon, link(bytes(before), canon)],
        )
        self._db.execute(
            "INSERT INTO audit_row VALUES ($1, make_timestamptz(5), NULL, 'forged', '{}', NULL)",
            [seq],
        )

    def _cut_off(self) -> str:
        last = max(self._seqs("log"))
        keep = last - self._chance.randrange(1, last)
        for table in ("log", *TYPED):
            self._db.execute(f"DELETE FROM {table} WHERE seq > {keep}")
        return f"cut off after row {keep}"

    def _rewritten(self) -> str:
        """Change one row, its typed row too, and every hash from there on: a whole new chain."""
        seq = self._pick("step_row")
        self._db.execute(f"UPDATE step_row SET witness = 'forged' WHERE seq = {seq}")
        canon = json.loads(self._one(f"SELECT canon FROM log WHERE seq = {seq}"))
        text = json.dumps(canon | {"witness": "forged"}, sort_keys=True, separators=(",", ":"))
        self._db.execute("UPDATE log SET canon = $1 WHERE seq = $2", [text, seq])
        before = self._one(f"SELECT h FROM log WHERE seq = {seq - 1}") or bytes(32)
        later = self._db.execute(f"SELECT seq, canon FROM log WHERE seq >= {seq} ORDER BY seq")
        for number, line in later.fetchall():
            before = link(bytes(before), line)
            self._db.execute("UPDATE log SET h = $1 WHERE seq = $2", [before, number])
        return f"row {seq} rewritten, and the chain after it"

    def _books(self) -> str:
        what = self._chance.choice(("incarnation", "node"))
        self._db.execute(f"UPDATE store_row SET {what} = 'another'")
        return f"store_row.{what}"

    def _catalogue(self) -> str:
        statement = self._chance.choice(
            (
                "CREATE MACRO sha256(x) AS 'ab'",
                "CREATE MACRO epoch_us(x) AS 5",
                "CREATE OR REPLACE VIEW results AS SELECT 'succeeded' AS state",
                "DROP VIEW denials",
                "CREATE OR REPLACE VIEW connections AS SELECT 'refused' AS verdict",
                "ALTER TABLE result_row DROP COLUMN worker_signature",
            )
        )
        self._db.execute(statement)
        return statement

    def _pick(self, table: str, *, but_last: bool = False) -> int:
        seqs = self._seqs(table)
        return self._chance.choice(seqs[:-1] if but_last else seqs)

    def _seqs(self, table: str) -> list[int]:
        rows = self._db.execute(f"SELECT seq FROM {table} ORDER BY seq").fetchall()
        return [row[0] for row in rows]

    def _columns(self, table: str) -> dict[str, str]:
        rows = self._db.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = $1", [table]
        ).fetchall()
        return dict(rows)

    def _one(self, statement: str) -> Any:
        row = self._db.execute(statement).fetchone()
        return None if row is None else row[0]


def run(directory: Path, count: int, seed: int) -> list[Edited]:
    """Edit a store `count` times, each time anew from the whole one, and check it."""
    chance = random.Random(seed)  # a seed that a failure can be repeated with
    head = read_head(directory)
    assert head is not None
    with duckdb.connect(str(directory / "store.duckdb")) as connection:
        assert check_rows(connection, head, last=head.seq).finding is None
        return [_edited(connection, head, chance) for _ in range(count)]


def _edited(connection: Connection, head: Head, chance: random.Random) -> Edited:
    connection.execute("BEGIN")
    try:
        kind, words = Tamperer(connection, chance).edit()
        try:
            finding = check_rows(connection, head, last=head.seq).finding
        except duckdb.Error:
            return Edited(kind, words, missed=False)  # told as `store_failed`
        return Edited(kind, words, missed=finding is None)
    finally:
        connection.execute("ROLLBACK")


def _flipped(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def _flipped_text(text: str, letters: str, chance: random.Random) -> str:
    at = chance.randrange(len(text))
    return text[:at] + chance.choice(letters.replace(text[at], "")) + text[at + 1 :]


def main(arguments: Sequence[str]) -> int:
    """Run the long form."""
    count, seed = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 1
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "store"
        asyncio.run(write_store(directory))
        made = run(directory, count, seed)
    missed = [edit for edit in made if edit.missed]
    kinds = dict(sorted(Counter(edit.kind for edit in made).items()))
    found = {"edits": count, "found": count - len(missed), "seed": seed, "kinds": kinds}
    sys.stdout.write(json.dumps(found | {"missed": [edit.words for edit in missed]}) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
