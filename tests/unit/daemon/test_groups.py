"""A group that was cancelled stays cancelled, also when not all of its peers had been asked."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typing_extensions import override

from cmesh.daemon.answers import GroupView
from cmesh.daemon.arguments import Context
from cmesh.daemon.core import Daemon
from cmesh.daemon.groups import Groups
from cmesh.daemon.lookup import Lookup
from cmesh.model import NodeId, TaskId
from cmesh.store.records import Selection, TaskSnapshot
from tests.fakes.half import Half, allowed
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio
GROUP = "g-0123456789abcdef"
NEVER = NodeId("nNAS")


class Told(Groups):
    """Shows nothing of the tasks: that needs the rest of a daemon."""

    @override
    async def waited(self, *_arguments: Any, **_more: Any) -> GroupView:
        return GroupView(group=GROUP, asked=2)


def groups(half: Half) -> Groups:
    """Return the groups of a half; what is shown of each task is not looked at."""
    daemon = SimpleNamespace(store=half.store, caller=half.caller)

    async def task(task_id: TaskId) -> TaskSnapshot:
        return await half.seen(task_id)

    lookup = SimpleNamespace(task=task)
    return Told(cast("Daemon", daemon), cast("Lookup", lookup))


@pytest.mark.parametrize("restart", [False, True])
async def test_who_was_not_asked_before_a_crash_is_never_asked_after_a_cancel(
    pair: Pair, restart: bool
) -> None:
    asker = pair.asker
    selection = Selection(group=GROUP, peers=(pair.doer.node_id, NEVER))
    record = replace(asker.record(pair.doer), selection=selection)
    await asker.caller.delegate(record, allowed(record))
    assert await groups(asker).settled(selection) == {pair.doer.node_id}
    await groups(asker).cancel(Context(session="s"), GROUP, "enough")
    if restart:
        await asker.restart()
    assert await groups(asker).settled(selection) == {pair.doer.node_id, NEVER}
    task = await asker.seen(record.task_id)
    assert task.state == "cancelled"
