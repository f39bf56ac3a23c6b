"""The views that people ask: all there, explained, stable, and whole after texts were erased."""

import json
import runpy
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import _duckdb as duckdb
import pytest

from cmesh.interfaces.schema import SCHEMA_ROWS, SCHEMA_SQL, views
from cmesh.model import Direction
from cmesh.protocol.trace import of_group, trace_id
from cmesh.store.migrations import describe
from cmesh.store.store import Store
from tests.contract.audit_month import CALL, GROUP, MonthClock, live_a_month
from tests.unit.store import support

ROOT = Path(__file__).parents[2]
PROMISED = Path(__file__).with_name("snapshots") / "views.json"
WANTED = (
    "tasks events decisions denials results costs peers approvals connections files_changed"
    " commands_run traces"
)
# Its rows are of every kind; `task_id` leads to the rest.
WITHOUT_TRACE = {"audit"}
TEXTS = {
    "task_row": ("prompt",),
    "event_row": ("text", "data"),
    "result_row": ("text", "error", "evidence", "answer"),
}

pytestmark = pytest.mark.anyio
Ids = dict[str, str]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def month(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Store, Ids]]:
    """A store with a month in it, for all tests: they only read."""
    clock = MonthClock()
    place = tmp_path_factory.mktemp("month") / "store"
    store = await Store.open(place, clock=clock, node="nSELF")
    yield store, {name: str(one) for name, one in (await live_a_month(store, clock)).items()}
    await store.close()


def broken(described: list[tuple[str, str, str, str]], promised: Any) -> list[str]:
    return list(
        runpy.run_path(str(ROOT / "scripts" / "gen_docs.py"))["broken"](described, promised)
    )


def test_every_view_is_there_and_every_column_says_what_it_is() -> None:
    described = describe()
    assert set(WANTED.split()) <= {view for view, *_ in described}
    assert not [row for row in described if not row[3]]
    of_tasks = {view for view, column, *_ in described if column == "task_id"}
    traced = {view for view, column, *_ in described if column == "trace_id"}
    assert of_tasks - traced == WITHOUT_TRACE


def test_no_view_lost_or_moved_a_column_that_was_promised() -> None:
    assert not broken(describe(), json.loads(PROMISED.read_text("utf-8")))


def test_a_column_that_goes_moves_changes_or_says_nothing_is_refused() -> None:
    described, promised = describe(), json.loads(PROMISED.read_text("utf-8"))
    without = [row for row in described if row[:2] != ("costs", "day")]
    assert "lost `day` DATE" in broken(without, promised)[0]
    renamed = [(v, "date" if (v, c) == ("costs", "day") else c, t, a) for v, c, t, a in described]
    assert "lost `day` DATE" in broken(renamed, promised)[0]
    retyped = [(v, c, "VARCHAR" if c == "day" else t, a) for v, c, t, a in described]
    assert "lost `day` DATE" in broken(retyped, promised)[0]
    between = [*described]
    between.insert(
        described.index(next(row for row in described if row[1] == "day")),
        ("costs", "new", "DATE", "new"),
    )
    assert "other columns" in broken(between, promised)[0]
    silent = [(v, c, t, "" if c == "day" else a) for v, c, t, a in described]
    assert "column `costs.day` has no comment" in broken(silent, promised)[0]
    gone = [row for row in described if row[0] != "approvals"]
    assert "view `approvals` lost" in broken(gone, promised)[0]


async def rows(store: Store, sql: str) -> list[list[Any]]:
    return (await store.sql(sql, (), 1_000)).rows


async def test_a_store_tells_of_its_own_views_as_the_page_does(month: tuple[Store, Ids]) -> None:
    store, _ids = month
    told = await store.sql(SCHEMA_SQL, (), SCHEMA_ROWS)
    assert sorted(map(tuple, told.rows)) == sorted(describe())
    found = {one.name: one for one in views(told.rows)}
    assert [column.name for column in found["costs"].columns][:3] == [
        "task_id",
        "trace_id",
        "direction",
    ]
    assert found["costs"].means.startswith("what each task")


async def test_one_call_is_followed_over_machines(month: tuple[Store, Ids]) -> None:
    store, ids = month
    found = await rows(
        store,
        f"SELECT task_id, direction, parent, hops FROM traces WHERE trace_id = '{trace_id(CALL)}' ORDER BY seq",
    )
    assert found == [[ids["parent"], "in", None, 1], [ids["child"], "out", ids["parent"], 3]]
    (both,) = await rows(
        store,
        f"SELECT list(DISTINCT direction ORDER BY direction) FROM events WHERE trace_id = '{trace_id(CALL)}'",
    )
    assert both == [["in", "out"]]
    group = await rows(
        store, f"SELECT peer_name FROM costs WHERE trace_id = '{of_group(GROUP)}' ORDER BY 1"
    )
    assert group == [["buildbox"], ["gpu"]]


async def test_tasks_without_a_header_have_the_trace_that_can_be_known(tmp_path: Path) -> None:
    parent = support.task(direction=Direction.IN)
    child, forged, other = (support.task() for _ in range(3))
    child = replace(child, session=f"task:{parent.task_id}")
    # A local program may name its session as it likes; a task of a task has a chain.
    forged = replace(forged, session=child.session, spec=replace(forged.spec, origin=()))
    other = replace(other, session="task:'; DROP TABLE log; --")
    broken = support.task(direction=Direction.IN)
    broken = replace(broken, spec=replace(broken.spec, traceparent=CALL.upper()))
    later = support.task(direction=Direction.IN)
    later = replace(later, spec=replace(later.spec, traceparent=f"cc{CALL[2:]}-new"))
    all_of_them = (parent, child, forged, other, broken, later)
    store = await Store.open(tmp_path / "state", clock=MonthClock(), node="nSELF")
    try:
        await store.commit(all_of_them)
        found = await rows(store, "SELECT trace_id, parent FROM traces ORDER BY seq")
        assert await rows(store, "SELECT trace_id, parent FROM tasks ORDER BY seq") == found
    finally:
        await store.close()
    own = [[one.task_id.replace("-", ""), None] for one in all_of_them]
    own[1] = [parent.task_id.replace("-", ""), parent.task_id]
    own[5] = [trace_id(CALL), None]
    assert found == own


async def test_what_an_owner_said_and_how_long_it_took(month: tuple[Store, Ids]) -> None:
    store, ids = month
    found = await rows(
        store,
        "SELECT task_id, answer, waited_s, reason, program FROM approvals WHERE direction = 'in' ORDER BY seq",
    )
    assert found == [
        [ids["approved"], "approved", 241.0, None, "cmesh"],
        [ids["refused"], "denied", 241.0, "not on a Friday", "cmesh"],
        [ids["waiting"], None, None, None, None],
    ]
    assert await rows(store, "SELECT task_id, answer FROM approvals WHERE direction = 'out'") == [
        [ids["waits"], None]
    ]


async def test_files_come_from_the_best_word_there_is(month: tuple[Store, Ids]) -> None:
    store, _ids = month
    found = await rows(
        store, "SELECT path, change, auto_run, told_by FROM files_changed ORDER BY path"
    )
    assert found == [
        [".env", "modified", False, "patch"],
        [".github/workflows/ci.yml", "added", True, "patch"],
        ["/etc/app.conf", "modified", None, "agent"],
        ["old.txt", "deleted", False, "patch"],
        ["src/app.py", "modified", False, "patch"],
    ]


async def test_a_task_costs_once_and_what_is_not_told_is_null(month: tuple[Store, Ids]) -> None:
    store, ids = month
    assert await rows(store, "SELECT task_id FROM costs GROUP BY ALL HAVING count(*) > 1") == []
    (lost,) = await rows(
        store, f"SELECT cost_usd, tokens_in, seconds FROM costs WHERE task_id = '{ids['lost']}'"
    )
    assert lost == [None, None, 90.0]
    (refused,) = await rows(store, f"SELECT seconds FROM costs WHERE task_id = '{ids['refused']}'")
    assert refused == [None]


async def test_every_view_answers_when_every_text_was_erased(tmp_path: Path) -> None:
    clock = MonthClock()
    store = await Store.open(tmp_path / "state", clock=clock, node="nSELF")
    await live_a_month(store, clock)
    await store.close()
    (file,) = (tmp_path / "state").glob("*.duckdb")
    with duckdb.connect(str(file)) as connection:
        before = _counts(connection)
        for table, texts in TEXTS.items():
            erased = ", ".join(f"{name} = NULL" for name in (*texts, "salt"))
            connection.execute(f"UPDATE {table} SET {erased}")
        after = _counts(connection)
    # What an agent said of its commands and files stood in the texts themselves.
    said = {"commands_run", "files_changed"}
    assert {view: n for view, n in after.items() if view not in said} == {
        view: n for view, n in before.items() if view not in said
    }
    assert (after["commands_run"], after["files_changed"]) == (0, before["files_changed"] - 1)


def _counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    views = {view for view, *_ in describe()}
    return {view: len(connection.execute(f"FROM {view}").fetchall()) for view in sorted(views)}
