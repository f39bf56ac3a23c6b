"""The MCP server inside the daemon: one session of the SDK per relay's connection.

It translates between MCP and `Operations`. A client that dies, floods or lies
ends its own connection and nothing else; a call that is cancelled or late
never ends a task.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from cmesh import __version__
from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import Context, TaskArguments
from cmesh.daemon.operations import Operations
from cmesh.errors import CmeshError, DaemonTimeout, TaskNotFound, UsageError
from cmesh.interfaces.mcp import prompts, resources
from cmesh.interfaces.mcp.calls import CALL_LIMIT_S, Request, ToolCalls, internal
from cmesh.interfaces.mcp.guide import INSTRUCTIONS
from cmesh.interfaces.mcp.relay_session import derived_key
from cmesh.interfaces.mcp.render import call_text
from cmesh.interfaces.mcp.tools import TOOLS
from cmesh.interfaces.mcp.transport import serve_streams
from cmesh.text import one_line

__all__ = ["CALL_LIMIT_S", "McpSession", "serve_mcp"]

SUBSCRIPTIONS = 64

T = TypeVar("T")
_logger = logging.getLogger(__name__)


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
        calls = ToolCalls(
            operations, context, TOOLS, key=self._key, fallback=call_text("cmesh_status")
        )
        self.server: Server[Any] = Server(
            "cmesh",
            version=__version__,
            title="cmesh",
            instructions=INSTRUCTIONS,
            on_list_tools=calls.list,
            on_call_tool=calls.call,
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

    def _key(self, params: Mapping[str, Any], request_id: object) -> str:
        return derived_key(self._context.session, self._context.pid, dict(params), request_id)

    async def _list_resources(self, _ctx: Request, _params: object) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=resources.resources())

    async def _list_templates(
        self, _ctx: Request, _params: object
    ) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=resources.templates())

    async def _read_resource(
        self, _ctx: Request, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        contents = await _answer(resources.read(params.uri, self._operations, self._context))
        return types.ReadResourceResult(contents=[*contents])

    async def _subscribe(
        self, ctx: Request, params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        session = ctx.session
        uri = params.uri

        async def updated() -> None:
            await session.send_resource_updated(uri)

        await _answer(self._watch("", uri, updated))
        return types.EmptyResult()

    async def _unsubscribe(
        self, _ctx: Request, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        self._unwatch("", params.uri)
        return types.EmptyResult()

    async def _listen(
        self, ctx: Request, params: types.SubscriptionsListenRequestParams
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

    async def _list_prompts(self, _ctx: Request, _params: object) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=prompts.listed())

    async def _get_prompt(
        self, _ctx: Request, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        try:
            return prompts.get(params.name, params.arguments or {})
        except CmeshError as error:
            raise _protocol_error(error) from error

    async def _complete(
        self, _ctx: Request, params: types.CompleteRequestParams
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
        raise _protocol_error(internal(reference)) from error


def _protocol_error(error: CmeshError) -> MCPError:
    ours = isinstance(error, UsageError | TaskNotFound)
    code = types.INVALID_PARAMS if ours else types.INTERNAL_ERROR
    return MCPError(code=code, message=f"{error.code}: {one_line(error.message, 1_500)}")
