"""Calls of tools: each answers within its limit, and every failure is an answer with a next step.

Shared by an agent's session and by a task's endpoint, which has fewer tools.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, cast

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from pydantic import ValidationError

from cmesh.daemon.arguments import Context
from cmesh.daemon.operations import Operations
from cmesh.errors import CmeshError, DaemonTimeout, QueryRefused, UsageError
from cmesh.interfaces.mcp.form import Form
from cmesh.interfaces.mcp.handlers import Call
from cmesh.interfaces.mcp.render import call_text, error_result
from cmesh.interfaces.mcp.tools import Tool, listed
from cmesh.interfaces.usage import usage_error
from cmesh.protocol.trace import trace_id

__all__ = ["CALL_LIMIT_S", "Request", "ToolCalls", "internal"]

CALL_LIMIT_S = 45.0
"""Every call answers within this; clients give up after 60 s or more."""

PROGRESS_S = 5.0

T = TypeVar("T")
Request = ServerRequestContext[Any, Any]
_logger = logging.getLogger(__name__)

# Next steps a model can take itself; every other code keeps its own hint.
_NEXT_CALLS = {
    "unknown_peer": call_text("list_peers"),
    "no_peer_matches": call_text("list_peers"),
    "task_not_found": call_text("list_tasks"),
    "peer_unreachable": call_text("list_peers"),
    "query_failed": call_text(
        "query", sql="SELECT table_name, column_name, data_type FROM information_schema.columns"
    ),
}


class ToolCalls:
    """The tools of one client."""

    def __init__(
        self,
        operations: Operations,
        context: Context,
        tools: Mapping[str, Tool],
        *,
        key: Callable[[Mapping[str, Any], object], str],
        fallback: str,
    ) -> None:
        """Serve `tools` out of `operations` for `context`.

        `key` gives the idempotency key of a request, by its parameters and its id; `fallback` is
        the next call when nothing better is known, one of the tools.
        """
        self._operations = operations
        self._context = context
        self._tools = tools
        self._key = key
        self._fallback = fallback

    async def list(self, _ctx: Request, _params: object) -> types.ListToolsResult:
        """Return the tools."""
        return types.ListToolsResult(tools=listed(self._tools.values()))

    async def call(
        self, ctx: Request, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        """Call one; never raises but for cancellation."""
        tool = self._tools.get(params.name)
        arguments = params.arguments or {}
        try:
            if tool is None:
                raise UsageError(f"there is no such tool; there are {', '.join(self._tools)}")
            call = Call(
                operations=self._operations,
                context=_traced(self._context, dict(ctx.params or {})),
                arguments=arguments,
                key=self._key(dict(ctx.params or {}), ctx.request_id),
                fallback=self._fallback,
                form=Form(ctx, params),
            )
            with anyio.fail_after(CALL_LIMIT_S):
                return await _with_progress(ctx, tool.run(call))
        except ValidationError as error:
            allowed = ", ".join(tool.arguments.model_fields) if tool else ""
            wrong = usage_error(error)
            step = "" if wrong.hint == wrong.default_hint else f"{wrong.hint}; "
            again = f"{step}call again; it takes: {allowed or 'none'}"
            return error_result(wrong, again)
        except TimeoutError:
            late = DaemonTimeout(f"no answer within {CALL_LIMIT_S:.0f} s; tasks are unaffected")
            return error_result(late, call_text("list_tasks", state="open"))
        except CmeshError as error:
            return error_result(error, _next_call(error, self._fallback))
        except Exception:
            # The model gets a reference, never a traceback.
            reference = secrets.token_hex(4)
            data = {"tool": params.name, "ref": reference}
            _logger.exception("mcp_call_failed", extra={"data": data})
            return error_result(internal(reference), self._fallback)


def _traced(context: Context, params: Mapping[str, Any]) -> Context:
    """Return the context of one call, in its client's trace where that gave one that counts."""
    meta = params.get("_meta")
    header = cast("Mapping[str, object]", meta).get("traceparent") if meta else None
    if not isinstance(header, str) or not trace_id(header):
        return context
    return context.model_copy(update={"traceparent": header})


def internal(reference: str) -> CmeshError:
    """Return what is told of a failure that only the log explains."""
    return CmeshError(f"unexpected failure; the daemon's log has it as {reference}")


async def _with_progress(ctx: Request, work: Awaitable[T]) -> T:
    """Return what `work` returns, reporting progress while it takes its time.

    Cancelling this cancels `work`, which leaves the task it waits for alone.
    """
    task = asyncio.ensure_future(work)
    waited_s = 0.0
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=PROGRESS_S)
            if not task.done():
                waited_s += PROGRESS_S
                await ctx.session.report_progress(waited_s, message=f"waiting, {waited_s:.0f} s")
        return task.result()
    finally:
        task.cancel()


def _next_call(error: CmeshError, fallback: str) -> str:
    if error.hint and error.hint != error.default_hint and not isinstance(error, QueryRefused):
        return error.hint
    return _NEXT_CALLS.get(error.code) or error.hint or fallback
