"""The first page: this machine, what goes on, what waits for its owner, and what to do next."""

import asyncio
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cmesh.daemon.answers import PeersView, StatusView, TasksView, TaskView
from cmesh.daemon.arguments import TasksArguments
from cmesh.daemon.changes import ChangesArguments
from cmesh.daemon.history_calls import FiguresArguments, FiguresView
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.dashboard.daemon import known_peers
from cmesh.interfaces.dashboard.page import Page, area_of, render
from cmesh.model import ENDED, Direction, TaskState

__all__ = ["PAGE", "Step", "steps"]

SHOWN_TASKS = 50
SHOWN_ENDED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something for the owner to do; `path` is the page where, or empty."""

    what: str
    next: str
    path: str = ""
    code: str = ""


async def _overview(request: Request) -> Response:
    area = area_of(request)
    today = area.clock.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)

    async def look(
        client: ControlClient,
    ) -> tuple[str, tuple[StatusView, PeersView, TasksView, TasksView, FiguresView]]:
        # The mark first: what changes during the look is told to the page.
        mark = (await client.changes(ChangesArguments())).mark
        return mark, await asyncio.gather(
            client.status(),
            known_peers(client),
            client.list_tasks(TasksArguments(state="open", limit=SHOWN_TASKS)),
            client.list_tasks(TasksArguments(limit=SHOWN_ENDED)),
            client.figures(FiguresArguments(since=today)),
        )

    mark, (status, peers, going_on, latest, figures) = await area.daemon.call(look)
    waiting = [
        task
        for task in going_on.tasks
        if task.state is TaskState.WAITING_APPROVAL and task.direction is Direction.IN
    ]
    return render(
        request,
        "overview.html",
        {
            "mark": mark,
            "status": status,
            "peers": sorted(peers.peers, key=lambda peer: (not peer.online, peer.name)),
            "going_on": [task for task in going_on.tasks if task not in waiting],
            "waiting": waiting,
            "latest": [task for task in latest.tasks if task.state in ENDED],
            "today": figures,
            "steps": steps(status, peers, going_on.tasks),
        },
    )


def steps(status: StatusView, peers: PeersView, tasks: list[TaskView]) -> list[Step]:
    """Return what the owner may want to do, the most pressing first."""
    found = [
        Step(what=problem.what, next=problem.next, code=problem.code) for problem in status.problems
    ]
    if status.phase == "login" and status.login_url:
        found.append(Step(what="This node is not logged in", next=f"open {status.login_url}"))
    for peer in peers.peers:
        if peer.trust in {"waiting", "changed"}:
            word = (
                "asks to be trusted" if peer.trust == "waiting" else "shows another key than before"
            )
            found.append(Step(what=f"{peer.name} {word}", next=f"cmesh peers trust {peer.name}"))
    found.extend(
        Step(
            what=f"{task.peer} asks back: {task.question}",
            next=f"cmesh reply {task.task_id} ANSWER",
            path=f"/tasks/{task.task_id}",
        )
        for task in tasks
        if task.state is TaskState.WAITING_INPUT and task.direction is Direction.OUT
    )
    found.extend(
        Step(
            what=f"{box.tasks} tasks wait for {box.peer}, which cannot be reached",
            next="they go out when it is back",
            code=box.code,
        )
        for box in status.outbox
        if box.link != "connected"
    )
    return found


PAGE = Page(name="overview", title="Overview", path="/", routes=[Route("/", _overview)])
