"""What waits for this machine's owner: tasks of others, and the change that the wizard has planned.

A word is to what was shown: it comes with the digest of that, and is not taken when it would mean
something else by now. Of two browsers the first is heard, and the other is told. Whose word it is,
the daemon judges by this process, as it does for `cmesh approve` and `cmesh confirm`.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cmesh.daemon.answers import TasksView, TaskView
from cmesh.daemon.arguments import ApproveArguments, SqlArguments, TaskArguments, TasksArguments
from cmesh.daemon.changes import ChangesArguments
from cmesh.daemon.setup_answers import SetupChangeView, SetupPendingView
from cmesh.daemon.setup_arguments import SetupConfirmArguments
from cmesh.errors import CmeshError, PlanGone, TaskRefused, UsageError
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.dashboard.form import checked
from cmesh.interfaces.dashboard.page import Page, area_of, page_of, posted, redirect, render
from cmesh.interfaces.dashboard.waiting import CHANGED, became, digest_of, fitting, waiting
from cmesh.model import Direction, TaskState

__all__ = ["PAGE"]

WAITING_MOST = 100
_WAITING = TasksArguments(
    state=TaskState.WAITING_APPROVAL, direction=Direction.IN, limit=WAITING_MOST
)
ANSWERS = ("approve", "deny")
ANSWERED = "SELECT answer, answered_at, program FROM approvals WHERE task_id = $1"


async def _approvals(request: Request) -> Response:
    return await _page(request)


async def _waits(request: Request) -> Response:
    """Give what the menu of each page says of this one: how many there are to answer."""

    async def look(client: ControlClient) -> tuple[TasksView, SetupPendingView]:
        return await asyncio.gather(client.list_tasks(_WAITING), client.setup_pending())

    found, pending = await area_of(request).daemon.call(look)
    number = len(found.tasks) + (pending.plan is not None)
    # No page: what is to be told on the next one stays for that.
    part = area_of(request).templates.get_template("waits.html")
    text = part.render(number=number, more=found.more, url=partial(page_of, request))
    return Response(text, media_type="text/html")


async def _back(request: Request) -> Response:
    """Lead to the page: one that answered a form has the form's address, and looks again there."""
    return redirect(request, "/approvals")


async def _page(request: Request, *, alert: str = "", hint: str = "") -> Response:
    """Return the page; with `alert` it tells of a word that was not taken."""

    async def look(
        client: ControlClient,
    ) -> tuple[str, Sequence[TaskView], bool, SetupPendingView]:
        mark = (await client.changes(ChangesArguments())).mark
        found, pending = await asyncio.gather(client.list_tasks(_WAITING), client.setup_pending())
        each = [client.get_task(TaskArguments(task_id=task.task_id)) for task in found.tasks]
        return mark, await asyncio.gather(*each), found.more, pending

    mark, tasks, more, pending = await area_of(request).daemon.call(look)
    # One may have been answered between the two looks.
    still = [task for task in tasks if task.state is TaskState.WAITING_APPROVAL]
    shown = fitting([waiting(task) for task in still])
    values = {
        "mark": mark,
        "waiting": shown,
        "more": more or len(shown) < len(still),
        "pending": pending,
        "alert": alert,
        "hint": hint,
    }
    return render(request, "approvals.html", values, status=409 if alert else 200)


async def _answer(request: Request) -> Response:
    form, task_id = await posted(request), str(request.path_params["task_id"])
    answer, daemon = form.get("answer", ""), area_of(request).daemon
    if answer not in ANSWERS:
        raise UsageError("say yes or no")
    yes = answer == "approve"
    asked = checked(TaskArguments, task_id=task_id)
    task = await daemon.call(lambda client: client.get_task(asked))
    if task.state is not TaskState.WAITING_APPROVAL:
        return await _page(request, alert=await _became(request, task_id))
    if yes and digest_of(task) != form.get("shown", ""):
        return await _page(request, alert=CHANGED)
    said = checked(ApproveArguments, task_id=task_id, approve=yes, reason=form.get("reason", ""))
    try:
        await daemon.act(lambda client: client.approve_task(said))
    except TaskRefused as error:
        after = await daemon.call(lambda client: client.get_task(asked))
        if after.state is TaskState.WAITING_APPROVAL:  # the word is not taken from here
            return await _page(request, alert=error.message, hint=error.hint)
        return await _page(request, alert=await _became(request, task_id))
    word = "Approved" if yes else "Denied"
    return redirect(request, "/approvals", said=f"{word}: {task.runner} for {task.peer}.")


async def _became(request: Request, task_id: str) -> str:
    """Say what became of a task that somebody else has answered meanwhile."""
    asked = SqlArguments(sql=ANSWERED, parameters=[task_id])
    try:
        view = await area_of(request).daemon.call(lambda client: client.sql(asked))
    except CmeshError:
        return f"Your word came too late. {became([])}"
    return f"Your word came too late. {became(view.rows)}"


async def _confirm(request: Request) -> Response:
    form = await posted(request)
    answer = form.get("answer", "")
    if answer not in ANSWERS:
        raise UsageError("say yes or no")
    said = checked(
        SetupConfirmArguments,
        plan_id=form.get("plan_id", ""),
        sha256=form.get("sha256", ""),
        accept=answer == "approve",
    )
    try:
        view = await area_of(request).daemon.act(lambda client: client.setup_confirm(said))
    except (PlanGone, TaskRefused) as error:
        return await _page(request, alert=f"{error.message}.", hint=error.hint)
    return redirect(request, "/approvals", said=_told(view))


def _told(view: SetupChangeView) -> str:
    if view.plan.state != "applied":
        return "Dropped; nothing was changed."
    notes = "; ".join([*view.plan.notes, *([f"next: {view.next.user}"] if view.next.user else [])])
    return f"Applied. {notes}".strip()


PAGE = Page(
    name="approvals",
    title="Approvals",
    path="/approvals",
    routes=[
        Route("/approvals", _approvals),
        Route("/approvals/waits", _waits),
        Route("/approvals/plan", _confirm, methods=["POST"]),
        Route("/approvals/{task_id}", _answer, methods=["POST"]),
        Route("/approvals/{task_id}", _back),
    ],
)
