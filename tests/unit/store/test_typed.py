"""Rows checked many at a time: what is as it was written comes out, and nothing else does."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from cmesh.model import TaskState
from cmesh.store.records import AuditRecord, ReceiptRecord, Record
from cmesh.store.snapshot import FILE_NAME
from cmesh.store.store import Store
from cmesh.store.texts import ERASABLE
from cmesh.store.typed import Columns, rebuilt, tables
from cmesh.store.verify import verify
from tests.unit.store.support import (
    PEER,
    acknowledgement,
    decision,
    event,
    fact,
    result,
    state,
    task,
    trust,
)

pytestmark = pytest.mark.anyio

STRANGE = 'a "quote", a \\, a line\nand \x1b[31m red, \x7f, é, \u2028, 𝄞'


def _every_kind() -> list[Record]:
    asked, plain = task(prompt=STRANGE, session=STRANGE, key="k"), task(prompt="")
    head = ReceiptRecord(
        peer_id=PEER, peer="b", kind="head", task_id=None, head_seq=3, head_hash="a", signature="s"
    )
    return [
        *(asked, plain, state(asked, "sent", reason=STRANGE), fact(asked, "acknowledged")),
        *(event(asked, 1), event(asked, 2, text=""), event(asked, 3, text=STRANGE)),
        *(
            decision(asked),
            replace(decision(asked), task_id=None),
        ),
        *(result(asked), result(plain, TaskState.FAILED, text=""), acknowledgement(asked)),
        *(head, trust(), AuditRecord(kind="x", data={"a": STRANGE, "b": 0.1, "c": []})),
        AuditRecord(kind="y", task_id=asked.task_id, data={"e": 1e-9}),
    ]


async def _copy(store: Store, place: Path) -> duckdb.DuckDBPyConnection:
    await store.commit(_every_kind())
    await store._copies.take(place)  # pyright: ignore[reportPrivateUsage]
    connection = duckdb.connect(str(place / FILE_NAME))
    connection.execute("SET TimeZone='UTC'")
    return connection


def _looked_at(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[int, int, list[int]]]:
    columns: dict[str, dict[str, str]] = {}
    for table, column, kind in connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns()"
    ).fetchall():
        if table in {*ERASABLE, "trust_row"}:
            columns.setdefault(table, {})[column] = kind
    looked_at = tables(connection)
    assert looked_at.selects.keys() == {*ERASABLE, "trust_row"}
    odd = _odd(connection, columns)
    found: dict[str, tuple[int, int, list[int]]] = {}
    for table, rows, numbers in connection.execute(looked_at.counted, [1, 99]).fetchall():
        found[table] = (rows, numbers, _odd(connection, {table: columns[table]}))
    assert odd == sorted(seq for _, _, of_table in found.values() for seq in of_table)
    return found


def _odd(connection: duckdb.DuckDBPyConnection, columns: Mapping[str, Columns]) -> list[int]:
    row = connection.execute(rebuilt(columns), [1, 99, '"nSELF"']).fetchone()
    assert row is not None
    return sorted(row[0] or [])


async def test_every_kind_of_row_comes_out_as_it_was_written(store: Store, tmp_path: Path) -> None:
    with await _copy(store, tmp_path) as connection:
        looked_at = _looked_at(connection)
    assert sum(count for count, _, _ in looked_at.values()) == store.head[0]
    # DuckDB writes an escape in capitals: such a session is looked at by itself.
    assert {name: len(odd) for name, (_, _, odd) in looked_at.items() if odd} == {"task_row": 1}
    assert (await store.verify()).finding is None


CHANGES = [
    "UPDATE event_row SET text = 'other' WHERE n = 1",
    "UPDATE event_row SET salt = 'ab' WHERE n = 1",
    "UPDATE event_row SET ts = ts + INTERVAL 1 MICROSECOND WHERE n = 1",
    "UPDATE result_row SET cost_usd = 0.26 WHERE text <> ''",
    "UPDATE result_row SET exit_code = NULL WHERE text <> ''",
    "UPDATE decision_row SET effect = 'allow' WHERE task_id IS NULL",
    "UPDATE step_row SET kind = 'state' WHERE kind = 'fact'",
    "UPDATE trust_row SET trusted = false",
    "UPDATE receipt_row SET signature = NULL WHERE receipt_kind = 'head'",
    "UPDATE log SET task_id = uuid() WHERE kind = 'trust'",
    "UPDATE log SET ts = ts + INTERVAL 1 MICROSECOND WHERE kind = 'event'",
    "UPDATE audit_row SET salt = 'ab' WHERE kind = 'x'",
]


@pytest.mark.parametrize("change", CHANGES)
async def test_what_was_changed_does_not_come_out(
    store: Store, tmp_path: Path, change: str
) -> None:
    with await _copy(store, tmp_path) as connection:
        before = {name: set(odd) for name, (_, _, odd) in _looked_at(connection).items()}
        connection.execute(change)
        odd = {n: set(odd) - before[n] for n, (_, _, odd) in _looked_at(connection).items()}
        assert any(odd.values())
        found = verify(connection, store._head)  # pyright: ignore[reportPrivateUsage]
        assert found.bad_seq in set[int]().union(*odd.values())


async def test_a_row_that_is_there_twice_is_found(store: Store, tmp_path: Path) -> None:
    with await _copy(store, tmp_path) as connection:
        connection.execute("INSERT INTO event_row FROM event_row WHERE n = 1")
        connection.execute("DELETE FROM event_row WHERE n = 2")
        (row,) = connection.execute("SELECT seq FROM event_row WHERE n = 1 LIMIT 1").fetchall()
        found = verify(connection, store._head)  # pyright: ignore[reportPrivateUsage]
        assert found.bad_seq == row[0]
        assert found.finding is not None
        assert "more than one row" in found.finding.what
