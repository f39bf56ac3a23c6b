"""Pages of tasks of any age, by what was read and not by what is shown."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cmesh.daemon.core import Daemon
from cmesh.daemon.history import find
from cmesh.daemon.history_calls import FindArguments
from cmesh.daemon.lookup import Lookup
from cmesh.model import TaskState
from cmesh.store.history import Wanted

pytestmark = pytest.mark.anyio


async def test_a_page_that_shows_none_of_what_it_read_leads_on_to_older_ones() -> None:
    tasks = [SimpleNamespace(record=SimpleNamespace(task_id=f"t{at}")) for at in range(5)]

    async def found(wanted: Wanted, most: int) -> list[Any]:
        assert wanted.end is TaskState.SUCCEEDED
        return tasks[:most]

    async def view(_task: Any) -> Any:  # all have a question that can be answered now
        return SimpleNamespace(state=TaskState.WAITING_INPUT)

    daemon = cast("Daemon", SimpleNamespace(store=SimpleNamespace(found=found)))
    lookup = cast("Lookup", SimpleNamespace(view=view))
    page = await find(daemon, lookup, FindArguments(state=TaskState.SUCCEEDED, limit=3))
    assert (page.tasks, page.more, page.older) == ([], True, "t2")
    page = await find(daemon, lookup, FindArguments(state=TaskState.SUCCEEDED, limit=5))
    assert (page.tasks, page.more, page.older) == ([], False, "")
