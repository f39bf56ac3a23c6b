"""MCP over HTTP for one task of this worker: the SDK's server behind a check of each request.

Reached only through the task's own door, or at a loopback port for a task without one. A request
without the task's token, for another host, or from a web page gets no further than the check.
"""

import asyncio
import hmac
import json
import socket
from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn import Config

from cmesh import __version__
from cmesh.daemon.arguments import Context
from cmesh.daemon.endpoints import Door
from cmesh.daemon.operations import Operations
from cmesh.interfaces.connections import KEEP_ALIVE_S, Connections
from cmesh.interfaces.mcp.calls import ToolCalls
from cmesh.interfaces.mcp.guide import TASK_INSTRUCTIONS
from cmesh.interfaces.mcp.relay_session import derived_key
from cmesh.interfaces.mcp.render import call_text
from cmesh.interfaces.mcp.tools import TASK_TOOLS

__all__ = ["HttpEndpoint", "open_endpoint"]

REQUEST_BYTES = 1024 * 1024
HEAD_BYTES = 16 * 1024
CLOSE_LIMIT_S = 5.0


async def open_endpoint(door: Door, operations: Operations) -> "HttpEndpoint":
    """Return an endpoint that serves from now on."""
    endpoint = HttpEndpoint(door, operations)
    await endpoint.start()
    return endpoint


class HttpEndpoint:
    """Serves one task. No session is kept, so a daemon's restart costs it the open calls only."""

    def __init__(self, door: Door, operations: Operations) -> None:
        self._door = door
        calls = ToolCalls(
            operations,
            Context(session=door.task_id),
            TASK_TOOLS,
            key=self._key,
            fallback=call_text("list_tasks"),
        )
        server: Server[Any] = Server(
            "cmesh",
            version=__version__,
            title="cmesh",
            instructions=TASK_INSTRUCTIONS,
            on_list_tools=calls.list,
            on_call_tool=calls.call,
        )
        self._sdk = StreamableHTTPSessionManager(
            server, stateless=True, max_request_body_size=REQUEST_BYTES
        )
        config = Config(
            self._serve,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(KEEP_ALIVE_S),
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        self._connections = Connections(config)
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Let the SDK's server run until `close`."""
        ready = asyncio.Event()
        self._running = asyncio.create_task(self._run(ready))
        await ready.wait()

    def take(self, connection: socket.socket) -> None:
        """Serve a connection, which is owned here from then on; one of too many is refused."""
        self._connections.take(connection)

    async def close(self) -> None:
        """End every connection and every call; no task is ended by it."""
        self._stop.set()
        pending = {*self._connections.abort(), *([self._running] if self._running else ())}
        if pending:
            await asyncio.wait(pending, timeout=CLOSE_LIMIT_S)

    async def _run(self, ready: asyncio.Event) -> None:
        # The SDK's task group must be left by the task that entered it.
        async with self._sdk.run():
            ready.set()
            await self._stop.wait()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refused = self._refusal(scope)
        if refused is None:
            scope["state"]["connection"].proven = True
            await self._sdk.handle_request(scope, receive, send)
            return
        status, code, why = refused
        await self._door.refused(code)
        headers = {"Connection": "close"}
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="cmesh"'
        answer = PlainTextResponse(f"cmesh: {why}\n", status_code=status, headers=headers)
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        """Return status, word and reason why a request gets no further; None = it may."""
        headers = Headers(scope=scope)
        hosts, tokens = headers.getlist("host"), headers.getlist("authorization")
        # INVARIANT: a page in a browser sends its Origin, and a name that was bound anew its own
        # Host, whatever token they may have got hold of.
        if len(hosts) != 1 or hosts[0].lower() not in self._door.hosts:
            return 421, "wrong_host", "this is no server of that name"
        if "origin" in headers:
            return 403, "has_origin", "no web page may ask here"
        if not tokens:
            return 401, "no_token", "the task's token is missing"
        scheme, _, token = tokens[0].partition(" ")
        same = hmac.compare_digest(token.strip().encode(), self._door.token.encode())
        if len(tokens) > 1 or scheme.lower() != "bearer" or not same:
            return 401, "wrong_token", "that is not the token of this task"
        if scope["path"] != self._door.path:
            return 404, "no_such_path", "there is nothing at this path"
        return None

    def _key(self, params: Any, request_id: object) -> str:
        # A small program numbers each of its requests 1: then what it asks tells them apart.
        asked = json.dumps(params.get("arguments"), sort_keys=True)
        return derived_key(self._door.task_id, 0, dict(params), [request_id, asked])
