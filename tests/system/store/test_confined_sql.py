"""What SQL of a user or an agent can and cannot do."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from cmesh.errors import QueryRefused
from cmesh.store.store import Store
from tests.unit.store.support import task

pytestmark = [pytest.mark.anyio, pytest.mark.system]


async def test_an_answer_sees_everything_committed_before(store: Store) -> None:
    for number in range(4):
        await store.commit([task()])
        rows = await store.sql("SELECT count(*) FROM tasks", [], 10)
        assert rows.rows == [[number + 2]]
        assert rows.head_seq == store.head[0]


async def test_parameters_are_bound_by_name_or_in_order(store: Store) -> None:
    rows = await store.sql("SELECT $n + 1, $name LIMIT $n", {"n": 1, "name": "x"}, 10)
    assert rows.rows == [[2, "x"]]
    # A text counts as what it is compared with, so what a shell passes needs no type.
    text = "SELECT count(*) FROM tasks WHERE prompt_bytes < ? AND created_at > ?"
    assert (await store.sql(text, ["1000", "2020-01-01"], 10)).rows == [[1]]
    for parameters in ({"m": 1}, [1, 2], {}):
        with pytest.raises(QueryRefused):
            await store.sql("SELECT $n", parameters, 1)


async def test_parameters_are_bound_and_values_are_json(store: Store) -> None:
    rows = await store.sql(
        "SELECT prompt, state, cost_usd, created_at, task_id, unhex('ff00') AS b, $2 AS n,"
        " NULL AS nothing, [1, 2] AS l, {'a': 1.5} AS s, 'nan'::DOUBLE AS f"
        " FROM tasks WHERE prompt = $1",
        ["find the fault", 7],
        10,
    )
    row = dict(zip(rows.columns, rows.rows[0], strict=True))
    assert (row["prompt"], row["state"], row["cost_usd"]) == ("find the fault", "succeeded", 0.25)
    assert (row["b"], row["n"], row["nothing"]) == ("ff00", 7, None)
    assert (row["l"], row["s"], row["f"]) == ([1, 2], {"a": 1.5}, "nan")
    assert str(row["created_at"]).endswith("+00:00")
    assert len(str(row["task_id"])) == 36
    assert (rows.types[0], rows.truncated) == ("VARCHAR", False)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("SELECT * FROM taskz", "taskz", "`tasks`"),
        ("SELECT stat FROM tasks", "stat", "did you mean `state`?"),
        ("SELECT t.stat FROM tasks t", "stat", "did you mean `state`?"),
        ("SELECT node FROM tasks", "node", "is added to the answers afterwards"),
        ("DELETE FROM tasks", "only SELECT", "only a SELECT is taken"),
        ("SELECT decided_by FROM tasks", "decided_by", "is a column of `peers`"),
        ("SELECT zzz FROM tasks", "zzz", "`cmesh schema` lists the columns of `tasks`"),
        ("SELECT x.state FROM tasks", "x", "the views: "),
        ("SELEC 1", "syntax error", "cmesh schema"),
        ("SELECT 1; SELECT 2", "one statement", "cmesh schema"),
        ("", "one statement", "cmesh schema"),
        ("SELECT $1", "", "needs a value"),
    ],
)
async def test_a_wrong_query_says_what_is_wrong(
    store: Store, text: str, said: str, hint: str
) -> None:
    with pytest.raises(QueryRefused) as caught:
        await store.sql(text, [], 10)
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    assert "_row" not in f"{caught.value.message} {caught.value.hint}"  # a table behind a view
    assert "Candidate" not in caught.value.message
    assert hint in caught.value.hint
    assert (await store.sql("SELECT 1", [], 1)).rows == [[1]]


async def test_an_endless_answer_is_cut_at_rows_and_bytes(store: Store) -> None:
    rows = await store.sql("SELECT * FROM range(1000000000)", [], 100)
    assert (len(rows.rows), rows.truncated, rows.cut_by) == (100, True, "rows")
    exact = await store.sql("SELECT * FROM range(100)", [], 100)
    assert (len(exact.rows), exact.truncated) == (100, False)
    wide = await store.sql("SELECT repeat('x', 1000) FROM range(1000000000)", [], 100_000)
    assert wide.cut_by == "bytes"
    assert 900 < len(wide.rows) < 1000
    tall = await store.sql("SELECT repeat('x', 10000000)", [], 1)
    assert tall.truncated
    assert tall.rows == []


async def test_a_caller_that_goes_away_leaves_no_answer_for_the_next(store: Store) -> None:
    waiting = asyncio.ensure_future(store.sql("SELECT sleep_ms(60000)", [], 1))
    running = store._queries  # pyright: ignore[reportPrivateUsage]
    async with asyncio.timeout(20):
        while running._worker is None or running._seq < 0:  # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0.01)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert (await store.sql("SELECT 5", [], 1)).rows == [[5]]


async def test_unused_query_processes_end(tmp_path: Path) -> None:
    from cmesh.clock import SystemClock
    from cmesh.store.sql import QueryLimits

    store = await Store.open(
        tmp_path / "s", clock=SystemClock(), node="n", query_limits=QueryLimits(idle_s=0)
    )
    await store.sql("SELECT 1", [], 1)
    queries = store._queries  # pyright: ignore[reportPrivateUsage]
    async with asyncio.timeout(10):
        while queries._worker is not None or queries._spare is not None:  # pyright: ignore[reportPrivateUsage]
            await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while list((tmp_path / "s" / "snapshots").iterdir()):
            await asyncio.sleep(0.01)  # neither a copy nor what the next one would be made from
    assert (await store.sql("SELECT 2", [], 1)).rows == [[2]]
    await store.close()
