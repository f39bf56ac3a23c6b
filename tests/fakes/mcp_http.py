"""The MCP server over streamable HTTP on loopback, for conformance tools that speak only that.

For tests alone: cmesh has no HTTP endpoint. Same registry and session as in
the daemon, plus the one resource a scenario subscribes to. Prints its URL.
"""

import asyncio
import socket
import sys
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.transport_security import TransportSecuritySettings

from cmesh.daemon.arguments import Context
from cmesh.interfaces.mcp.server import McpSession
from tests.fakes.operations import FakeOperations

__all__ = ["main"]

WATCHED = "test://watched-resource"


async def main() -> None:
    """Serve until killed."""
    session = McpSession(FakeOperations(), Context(session="http"))
    _accept_fixture(session)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        app = session.server.streamable_http_app(
            transport_security=TransportSecuritySettings(
                allowed_hosts=[f"127.0.0.1:{port}", f"localhost:{port}"],
                allowed_origins=[f"http://127.0.0.1:{port}", f"http://localhost:{port}"],
            )
        )
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        sys.stdout.write(f"http://127.0.0.1:{port}/mcp\n")
        sys.stdout.flush()
        await server.serve(sockets=[listener])


def _accept_fixture(session: McpSession) -> None:
    subscribe = session.server.get_request_handler("resources/subscribe")
    assert subscribe is not None
    real = subscribe.handler

    async def accept(
        ctx: ServerRequestContext[Any, Any], params: types.SubscribeRequestParams
    ) -> HandlerResult:
        return types.EmptyResult() if params.uri == WATCHED else await real(ctx, params)

    session.server.add_request_handler("resources/subscribe", types.SubscribeRequestParams, accept)


if __name__ == "__main__":
    asyncio.run(main())
