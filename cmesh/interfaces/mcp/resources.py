"""The resources: what can be read by URI, and how a change of a task is noticed.

Only tasks can be subscribed to. A watch asks the daemon, it never drives a task.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import mcp_types as types
from pydantic import ValidationError

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import (
    Context,
    NoArguments,
    ResultArguments,
    SqlArguments,
    TaskArguments,
    TasksArguments,
)
from cmesh.daemon.operations import Operations
from cmesh.errors import UsageError
from cmesh.interfaces import pages
from cmesh.interfaces.mcp.fence import Fence
from cmesh.interfaces.mcp.guide import GUIDE
from cmesh.interfaces.mcp.render import peer_fields, status_fields, task_fields
from cmesh.interfaces.mcp.result_page import result_text
from cmesh.interfaces.schema import SCHEMA_ROWS, SCHEMA_SQL, View, views
from cmesh.model import ENDED

__all__ = ["complete", "read", "resources", "task_of", "templates", "watch"]

TASKS_COMPLETED = 50
WATCH_WAIT_S = 30.0

_TASK = "cmesh://tasks/{task_id}"
_PAGE = "cmesh://docs/{page}"
_OUTPUT = "cmesh://tasks/{task_id}/output{?offset,limit}"


def resources() -> list[types.Resource]:
    """Return the resources with a fixed URI."""
    rows = [
        ("status", "Whether cmesh here can delegate now, and what keeps it from that."),
        ("peers", "The user's other machines and what each allows."),
        ("guide", "How to delegate well: profiles, states, what to do when refused."),
        ("schema", "The audit views that query() can ask: columns, types, meaning."),
        ("docs", "The pages of cmesh's documentation; each is cmesh://docs/NAME."),
    ]
    return [
        types.Resource(
            uri=f"cmesh://{name}", name=name, description=about, mime_type=_mime_type(name)
        )
        for name, about in rows
    ]


def templates() -> list[types.ResourceTemplate]:
    """Return the resources of a task, and the pages of the documentation."""
    return [
        types.ResourceTemplate(
            uri_template=_PAGE,
            name="page",
            description="A page of cmesh's documentation, to answer questions about cmesh.",
            mime_type="text/markdown",
        ),
        types.ResourceTemplate(
            uri_template=_TASK,
            name="task",
            description="A task's state and newest events; can be subscribed to.",
            mime_type="application/json",
        ),
        types.ResourceTemplate(
            uri_template=_OUTPUT,
            name="task output",
            description="What the task's program wrote, in slices of at most 9,000 characters.",
            mime_type="text/plain",
        ),
    ]


async def read(
    uri: str, operations: Operations, context: Context
) -> list[types.TextResourceContents]:
    """Return the resource's content.

    Raises:
        UsageError: there is no such URI.
        CmeshError: the daemon refuses; an unknown task, for example.
    """
    text, kind = await _read(uri, operations, context)
    return [types.TextResourceContents(uri=uri, text=text, mime_type=kind)]


def task_of(uri: str) -> str:
    """Return the task id of a URI that can be subscribed to.

    Raises:
        UsageError: it is not `cmesh://tasks/{task_id}`.
    """
    host, parts, query = _split(uri)
    if host != "tasks" or len(parts) != 1 or query:
        raise UsageError("only cmesh://tasks/{task_id} can be subscribed to", hint="use get_task")
    return parts[0]


async def watch(
    seen: TaskView,
    operations: Operations,
    context: Context,
    on_change: Callable[[], Awaitable[None]],
) -> None:
    """Call `on_change` for each change of a task since it was `seen`, until it has ended.

    Raises:
        CmeshError: the task cannot be seen (any more).
    """
    while seen.state not in ENDED:
        view = await operations.get_task(
            context,
            TaskArguments(
                task_id=seen.task_id,
                wait_s=WATCH_WAIT_S,
                known_state=seen.state,
                after_event=seen.last_event,
                events=0,
            ),
        )
        if _changed(seen, view):
            await on_change()
        seen = view


async def complete(
    argument: str, value: str, operations: Operations, context: Context
) -> list[str]:
    """Return peers, task ids or pages that begin with `value`; empty for other arguments."""
    if argument == "peer":
        view = await operations.list_peers(context, NoArguments())
        names = [peer.name for peer in view.peers]
    elif argument == "task_id":
        tasks = await operations.list_tasks(context, TasksArguments(limit=TASKS_COMPLETED))
        names = [task.task_id for task in tasks.tasks]
    elif argument == "page":
        names = pages.names()
    else:
        names = []
    return [name for name in names if name.startswith(value)][:100]


async def _read(uri: str, operations: Operations, context: Context) -> tuple[str, str]:
    host, parts, query = _split(uri)
    if parts[:1] == [] and not query:
        if host == "guide":
            return GUIDE, _mime_type(host)
        if host == "docs":
            return pages.index(), _mime_type(host)
        if host == "status":
            return _json(status_fields(await operations.status(context, NoArguments())))
        if host == "schema":
            asked = SqlArguments(sql=SCHEMA_SQL, limit=SCHEMA_ROWS)
            return _schema(views((await operations.sql(context, asked)).rows)), _mime_type(host)
        if host == "peers":
            view = await operations.list_peers(context, NoArguments())
            mark = Fence()
            return _json({"peers": [peer_fields(peer, mark) for peer in view.peers]})
    if host == "docs" and len(parts) == 1 and not query:
        return pages.page(parts[0]), "text/markdown"
    if host == "tasks" and len(parts) == 1 and not query:
        view = await operations.get_task(context, _model(TaskArguments, task_id=parts[0]))
        return _json(task_fields(view, Fence()))
    if host == "tasks" and parts[1:] == ["output"]:
        arguments = _model(ResultArguments, task_id=parts[0], part="output", **query)
        return result_text(await operations.get_result(context, arguments), Fence()), "text/plain"
    raise UsageError("there is no such resource", hint="list the resources and templates")


def _schema(found: Sequence[View]) -> str:
    lines: list[str] = []
    for one in found:
        lines += [f"## {one.name}", "", one.means, ""]
        lines += [f"- `{column.name}` {column.type}: {column.means}" for column in one.columns]
        lines.append("")
    return "\n".join(lines)


def _split(uri: str) -> tuple[str, list[str], dict[str, str]]:
    try:
        parts = urlsplit(uri)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise UsageError("this is not a cmesh:// URI") from error
    if parts.scheme != "cmesh" or parts.fragment:
        raise UsageError("this is not a cmesh:// URI")
    return parts.netloc, [part for part in parts.path.split("/") if part], query


def _model(model: type[Any], **fields: object) -> Any:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise UsageError("a value in the URI is not valid") from error


def _changed(before: TaskView, after: TaskView) -> bool:
    return (before.state, before.last_event) != (after.state, after.last_event)


def _json(fields: dict[str, object]) -> tuple[str, str]:
    return json.dumps(fields, ensure_ascii=False, indent=1), "application/json"


def _mime_type(name: str) -> str:
    return "text/markdown" if name in ("guide", "schema", "docs") else "application/json"
