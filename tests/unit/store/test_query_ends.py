"""A query process that is let go is ended, whoever stops waiting, and when."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cmesh.errors import QueryRefused, StoreError
from cmesh.store.sql import Copying, Query, QueryProcess

pytestmark = pytest.mark.anyio

LIMIT_S = 20
SELECT = Query(text="SELECT 1", parameters=(), limit=1)


class Held:
    """Stands for a confined process: its end can be made to last."""

    seen_at = "."
    held_by = "test"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked = asyncio.Event()
        self.stuck = False
        self.ending, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_end.set()
        self.ended = False

    async def ask(self, message: dict[str, object], **_: object) -> dict[str, Any]:
        self.asked.set()
        if "sql" in message and self.stuck:
            await asyncio.Event().wait()
        return {"columns": [], "types": [], "rows": [], "cut_by": "", "elapsed_ms": 0}

    async def end(self) -> None:
        self.ending.set()
        await self.may_end.wait()
        self.ended = True


class Machine:
    """A `QueryProcess` over such processes."""

    def __init__(self, tmp_path: Path) -> None:
        self.started: list[Held] = []
        self.fails = False
        self.directory = tmp_path

        async def begin(*_: object) -> Held:
            self.started.append(Held(tmp_path))
            return self.started[-1]

        self.copying = Copying(
            confinement=cast("Any", SimpleNamespace(begin=begin)),
            fill=self.fill,
            rest=self.nothing,
            columns=self.names,
        )
        self.process = QueryProcess(self.copying)

    async def fill(self, directory: Path) -> Any:
        (directory / "store.duckdb").write_bytes(b"rows")
        if self.fails:
            raise StoreError("no room")
        return SimpleNamespace(seq=1)

    async def nothing(self) -> None:
        return None

    async def names(self) -> Any:
        return cast("Any", {})


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_the_process_before_is_ended_when_no_new_copy_can_be_made(machine: Machine) -> None:
    async with asyncio.timeout(LIMIT_S):
        await machine.process.run(SELECT, 1)
        machine.fails = True
        with pytest.raises(StoreError):
            await machine.process.run(SELECT, 2)
        await machine.process.close()
    assert [one.ended for one in machine.started] == [True] * len(machine.started)


async def test_who_goes_away_twice_leaves_no_process(machine: Machine) -> None:
    async with asyncio.timeout(LIMIT_S):
        await machine.process.run(SELECT, 1)
        held = machine.started[0]
        held.stuck = True
        held.may_end.clear()
        held.asked.clear()
        asking = asyncio.ensure_future(machine.process.run(SELECT, 1))
        await held.asked.wait()
        asking.cancel()
        await held.ending.wait()
        asking.cancel()  # while the process is being ended
        await asyncio.wait([asking])
        held.may_end.set()
        await machine.process.close()
    assert [one.ended for one in machine.started] == [True] * len(machine.started)


async def test_no_query_begins_in_a_store_that_was_closed_meanwhile(machine: Machine) -> None:
    async with asyncio.timeout(LIMIT_S):
        await machine.process.close()
        with pytest.raises(QueryRefused):
            await machine.process.run(SELECT, 1)
    assert machine.started == []
