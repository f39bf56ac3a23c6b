"""One task: what it is, what it does now, how it came to that, and what proves it."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cmesh.daemon.answers import ResultView, TaskView
from cmesh.daemon.arguments import (
    TEXT_CHARACTERS,
    CancelArguments,
    PatchArguments,
    ResultArguments,
    TaskArguments,
)
from cmesh.daemon.event_lines import event_line
from cmesh.daemon.evidence_answers import EvidenceView
from cmesh.daemon.file_answers import PatchFile
from cmesh.daemon.history_calls import RecordArguments, RecordView
from cmesh.errors import CmeshError, TaskRefused, UsageError
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.dashboard.diff import DiffFile, diff_files, pieces
from cmesh.interfaces.dashboard.form import checked
from cmesh.interfaces.dashboard.live import changed, follow, merged, shown_event
from cmesh.interfaces.dashboard.page import (
    Area,
    Page,
    area_of,
    attachment,
    posted,
    redirect,
    render,
    streamed,
)
from cmesh.interfaces.dashboard.timeline import timeline
from cmesh.model import ENDED, NEVER_RAN, Direction, TaskState

__all__ = ["PAGE"]

SHOWN_EVENTS = 200
SHOWN_CHARACTERS = 20_000
INLINE_PATCH_BYTES = 24_000
"""A patch that is shown with the task; a longer one has a page of its own."""

PATCH_CHARACTERS = 400_000
"""What of a patch is shown at all."""

PARTS = ("summary", "output", "errors", "acceptance", "answer", "patch")


def _named(request: Request) -> str:
    """Return the id, or a part of one, that an address names."""
    return checked(TaskArguments, task_id=str(request.path_params["task_id"])).task_id


async def _task(request: Request) -> Response:
    wanted = _named(request)
    check = "check" in request.query_params

    async def look(
        client: ControlClient,
    ) -> tuple[TaskView, RecordView, ResultView | None, PatchFile | None]:
        task, record = await asyncio.gather(
            client.get_task(TaskArguments(task_id=wanted, events=SHOWN_EVENTS)),
            client.get_record(RecordArguments(task_id=wanted, check=check)),
        )
        result = patch = None
        if task.state in ENDED - NEVER_RAN:
            result = await _result(client, task.task_id)
            patch = await _patch(client, task, INLINE_PATCH_BYTES)
        return task, record, result, patch

    task, record, result, patch = await area_of(request).daemon.call(look)
    return render(
        request,
        "task.html",
        {
            "task": task,
            "record": record,
            "why": _why(task, record),
            "proved": task.evidence not in (None, EvidenceView()),
            "steps": timeline(task, record),
            "result": result,
            "files": await _files(area_of(request), task, patch),
            "check": check,
            "ended": task.state in ENDED,
            "out": task.direction is Direction.OUT,
            "events": [shown_event(event) for event in task.events],
            "can_cancel": task.state not in ENDED and not task.cancel_requested,
        },
    )


def _why(task: TaskView, record: RecordView) -> str:
    """Return why a task is as it is; its stored reason is in the words that its caller was told."""
    denied = [one for one in record.decisions if one.effect == "deny"]
    if task.direction is Direction.OUT or task.state is not TaskState.DENIED or not denied:
        return task.reason
    more = f": {denied[-1].reason}" if denied[-1].reason else ""
    return f"this machine's policy denies it{more}"


async def _patch_page(request: Request) -> Response:
    wanted = TaskArguments(task_id=_named(request), events=0)

    async def look(client: ControlClient) -> tuple[TaskView, PatchFile | None]:
        task = await client.get_task(wanted)
        return task, await _patch(client, task, None)

    task, patch = await area_of(request).daemon.call(look)
    if patch is None:
        raise TaskRefused("there is no patch to show", hint="the task's page says why")
    files = await _files(area_of(request), task, patch)
    values = {"task": task, "files": files, "cut": patch.patch.bytes > PATCH_CHARACTERS}
    return render(request, "patch.html", values)


async def _live(request: Request) -> Response:
    """Stream from the event after the last one that the browser has."""
    given = request.headers.get("last-event-id") or request.query_params.get("after", "0")
    state = request.query_params.get("state", "")
    if not given.isdecimal() or len(given) > 12 or state not in set(TaskState):
        raise UsageError("a stream begins after the number of an event, with a state")
    daemon = area_of(request).daemon
    wanted = _named(request)
    task = await daemon.call(
        lambda client: client.get_task(TaskArguments(task_id=wanted, events=0))
    )
    events = follow(daemon.another(), task.task_id, after=int(given), state=TaskState(state))
    return streamed(merged(events, changed(daemon.another(), "")))


async def _cancel(request: Request) -> Response:
    form = await posted(request)
    arguments = CancelArguments(task_id=_named(request), reason=form.get("reason", "")[:500])
    task = await area_of(request).daemon.act(lambda client: client.cancel_task(arguments))
    said = "Asked to end." if task.state not in ENDED else f"It has ended: {task.state.value}."
    return redirect(request, f"/tasks/{task.task_id}", said=said)


async def _text(request: Request) -> Response:
    """Give a part of the result to be saved, whole, as plain text whatever it holds."""
    part = str(request.path_params["part"])
    if part not in PARTS:
        raise UsageError("a result has no such part")
    wanted = _named(request)
    daemon = area_of(request).daemon
    arguments = ResultArguments.model_validate(
        {"task_id": wanted, "part": part, "limit": TEXT_CHARACTERS}
    )
    first = await daemon.call(lambda client: client.get_result(arguments))

    async def pieces() -> AsyncGenerator[bytes]:
        view = first
        yield view.text.encode("utf-8", "replace")
        while view.next_offset is not None:
            more = arguments.model_copy(update={"offset": view.next_offset})
            view = await daemon.call(lambda client, more=more: client.get_result(more))
            yield view.text.encode("utf-8", "replace")

    return attachment(f"{first.task_id}-{part}.txt", pieces())


async def _log(request: Request) -> Response:
    """Give all events that are kept, a line each."""
    wanted = _named(request)
    daemon = area_of(request).daemon
    arguments = TaskArguments(
        task_id=wanted, events=SHOWN_EVENTS, after_event=0, known_state=TaskState.SUBMITTING
    )
    first = await daemon.call(lambda client: client.get_task(arguments))

    async def pieces() -> AsyncGenerator[bytes]:
        view = first
        while view.events:
            for event in view.events:
                line = event_line(event, SHOWN_CHARACTERS)
                yield f"{event.seq}\t{event.ts.isoformat()}\t{event.kind}\t{line}\n".encode()
            more = arguments.model_copy(update={"after_event": view.events[-1].seq})
            view = await daemon.call(lambda client, more=more: client.get_task(more))

    return attachment(f"{first.task_id}-events.txt", pieces())


async def _result(client: ControlClient, task_id: str) -> ResultView | None:
    """Return the beginning of what the task says; None where nothing of it is kept."""
    try:
        first = await client.get_result(ResultArguments(task_id=task_id, limit=TEXT_CHARACTERS))
        if first.next_offset is None:
            return first
        more = await client.get_result(
            ResultArguments(task_id=task_id, offset=first.next_offset, limit=TEXT_CHARACTERS)
        )
        update = {"text": first.text + more.text, "next_offset": more.next_offset}
        return first.model_copy(update=update)
    except TaskRefused:
        return None


async def _patch(client: ControlClient, task: TaskView, most: int | None) -> PatchFile | None:
    """Return the first piece of a patch; None where there is none here, or more than `most`."""
    known = task.patch
    if known is None or not known.sha256 or not known.bytes or known.withheld or known.refused:
        return None
    if most is not None and known.bytes > most:
        return None
    try:
        return await client.call("get_patch", PatchArguments(task_id=task.task_id), PatchFile)
    except CmeshError:  # released or erased meanwhile: the facts of the patch stay
        return None


async def _files(area: Area, task: TaskView, patch: PatchFile | None) -> list[DiffFile]:
    if patch is None:
        return []
    text = base64.b64decode(patch.data)[:PATCH_CHARACTERS].decode("utf-8", "replace")
    flagged = task.patch.flagged if task.patch is not None else []
    return diff_files(text, frozenset(flagged), await area.colours.of(pieces(text)))


async def _longer(request: Request) -> Response:
    """Lead the whole id of a task that was named by a part of it."""
    given = request.query_params.get("id", "").strip()
    wanted = checked(TaskArguments, task_id=given, events=0)
    task = await area_of(request).daemon.call(lambda client: client.get_task(wanted))
    answer = redirect(request, f"/tasks/{task.task_id}")
    answer.status_code = HTTPStatus.FOUND
    return answer


PAGE = Page(
    name="task",
    title="Task",
    path="/tasks/{task_id}",
    in_menu=False,
    routes=[
        Route("/task", _longer),
        Route("/tasks/{task_id}", _task),
        Route("/tasks/{task_id}/live", _live),
        Route("/tasks/{task_id}/patch", _patch_page),
        Route("/tasks/{task_id}/cancel", _cancel, methods=["POST"]),
        Route("/tasks/{task_id}/events.txt", _log),
        Route("/tasks/{task_id}/{part}.txt", _text),
    ],
)
