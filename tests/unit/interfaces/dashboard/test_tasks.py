"""The list of tasks, one task's page, its stream, and what is saved of it."""

import asyncio
import html
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.daemon.arguments import CancelArguments, Context, DelegateArguments
from cmesh.daemon.evidence_answers import EvidenceView
from cmesh.daemon.history_calls import DecidedView, RecordArguments, RecordView, StepView
from cmesh.errors import UsageError
from cmesh.interfaces.control import ControlServer
from cmesh.interfaces.dashboard.daemon import Daemon
from cmesh.interfaces.dashboard.live import changed, follow, merged
from cmesh.interfaces.dashboard.page import Sent
from cmesh.interfaces.dashboard.pages_tasks import span
from cmesh.interfaces.dashboard.timeline import timeline
from cmesh.model import TaskState
from cmesh.paths import control_socket
from tests.fakes.operations import FIRST_TASK, FakeOperations
from tests.unit.interfaces.dashboard.conftest import Browser
from tests.unit.interfaces.dashboard.test_waiting import TASK

pytestmark = pytest.mark.anyio

LIMIT_S = 5.0
EVIL = "</pre><script>x</script>\u202e\x1b[31m"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


async def ask(operations: FakeOperations, prompt: str = "look", times: int = 1) -> None:
    for number in range(times):
        arguments = DelegateArguments(
            peer="worker", prompt=f"{prompt} {number}", directory="/srv/app", runner="command:check"
        )
        await operations.delegate(Context(session="s"), arguments)


async def test_the_list_is_in_pages_and_keeps_its_filters(
    browser: Browser, operations: FakeOperations
):
    await ask(operations, times=60)
    first = (await browser.get("/tasks?text=LOOK&peer=worker&state=open")).text
    assert first.count('class="row"') == 50
    assert "look 59" in first
    assert 'value="LOOK"' in first
    query = first.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0]
    assert "text=LOOK&amp;" in query
    second = (await browser.client.get(query.replace("&amp;", "&"))).text
    assert second.count('class="row"') == 10
    assert 'rel="next"' not in second
    assert "No task fits." in (await browser.get("/tasks?text=absent")).text


@pytest.mark.parametrize(
    "query",
    [
        "state=nothing",
        "since=yesterday",
        "span=1y",
        "before=zzzz",
        "until=9999-12-31",
        "limit=x&direction=up",
    ],
)
async def test_a_filter_that_is_none_is_said(browser: Browser, query: str):
    answer = await browser.get(f"/tasks?{query}")
    assert answer.status_code == 400
    assert "This did not work" in answer.text


def test_a_span_is_hours_or_whole_days():
    nothing = {"span": "", "since": "", "until": ""}
    assert span(nothing, NOW) == (None, None)
    since, until = span({**nothing, "span": "24h", "until": "2026-01-01"}, NOW)
    assert (since, until) == (datetime(2026, 4, 30, 12, tzinfo=UTC), None)
    since, until = span({**nothing, "since": "2026-04-01", "until": "2026-04-01"}, NOW)
    assert since is not None
    assert until is not None
    assert (until - since).days == 1
    with pytest.raises(UsageError):
        span({**nothing, "since": "9999-99-99"}, NOW)


async def test_hostile_texts_are_text(browser: Browser, operations: FakeOperations):
    await ask(operations, EVIL)
    operations.start(FIRST_TASK)
    operations.emit(FIRST_TASK, "Odd <kind>", EVIL)
    operations.finish(FIRST_TASK, text=EVIL + "y" * 100_000)
    for path in ("/tasks", f"/tasks/{FIRST_TASK}", "/"):
        page = (await browser.get(path)).text
        assert "<script>x" not in page
        assert "\u202e" not in page
        assert "\x1b" not in page
    assert "kind-other" in (await browser.get(f"/tasks/{FIRST_TASK}")).text
    page = await browser.get(f"/tasks/{FIRST_TASK}")
    assert len(page.content) < 60_000
    saved = await browser.get(f"/tasks/{FIRST_TASK}/summary.txt")
    assert saved.headers["content-disposition"].startswith("attachment")
    assert saved.headers["content-type"].startswith("text/plain")
    assert len(saved.text) > 100_000
    events = await browser.get(f"/tasks/{FIRST_TASK}/events.txt")
    assert events.text.startswith("1\t")
    assert (await browser.get(f"/tasks/{FIRST_TASK}/passwd.txt")).status_code == 400


async def test_signatures_are_checked_when_asked(browser: Browser, operations: FakeOperations):
    await ask(operations)
    operations.finish(FIRST_TASK, text="done")
    assert "Check the signatures" in (await browser.get(f"/tasks/{FIRST_TASK}")).text
    checked = (await browser.get(f"/tasks/{FIRST_TASK}?check=1")).text
    assert checked.count(">valid<") == 2


async def test_a_cancel_is_asked_once_by_a_form_only(browser: Browser, operations: FakeOperations):
    await ask(operations)
    path = f"/tasks/{FIRST_TASK}/cancel"
    assert (await browser.get(path)).status_code == 405
    answer = await browser.post(path, reason="enough")
    assert answer.headers["location"] == f"{browser.base}/tasks/{FIRST_TASK}"
    asked = [arguments for name, _context, arguments in operations.calls if name == "cancel_task"]
    assert asked == [CancelArguments(task_id=FIRST_TASK, reason="enough")]


async def test_a_task_that_this_machine_denied_is_told_as_its_own_word(
    browser: Browser, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
):
    told = "the other node's policy denies it (path)"
    denied = TASK.model_copy(
        update={
            "state": TaskState.DENIED,
            "reason": told,
            "code": "policy_denied",
            "ended_at": TASK.created_at,
            "evidence": EvidenceView(),
        }
    )
    operations.ask(denied)
    page = html.unescape((await browser.get(f"/tasks/{TASK.task_id}")).text)
    assert told in page  # no decision of this machine is kept that denies it
    decided = DecidedView(
        seq=1, ts=NOW, operation="task", effect="deny", reason="no rule opens /srv/app"
    )
    record = RecordView(task_id=TASK.task_id, decisions=[decided])

    async def kept(_context: Context, _arguments: RecordArguments) -> RecordView:
        return record

    monkeypatch.setattr(operations, "get_record", kept)
    page = html.unescape((await browser.get(f"/tasks/{TASK.task_id}")).text)
    assert "this machine's policy denies it: no rule opens /srv/app" in page
    assert "asked here by <b>laptop</b>" in page
    assert "It never ran." in page
    for text in (told, "Took", "works here", "Nothing told yet", "evidence-title"):
        assert text not in page


def test_a_yes_of_the_owner_is_a_step_of_its_own():
    names = ["accepted", "accepted", "waiting", "accepted", "intent"]
    steps = [StepView(seq=1, ts=NOW, kind="state", name=name) for name in names]
    steps.insert(1, StepView(seq=1, ts=NOW, kind="fact", name="late"))
    found = timeline(TASK, RecordView(task_id=TASK.task_id, steps=steps))
    assert [(one.state, one.what) for one in found if one.state] == [
        ("queued", "taken"),
        ("waiting_approval", "waits for this machine's owner"),
        ("queued", "approved"),
        ("queued", "about to start"),
    ]


async def test_a_part_of_an_id_leads_to_the_task(browser: Browser, operations: FakeOperations):
    await ask(operations)
    answer = await browser.get(f"/task?id={FIRST_TASK[:12]}")
    assert (answer.status_code, answer.headers["location"]) == (
        302,
        f"{browser.base}/tasks/{FIRST_TASK}",
    )
    assert (await browser.get("/task?id=ffff")).status_code == 404


@pytest.mark.parametrize("query", ["after=x&state=running", "after=1&state=", "after=-1&state=no"])
async def test_a_stream_needs_a_beginning(browser: Browser, operations: FakeOperations, query: str):
    await ask(operations)
    assert (await browser.get(f"/tasks/{FIRST_TASK}/live?{query}")).status_code == 400


async def taken(stream: AsyncGenerator[Sent], last: str) -> list[Sent]:
    found: list[Sent] = []
    async with asyncio.timeout(LIMIT_S):
        async for sent in stream:
            found.append(sent)
            if sent.event == last:
                break
    return found


async def test_a_stream_goes_on_after_what_was_seen_and_ends_with_the_task(
    daemon: Daemon, operations: FakeOperations
):
    await ask(operations)
    operations.start(FIRST_TASK)
    for text in ("one", "two", "three"):
        operations.emit(FIRST_TASK, "output", text)
    operations.finish(FIRST_TASK, text="done")
    stream = follow(daemon.another(), FIRST_TASK, after=1, state=TaskState.RUNNING)
    sent = await taken(stream, "end")
    assert [(one.event, one.number) for one in sent] == [
        ("line", "2"),
        ("line", "3"),
        ("state", ""),
        ("end", ""),
    ]
    assert sent[0].encoded().startswith(b"event: line\nid: 2\ndata: {")
    assert b"\n\n" not in sent[0].encoded()[:-2]


async def test_a_stream_waits_for_a_daemon_that_is_away(
    daemon: Daemon, operations: FakeOperations, server: ControlServer, state: Path
):
    await ask(operations)
    operations.start(FIRST_TASK)
    stream = follow(daemon.another(), FIRST_TASK, after=0, state=TaskState.RUNNING)
    operations.emit(FIRST_TASK, "output", "one")
    assert [one.event for one in await taken(stream, "line")] == ["line"]
    await server.close()
    assert [one.data for one in await taken(stream, "away")] == [{"away": True}]
    async with ControlServer(control_socket(state), operations):
        operations.emit(FIRST_TASK, "output", "two")
        back = await taken(stream, "line")
        assert [(one.event, one.number) for one in back] == [("away", ""), ("line", "2")]
        await stream.aclose()


async def test_changes_go_on_after_a_mark_also_when_the_daemon_was_away(
    daemon: Daemon, operations: FakeOperations, server: ControlServer, state: Path
):
    await ask(operations)
    [first] = await taken(changed(daemon.another(), ""), "changed")
    assert first.number == first.data["mark"]
    stream = changed(daemon.another(), first.number)
    waiting = asyncio.ensure_future(taken(stream, "changed"))
    operations.start(FIRST_TASK)
    [second] = await waiting
    assert second.number != first.number
    await server.close()
    assert [one.data for one in await taken(stream, "away")] == [{"away": True}]
    operations.finish(FIRST_TASK, text="while it was away")
    async with ControlServer(control_socket(state), operations):
        back = await taken(stream, "changed")
        assert [one.event for one in back] == ["away", "changed"]
        await stream.aclose()


async def test_a_tasks_stream_has_changes_without_numbers_and_ends_with_the_task(
    daemon: Daemon, operations: FakeOperations
):
    await ask(operations)
    operations.start(FIRST_TASK)
    own = follow(daemon.another(), FIRST_TASK, after=0, state=TaskState.RUNNING)
    stream = merged(own, changed(daemon.another(), ""))
    assert [one.number for one in await taken(stream, "changed")] == [""]
    operations.emit(FIRST_TASK, "output", "one")
    operations.finish(FIRST_TASK, text="done")
    sent = await taken(stream, "nothing")
    assert [one.event for one in sent if one.event != "changed"] == ["line", "state", "end"]


async def test_a_stream_of_changes_needs_a_mark_of_ours(browser: Browser):
    assert (await browser.get(f"/changes?since={'x' * 65}")).status_code == 400


async def test_streams_end_with_the_dashboard(
    operations: FakeOperations, server: ControlServer, state: Path
):
    del server
    await ask(operations)
    operations.start(FIRST_TASK)
    daemon = Daemon(control_socket(state), SystemClock())
    stream = follow(daemon.another(), FIRST_TASK, after=0, state=TaskState.RUNNING)
    waiting = asyncio.ensure_future(taken(stream, "end"))
    while "get_task" not in [name for name, _context, _arguments in operations.calls]:
        await asyncio.sleep(0)
    await daemon.close()
    assert [one.event for one in await waiting] == ["away"]
