"""What each tool does: ask the daemon, and show its answer with the next call.

Policy is the daemon's; nothing here decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import mcp_types as types

from cmesh.daemon.answers import PeersView, SqlView, StatusView, TaskView
from cmesh.daemon.arguments import (
    Arguments,
    CancelArguments,
    CancelGroupArguments,
    CheckPatchArguments,
    Context,
    DelegateArguments,
    FanOutArguments,
    GroupArguments,
    NoArguments,
    ReplyArguments,
    ResultArguments,
    SqlArguments,
    TaskArguments,
    TasksArguments,
)
from cmesh.daemon.operations import Operations
from cmesh.errors import TaskConflict, TaskUnfinished, UsageError
from cmesh.interfaces.mcp.arguments import (
    DEFAULT_WAIT_S,
    Cancel,
    CheckPatch,
    Delegate,
    GetResult,
    GetTask,
    ListTasks,
    Query,
    Reply,
    is_group,
)
from cmesh.interfaces.mcp.fence import Fence, plain
from cmesh.interfaces.mcp.form import Form
from cmesh.interfaces.mcp.group_page import group_result, group_text
from cmesh.interfaces.mcp.patch_page import check_fields, check_next
from cmesh.interfaces.mcp.render import (
    call_text,
    peer_fields,
    result,
    rows_result,
    sql_fields,
    status_fields,
    task_fields,
    task_next,
)
from cmesh.interfaces.mcp.result_page import result_text
from cmesh.model import ENDED, TERMINAL, Direction, TaskState

__all__ = [
    "Call",
    "cancel_task",
    "check_patch",
    "delegate",
    "get_result",
    "get_task",
    "list_peers",
    "list_tasks",
    "query",
    "reply_task",
    "status",
]

PEERS_SHOWN = 50
PEERS_WHOLE = 8
"""More peers than these are shown without the versions of their tools, so that they fit."""

SQL_SHOWN = 500

# Below the 45 s within which every call answers: the answer itself takes time too.
LONGEST_WAIT_S = 43.0

_A = TypeVar("_A", bound=Arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a tool.

    Attributes:
        arguments: as the client sent them.
        key: idempotency key for a `delegate` that names none.
        fallback: the next call when nothing better is known.
        form: what the client's user may be asked by; None = by nothing.
    """

    operations: Operations
    context: Context
    arguments: Mapping[str, object]
    key: str
    fallback: str = call_text("cmesh_status")
    form: Form | None = None

    def read(self, model: type[_A]) -> _A:
        """Return the arguments as `model`; raises pydantic's ValidationError."""
        return model.model_validate(dict(self.arguments))


async def list_peers(call: Call) -> types.CallToolResult:
    """Show the peers, as many as fit."""
    call.read(NoArguments)
    view = await call.operations.list_peers(call.context, NoArguments())
    mark = Fence()
    peers = sorted(view.peers, key=lambda p: (p.link != "connected", not p.online, p.name))
    brief = len(peers) > PEERS_WHOLE
    rows = [peer_fields(peer, mark, brief=brief) for peer in peers[:PEERS_SHOWN]]
    return rows_result(
        "peers",
        rows,
        more=len(peers) > PEERS_SHOWN,
        next_call=lambda _shown: _peers_next(view, call.fallback),
    )


async def delegate(call: Call) -> types.CallToolResult:
    """Hand a task out, under the key of its own request when it names none."""
    given = call.read(Delegate)
    fields = given.model_dump(exclude={"peers", "all"}) | {
        "idempotency_key": given.idempotency_key or call.key,
        "wait_s": min(given.wait_s, LONGEST_WAIT_S),
    }
    if given.peers or given.all:
        several = FanOutArguments.model_validate(fields | {"peers": given.peers})
        return group_result(await call.operations.fan_out(call.context, several))
    arguments = DelegateArguments.model_validate(fields)
    return _task(await call.operations.delegate(call.context, arguments))


async def reply_task(call: Call) -> types.CallToolResult:
    """Ask for another turn of a task."""
    given = call.read(Reply)
    fields = given.model_dump() | {
        "idempotency_key": given.idempotency_key or call.key,
        "wait_s": min(given.wait_s, LONGEST_WAIT_S),
    }
    try:
        view = await call.operations.reply_task(call.context, ReplyArguments.model_validate(fields))
    except TaskUnfinished as error:
        waiting = call_text("get_task", task_id=given.task_id, wait_s=DEFAULT_WAIT_S)
        raise TaskUnfinished(error.message, hint=waiting) from error
    except TaskConflict as error:
        arguments = TaskArguments(task_id=given.task_id, events=0)
        view = await call.operations.get_task(call.context, arguments)
        last = view.followed_by or view.task_id
        raise TaskConflict(error.message, hint=call_text("get_task", task_id=last)) from error
    return _task(view)


async def get_task(call: Call) -> types.CallToolResult:
    """Show a task and its new events."""
    given = call.read(GetTask)
    if is_group(given.task_id):
        wait_s = min(given.wait_s, LONGEST_WAIT_S)
        several = GroupArguments(group=given.task_id, wait_s=wait_s)
        return group_result(await call.operations.get_group(call.context, several))
    fields = given.model_dump() | {"wait_s": min(given.wait_s, LONGEST_WAIT_S)}
    arguments = TaskArguments.model_validate(fields)
    return _task(await call.operations.get_task(call.context, arguments))


async def get_result(call: Call) -> types.CallToolResult:
    """Show a slice of a result."""
    given = call.read(GetResult)
    if is_group(given.task_id):
        several = GroupArguments(group=given.task_id)
        text = group_text(await call.operations.get_group(call.context, several))
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])
    arguments = ResultArguments.model_validate(given.model_dump())
    view = await call.operations.get_result(call.context, arguments)
    text = result_text(view, Fence())
    # INVARIANT: no structured content; clients would show the model only that.
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


async def check_patch(call: Call) -> types.CallToolResult:
    """Say whether a patch would apply in the project."""
    arguments = CheckPatchArguments.model_validate(call.read(CheckPatch).model_dump())
    view = await call.operations.check_patch(call.context, arguments)
    return result(check_fields(view, Fence()), check_next(view))


async def list_tasks(call: Call) -> types.CallToolResult:
    """Show tasks, as many as fit."""
    arguments = TasksArguments.model_validate(call.read(ListTasks).model_dump())
    view = await call.operations.list_tasks(call.context, arguments)
    mark = Fence()
    rows = [task_fields(task, mark, brief=True) for task in view.tasks]

    def next_call(_shown: int) -> str:
        for task in view.tasks:
            theirs = task.direction is Direction.IN and task.state in ENDED
            if task.state not in {*TERMINAL, TaskState.UNKNOWN} and not theirs:
                return task_next(task, task.last_event)
        return task_next(view.tasks[0], 0) if view.tasks else call_text("list_peers")

    return rows_result("tasks", rows, more=view.more, next_call=next_call)


async def cancel_task(call: Call) -> types.CallToolResult:
    """Ask for the end of a task."""
    given = call.read(Cancel)
    if is_group(given.task_id):
        several = CancelGroupArguments(group=given.task_id, reason=given.reason)
        return group_result(await call.operations.cancel_group(call.context, several))
    arguments = CancelArguments.model_validate(given.model_dump())
    return _task(await call.operations.cancel_task(call.context, arguments))


async def query(call: Call) -> types.CallToolResult:
    """Run one SELECT over the audit views."""
    given = call.read(Query)
    if given.named and given.parameters:
        raise UsageError("`parameters` and `named` together", hint="use `?` or `$name`, not both")
    fields: dict[str, object] = given.model_dump(exclude={"named"})
    if given.named:
        fields["parameters"] = given.named
    arguments = SqlArguments.model_validate(fields)
    view = await call.operations.sql(call.context, arguments)
    fields, truncated = sql_fields(view, Fence())
    if view.nodes:
        return result(fields, _fleet_next(view, given))
    schema = "SELECT table_name, column_name, data_type FROM information_schema.columns"
    return result(fields, call_text("query", sql=_page(given, fields) if truncated else schema))


async def status(call: Call) -> types.CallToolResult:
    """Say what this node is and does."""
    call.read(NoArguments)
    view = await call.operations.status(call.context, NoArguments())
    return result(status_fields(view), _status_next(view))


def _fleet_next(view: SqlView, given: Query) -> str:
    """Return the call that helps on: who may be asked where some did not answer, else the schema."""
    if any(node.state != "answered" for node in view.nodes):
        return call_text("list_peers")
    schema = "SELECT table_name, column_name, data_type FROM information_schema.columns"
    return call_text("query", sql=schema, limit=given.limit)


def _page(given: Query, fields: Mapping[str, object]) -> str:
    """Return SQL for the rows that follow; only shown, never run from here."""
    shown = fields["row_count"]
    inner = given.sql.strip().rstrip(";") if len(given.sql) <= SQL_SHOWN else "your query"
    return f"SELECT * FROM ({inner}) LIMIT {shown} OFFSET {shown}"  # noqa: S608 - shown, not run


def _task(view: TaskView) -> types.CallToolResult:
    fields = task_fields(view, Fence())
    return result(fields, task_next(view, cast("int", fields.get("last_event", 0))))


def _peers_next(view: PeersView, fallback: str) -> str:
    for peer in view.peers:
        if peer.link == "connected" and peer.may_ask and peer.runners and peer.paths:
            return call_text(
                "delegate",
                peer=plain(peer.name),
                prompt="…",
                directory=plain(peer.paths[0]),
                runner=plain(peer.runners[0]),
                profile=plain(peer.may_ask[0]),
            )
    return fallback


def _status_next(view: StatusView) -> str:
    if view.phase == "login":
        return "ask the user to run `cmesh login` in a terminal"
    if view.phase == "setup":
        return call_text("setup_check")
    if view.phase in ("down", "failed") and view.problems:
        return view.problems[0].next
    return call_text("cmesh_status" if view.phase == "starting" else "list_peers")
