"""The MCP server inside the daemon: one session of the SDK per relay's connection.

It translates between MCP and `Operations`. A client that dies, floods or lies
ends its own connection and nothing else; a call that is cancelled or late
never ends a task.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from cmesh import __version__
from cmesh.daemon.operations import Context, Operations, TaskArguments, TaskView
from cmesh.errors import CmeshError, DaemonTimeout, QueryRefused, TaskNotFound, UsageError
from cmesh.interfaces.mcp import prompts, resources
from cmesh.interfaces.mcp.guide import INSTRUCTIONS
from cmesh.interfaces.mcp.relay_session import derived_key
from cmesh.interfaces.mcp.render import call_text, error_result
from cmesh.interfaces.mcp.tools import TOOLS, Call, listed
from cmesh.interfaces.mcp.transport import serve_streams

__all__ = ["CALL_LIMIT_S", "McpSession", "serve_mcp"]

CALL_LIMIT_S = 45.0
"""Every call answers within this; clients give up after 60 s or more."""

PROGRESS_S = 5.0
SUBSCRIPTIONS = 64

T = TypeVar("T")
_Request = ServerRequestContext[Any, Any]
_logger = logging.getLogger(__name__)

# Next steps a model can take itself; every other code keeps its own hint.
_NEXT_CALLS = {
    "unknown_peer": call_text("list_peers"),
    "task_not_found": call_text("list_tasks"),
    "peer_unreachable": call_text("list_peers"),
    "query_failed": call_text(
        "query", sql="SELECT table_name, column_name, data_type FROM information_schema.columns"
    ),
}


async def serve_mcp(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    context: Context,
    operations: Operations,
) -> None:
    """Serve one relay until it goes away; the caller closes the connection.

    Never raises but for cancellation; ends every watch it started.
    """
    session = McpSession(operations, context)
    try:
        await serve_streams(reader, writer, session.server)
    finally:
        session.close()


class McpSession:
    """One client: its SDK server and its subscriptions.

    Attributes:
        server: serves both protocol eras over any pair of message streams.
    """

    def __init__(self, operations: Operations, context: Context) -> None:
        self._operations = operations
        self._context = context
        self._watches: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.server: Server[Any] = Server(
            "cmesh",
            version=__version__,
            title="cmesh",
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_subscribe_resource=self._subscribe,
            on_unsubscribe_resource=self._unsubscribe,
            on_subscriptions_listen=self._listen,
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
            on_completion=self._complete,
        )

    def close(self) -> None:
        """End every watch."""
        for task in self._watches.values():
            task.cancel()
        self._watches.clear()

    async def _list_tools(self, _ctx: _Request, _params: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=listed())

    async def _call_tool(
        self, ctx: _Request, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        tool = TOOLS.get(params.name)
        arguments = params.arguments or {}
        try:
            if tool is None:
                raise UsageError(f"there is no such tool; there are {', '.join(TOOLS)}")
            key = derived_key(
                self._context.session, self._context.pid, dict(ctx.params or {}), ctx.request_id
            )
            call = Call(
                operations=self._operations, context=self._context, arguments=arguments, key=key
            )
            with anyio.fail_after(CALL_LIMIT_S):
                return await _with_progress(ctx, tool.run(call))
        except ValidationError as error:
            allowed = ", ".join(tool.arguments.model_fields) if tool else ""
            return error_result(_bad_arguments(error), f"call again; it takes: {allowed or 'none'}")
        except TimeoutError:
            late = DaemonTimeout(f"no answer within {CALL_LIMIT_S:.0f} s; tasks are unaffected")
            return error_result(late, call_text("list_tasks", state="open"))
        except CmeshError as error:
            return error_result(error, _next_call(error))
        except Exception:
            # The model gets a reference, never a traceback.
            reference = secrets.token_hex(4)
            data = {"tool": params.name, "ref": reference}
            _logger.exception("mcp_call_failed", extra={"data": data})
            return error_result(_internal(reference), call_text("cmesh_status"))

    async def _list_resources(self, _ctx: _Request, _params: object) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=resources.resources())

    async def _list_templates(
        self, _ctx: _Request, _params: object
    ) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=resources.templates())

    async def _read_resource(
        self, _ctx: _Request, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        contents = await _answer(resources.read(params.uri, self._operations, self._context))
        return types.ReadResourceResult(contents=[*contents])

    async def _subscribe(
        self, ctx: _Request, params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        session = ctx.session
        uri = params.uri

        async def updated() -> None:
            await session.send_resource_updated(uri)

        await _answer(self._watch("", uri, updated))
        return types.EmptyResult()

    async def _unsubscribe(
        self, _ctx: _Request, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        self._unwatch("", params.uri)
        return types.EmptyResult()

    async def _listen(
        self, ctx: _Request, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Serve a modern subscription stream; it honours what can be watched."""
        owner = f"listen:{ctx.request_id!r}"
        bus = InMemorySubscriptionBus()
        uris = params.notifications.resource_subscriptions or ()
        try:
            honoured = [uri for uri in uris if await self._try_watch(owner, uri, bus)]
            wanted = params.notifications.model_copy(update={"resource_subscriptions": honoured})
            return await ListenHandler(bus)(
                ctx, params.model_copy(update={"notifications": wanted})
            )
        finally:
            for uri in uris:
                self._unwatch(owner, uri)

    async def _list_prompts(self, _ctx: _Request, _params: object) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=prompts.listed())

    async def _get_prompt(
        self, _ctx: _Request, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        try:
            return prompts.get(params.name, params.arguments or {})
        except CmeshError as error:
            raise _protocol_error(error) from error

    async def _complete(
        self, _ctx: _Request, params: types.CompleteRequestParams
    ) -> types.CompleteResult:
        argument = params.argument
        values = await _answer(
            resources.complete(argument.name, argument.value, self._operations, self._context)
        )
        return types.CompleteResult(completion=types.Completion(values=values, total=len(values)))

    async def _try_watch(self, owner: str, uri: str, bus: InMemorySubscriptionBus) -> bool:
        async def updated() -> None:
            await bus.publish(ResourceUpdated(uri=uri))

        try:
            await self._watch(owner, uri, updated)
        except CmeshError:
            return False
        return True

    async def _watch(self, owner: str, uri: str, updated: Callable[[], Awaitable[None]]) -> None:
        task_id = resources.task_of(uri)
        if len(self._watches) >= SUBSCRIPTIONS:
            raise UsageError(f"this session already has {SUBSCRIPTIONS} subscriptions")
        try:
            arguments = TaskArguments(task_id=task_id, events=0)
        except ValidationError as error:
            raise TaskNotFound("no task has this id") from error
        # Read before the subscription is confirmed: what changes from here on is news.
        seen = await self._operations.get_task(self._context, arguments)
        self._unwatch(owner, uri)
        self._watches[owner, uri] = asyncio.create_task(self._keep_watch(seen, updated))

    async def _keep_watch(self, seen: TaskView, updated: Callable[[], Awaitable[None]]) -> None:
        try:
            await resources.watch(seen, self._operations, self._context, updated)
        except (CmeshError, MCPError, anyio.BrokenResourceError, anyio.ClosedResourceError) as gone:
            _logger.info("mcp_watch_ended", extra={"data": {"why": type(gone).__name__}})
        except Exception:
            _logger.exception("mcp_watch_failed")

    def _unwatch(self, owner: str, uri: str) -> None:
        task = self._watches.pop((owner, uri), None)
        if task is not None:
            task.cancel()


async def _with_progress(ctx: _Request, work: Awaitable[T]) -> T:
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


async def _answer(work: Awaitable[T]) -> T:
    """Return what `work` returns; errors become JSON-RPC errors, for requests that are no tools."""
    try:
        with anyio.fail_after(CALL_LIMIT_S):
            return await work
    except TimeoutError as error:
        raise _protocol_error(DaemonTimeout("the daemon did not answer in time")) from error
    except CmeshError as error:
        raise _protocol_error(error) from error
    except Exception as error:
        reference = secrets.token_hex(4)
        _logger.exception("mcp_request_failed", extra={"data": {"ref": reference}})
        raise _protocol_error(_internal(reference)) from error


def _protocol_error(error: CmeshError) -> MCPError:
    ours = isinstance(error, UsageError | TaskNotFound)
    code = types.INVALID_PARAMS if ours else types.INTERNAL_ERROR
    return MCPError(code=code, message=f"{error.code}: {error.message}")


def _next_call(error: CmeshError) -> str:
    if error.hint and error.hint != error.default_hint and not isinstance(error, QueryRefused):
        return error.hint
    return _NEXT_CALLS.get(error.code) or error.hint or call_text("cmesh_status")


def _bad_arguments(error: ValidationError) -> UsageError:
    """Say what is wrong without the rejected value, which may be a secret."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    said = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems[:5]]
    return UsageError("; ".join(said))


def _internal(reference: str) -> CmeshError:
    return CmeshError(f"unexpected failure; the daemon's log has it as {reference}")
