"""`cmesh watch` on a terminal of 80 x 24, driven by keys, over a fake daemon's real socket."""

# pyright: reportPrivateUsage=false
import asyncio
import signal
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from rich.color import ColorType
from textual.widgets import DataTable, Input, RichLog

from cmesh.clock import SystemClock
from cmesh.daemon.answers import EventView, WillRunView
from cmesh.daemon.arguments import ApproveArguments, CancelArguments, DelegateArguments
from cmesh.errors import DaemonNotRunning, DaemonRestarted, TaskRefused
from cmesh.interfaces.cli.watching import source
from cmesh.interfaces.cli.watching.board import Board
from cmesh.interfaces.cli.watching.screens import Help, Question
from cmesh.interfaces.cli.watching.source import Away, Look, Watcher
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.control import ControlServer
from cmesh.model import TaskState
from cmesh.paths import control_socket
from tests.fakes.operations import FIRST_TASK, FakeOperations
from tests.fakes.screen import LIMIT_S, asked, press, screen, until, watching

pytestmark = pytest.mark.anyio

TASK = DelegateArguments(peer="worker", prompt="look at [bold]it[/bold]", directory="/srv/app")
EVIL = "[red]x[/red] \x1b[31mred\x1b]0;t\x07 \u202etxt.exe"
RUNS = WillRunView(
    argv=["/usr/bin/claude", "-p", "--model=\u202eopus"], directory="/srv/app", profile="query",
    accept=["make", "test"], runtime_s=900,
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LOOK_LEAST_S", 0.02)
    monkeypatch.setattr(source, "RETRY_S", 0.02)


async def delegate(server: ControlServer) -> None:
    async with ControlClient(server.path) as client:
        await client.delegate(TASK)


async def test_tasks_and_events_are_there_at_80_by_24_and_nothing_in_them_is_obeyed(
    server: ControlServer, operations: FakeOperations
):
    await delegate(server)
    operations.start(FIRST_TASK)
    operations.emit(FIRST_TASK, "text", "before")
    async with watching(server.path) as (app, pilot):
        await until(pilot, lambda: "before" in screen(app))
        operations.emit(FIRST_TASK, "tool_call", "Bash", {"command": EVIL})
        operations.emit(FIRST_TASK, "cost", "0.25 USD", {"cost_usd": 0.25, "tokens_in": 3})
        await until(pilot, lambda: "$0.25" in screen(app))
        seen = screen(app)
        assert [len(line) for line in seen.splitlines()] == [80] * 24
        assert all(word in seen for word in ("running", ">worker", "claude", "1 unfinished"))
        assert "\x1b" not in seen
        assert "\u202e" not in seen
        tail = " ".join(line.text.strip() for line in app.query_one(RichLog).lines)
        assert "[red]x[/red] <U+001B>[31mred" in tail
        assert "<U+202E>txt.exe" in tail
        assert "Quit" in seen
        operations.finish(FIRST_TASK, TaskState.FAILED, text="no")
        await until(pilot, lambda: "failed" in screen(app))


async def test_an_approval_shows_what_would_run_and_no_key_alone_gives_it(
    server: ControlServer, operations: FakeOperations
):
    task_id = operations.knock(RUNS, "please\nrun this").task_id
    async with watching(server.path) as (app, pilot):
        await until(pilot, lambda: "1 WAITS FOR YOU" in screen(app))
        press(app, "a")
        await asked(pilot)
        seen = screen(app)
        for fact in ("/usr/bin/claude -p", "<U+202E>opus", "/srv/app", "make test", "15m"):
            assert fact in seen
        assert operations._tasks[task_id].expires_at is not None
        assert "expires" in seen
        press(app, "\ry\ra\r \r")
        await until(pilot, lambda: "type yes or no" in screen(app))
        assert operations._tasks[task_id].state is TaskState.WAITING_APPROVAL
        press(app, "yes\r")
        await until(pilot, lambda: operations._tasks[task_id].state is TaskState.QUEUED)


async def test_what_changed_since_it_was_shown_is_not_approved(
    server: ControlServer, operations: FakeOperations
):
    task_id = operations.knock(RUNS).task_id
    async with watching(server.path) as (app, pilot):
        await until(pilot, lambda: "ASKS YOU" in screen(app))
        press(app, "a")
        await asked(pilot)
        other = RUNS.model_copy(update={"argv": ["/bin/rm", "-r", "/srv/app"]})
        operations._update(task_id, {"will_run": other})
        press(app, "yes\r")
        await until(pilot, lambda: "not what you were shown" in screen(app))
        assert operations._tasks[task_id].state is TaskState.WAITING_APPROVAL
        press(app, "a")
        await asked(pilot)
        assert "/bin/rm" in screen(app)
        press(app, "no not today\r")
        await until(pilot, lambda: operations._tasks[task_id].state is TaskState.DENIED)
    given = [call[2] for call in operations.calls if isinstance(call[2], ApproveArguments)]
    assert [(one.approve, one.reason) for one in given] == [(False, "not today")]


async def test_what_the_daemon_refuses_is_told(server: ControlServer, operations: FakeOperations):
    operations.knock(RUNS)
    operations.failures["approve_task"] = TaskRefused("a task cannot [b]approve[/b] a task")
    async with watching(server.path) as (app, pilot):
        await until(pilot, lambda: "ASKS YOU" in screen(app))
        press(app, "a")
        await asked(pilot)
        press(app, "yes\r")
        await until(pilot, lambda: "cannot [b]approve[/b]" in screen(app))


async def test_a_cancel_asks_for_a_word(server: ControlServer, operations: FakeOperations):
    await delegate(server)
    operations.start(FIRST_TASK)
    async with watching(server.path) as (app, pilot):
        await until(pilot, lambda: app._chosen == FIRST_TASK)
        press(app, "c")
        await asked(pilot)
        press(app, "\r\x1b")
        await until(pilot, lambda: not isinstance(app.screen, Question))
        assert not [one for one in operations.calls if one[0] == "cancel_task"]
        press(app, "c")
        await asked(pilot)
        press(app, "yes too slow\r")
        await until(pilot, lambda: "cancelling" in screen(app))
    [given] = [call[2] for call in operations.calls if isinstance(call[2], CancelArguments)]
    assert (given.task_id, given.reason) == (FIRST_TASK, "too slow")


async def test_a_daemon_that_comes_back_loses_no_event_and_repeats_none(
    server: ControlServer, operations: FakeOperations
):
    await delegate(server)
    operations.start(FIRST_TASK)
    async with watching(server.path) as (app, pilot):
        operations.emit(FIRST_TASK, "text", "one")
        await until(pilot, lambda: "text: one" in screen(app))
        await server.close()
        await until(pilot, lambda: "the daemon is away" in screen(app))
        operations.emit(FIRST_TASK, "text", "two")
        operations.emit(FIRST_TASK, "text", "three")
        async with ControlServer(control_socket(server.path.parent), operations):
            await until(pilot, lambda: "text: three" in screen(app))
            assert "the daemon is away" not in screen(app)
            lines = [line.text.strip()[9:] for line in app.query_one(RichLog).lines]
            assert lines == ["text: one", "text: two", "text: three"]


async def test_words_filter_and_the_help_page_names_the_keys(
    server: ControlServer, operations: FakeOperations
):
    await delegate(server)
    operations.finish(FIRST_TASK, text="done")
    operations.knock(RUNS, "another")
    async with watching(server.path) as (app, pilot):
        table: DataTable[Any] = cast("DataTable[Any]", app.query_one("#list"))
        await until(pilot, lambda: table.row_count == 2)
        press(app, "/")
        await until(pilot, lambda: isinstance(app.focused, Input))
        press(app, "another\r")
        await until(pilot, lambda: table.row_count == 1)
        assert "ASKS YOU" in screen(app)
        press(app, "\x1b")
        await until(pilot, lambda: table.row_count == 2)
        press(app, "o")
        await until(pilot, lambda: table.row_count == 1)
        press(app, "?")
        await until(pilot, lambda: isinstance(app.screen, Help))
        await until(pilot, lambda: "Ctrl-C" in screen(app))
    async with watching(server.path, words="another") as (app, pilot):
        table = cast("DataTable[Any]", app.query_one("#list"))
        await until(pilot, lambda: table.row_count == 1 and "ASKS YOU" in screen(app))


async def test_without_colour_no_cell_has_one(
    server: ControlServer, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NO_COLOR", "1")
    operations.knock(RUNS)
    async with watching(server.path, plain=True) as (app, pilot):
        await until(pilot, lambda: "ASKS YOU" in screen(app))
        segments = [s for strip in app.screen._compositor.render_strips() for s in strip]
        for one in [one for one in app._filters if one.enabled]:
            segments = one.apply(segments, app.background_colors[1])
        colours = {c for s in segments if s.style for c in (s.style.color, s.style.bgcolor) if c}
        assert {colour.type for colour in colours} <= {ColorType.DEFAULT}
        assert any(s.style and s.style.reverse for s in segments)


async def test_each_change_is_told_once_also_when_the_daemon_fails_in_the_middle_of_a_look(
    server: ControlServer, operations: FakeOperations
):
    await delegate(server)
    operations.emit(FIRST_TASK, "text", "before")
    watcher = Watcher(server.path, SystemClock(), limit_s=None)
    looks = watcher.looks()
    first = await anext(looks)
    assert isinstance(first, Look)
    assert [change.kind for change in first.changes] == ["task"]
    operations.emit(FIRST_TASK, "text", "after")
    operations.failures["get_task"] = DaemonRestarted("it breaks off")
    operations.start(FIRST_TASK)
    assert isinstance(await anext(looks), Away)
    del operations.failures["get_task"]
    operations.finish(FIRST_TASK, text="done")
    again = await anext(watcher.looks())
    assert isinstance(again, Look)
    told = [(change.kind, change.task.state.value) for change in again.changes]
    assert told == [("state", "running"), ("event", "succeeded"), ("state", "succeeded")]


async def test_a_daemon_that_stays_away_ends_the_lines(server: ControlServer):
    watcher = Watcher(server.path, SystemClock(), limit_s=0.1)
    looks = watcher.looks()
    assert isinstance(await anext(looks), Look)
    await server.close()
    with pytest.raises(DaemonNotRunning):
        await _away(looks)


async def _away(looks: AsyncGenerator[Look | Away]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            assert isinstance(await anext(looks), Away)


def test_a_board_tells_no_event_twice_and_goes_on_behind_those_that_are_gone():
    board = Board(begun=True)
    operations = FakeOperations()
    view = operations.knock(RUNS).model_copy(update={"last_event": 9})
    assert [change.kind for change in board.take([view])] == ["task"]
    assert board.behind() == [view.task_id]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    page = [EventView(seq=seq, ts=at, kind="text", text="x") for seq in (1, 2)]
    assert len(board.tell(view.task_id, page)) == 2
    assert board.tell(view.task_id, page) == []
    board.skip(view.task_id)
    assert board.behind() == []
    assert board.missing([]) == [view.task_id]


async def test_a_look_follows_a_change_and_nothing_else(
    server: ControlServer, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(source, "STATUS_EVERY_S", LIMIT_S)
    await delegate(server)
    looks = Watcher(server.path, SystemClock(), limit_s=None).looks()
    assert isinstance(await anext(looks), Look)
    second = asyncio.ensure_future(anext(looks))

    async def waits() -> None:
        while operations.calls[-1][0] != "changes":
            await asyncio.sleep(0.01)

    async with asyncio.timeout(LIMIT_S / 2):
        await waits()
        operations.emit(FIRST_TASK, "text", "now")
        look = await second
    assert isinstance(look, Look)
    assert [change.kind for change in look.changes] == ["event"]
    assert [name for name, _context, _arguments in operations.calls].count("list_tasks") == 4


async def test_an_end_from_outside_gives_the_terminal_back(server: ControlServer):
    async with watching(server.path) as (app, pilot):
        signal.raise_signal(signal.SIGTERM)
        await until(pilot, lambda: app._exit)
