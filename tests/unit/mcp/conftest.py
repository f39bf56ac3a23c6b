"""An MCP connection as the daemon sees it: a socket pair, a client at the other end."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from cmesh.daemon.arguments import Context
from cmesh.interfaces.mcp.server import serve_mcp
from tests.fakes.operations import FakeOperations
from tests.unit.mcp.support import Wire


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
async def wire(operations: FakeOperations) -> AsyncIterator[Wire]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    server_reader, server_writer = await asyncio.open_connection(sock=theirs)
    context = Context(session="s", pid=7)
    serving = asyncio.create_task(serve_mcp(server_reader, server_writer, context, operations))
    wire = Wire(reader, writer, serving)
    yield wire
    writer.close()
    await wire.served()
    server_writer.close()
