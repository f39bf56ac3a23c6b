"""Following a task: every event once, nothing missed, no busy waiting."""

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import Context, DelegateArguments, TaskArguments
from cmesh.errors import DaemonRestarted
from cmesh.interfaces.cli import follow as module
from cmesh.interfaces.cli.follow import follow, make_progress, wait_for
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.control import ControlServer
from cmesh.model import TaskState
from tests.fakes.operations import FIRST_TASK, FakeOperations

pytestmark = pytest.mark.anyio

TASK = DelegateArguments(peer="worker", prompt="look", directory="/srv/app")


async def test_events_are_shown_once_and_in_order_over_many_pages(
    server: ControlServer,
    operations: FakeOperations,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(module, "EVENTS", 3)
    async with ControlClient(server.path) as client:
        await client.delegate(TASK)
        operations.start(FIRST_TASK)
        for number in range(1, 11):
            operations.emit(FIRST_TASK, "text", f"step {number}")
        operations.finish(FIRST_TASK, text="done")
        view = await follow(client, FIRST_TASK, make_progress(quiet=False))
    assert (view.state, view.summary) == (TaskState.SUCCEEDED, "done")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("text")]
    assert lines == [f"text: step {number}" for number in range(1, 11)]


async def test_after_the_first_look_the_daemon_is_asked_to_wait_for_news(
    server: ControlServer, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
):
    get_task = operations.get_task

    async def finish_when_waited_for(context: Context, arguments: TaskArguments) -> TaskView:
        if arguments.wait_s:
            operations.finish(FIRST_TASK, text="done")
        return await get_task(context, arguments)

    monkeypatch.setattr(operations, "get_task", finish_when_waited_for)
    async with ControlClient(server.path) as client:
        await client.delegate(TASK)
        await follow(client, FIRST_TASK, make_progress(quiet=True))
    asked = [call[2] for call in operations.calls]
    first, second = [call for call in asked if isinstance(call, TaskArguments)]
    assert (first.wait_s, first.known_state) == (0, None)
    assert (second.wait_s, second.known_state) == (module.POLL_WAIT_S, TaskState.QUEUED)


async def test_a_task_whose_end_is_unknown_is_not_waited_for(
    server: ControlServer, operations: FakeOperations
):
    async with ControlClient(server.path) as client:
        await client.delegate(TASK)
        operations.finish(FIRST_TASK, TaskState.UNKNOWN)
        view = await follow(client, FIRST_TASK, make_progress(quiet=True))
    assert view.state == TaskState.UNKNOWN


def test_a_daemon_that_keeps_going_away_is_given_up(monkeypatch: pytest.MonkeyPatch):
    calls = 0

    def restarted(_work: object) -> None:
        nonlocal calls
        calls += 1
        raise DaemonRestarted("gone")

    monkeypatch.setattr(module, "call", restarted)
    with pytest.raises(DaemonRestarted, match="times"):
        wait_for(FIRST_TASK, make_progress(quiet=True))
    assert calls == module.RECONNECTS
