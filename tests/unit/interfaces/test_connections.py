"""The open connections of one server: none of the tailnet's nodes holds all of them."""

import asyncio
import socket

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn import Config

from cmesh.interfaces.connections import NODE_MOST, Connections

pytestmark = pytest.mark.anyio


async def nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Answer nobody: no request comes whole."""


async def test_a_node_with_too_many_connections_loses_its_oldest_and_no_other_node_one():
    config = Config(nothing, http="h11", ws="none", lifespan="off", log_config=None)
    config.load()
    connections = Connections(config)
    writers: list[asyncio.StreamWriter] = []

    async def connect(node_id: str) -> asyncio.StreamReader:
        near, far = socket.socketpair()
        near.setblocking(False)
        connections.take(near, node_id)
        reader, writer = await asyncio.open_connection(sock=far)
        writers.append(writer)
        return reader

    other = await connect("nOTHER")
    held = [await connect("nPHONE") for _ in range(NODE_MOST + 1)]
    async with asyncio.timeout(10):
        assert (await held[0].readline()).startswith(b"HTTP/1.1 503 ")
    connections.abort()
    async with asyncio.timeout(10):
        assert [await one.read() for one in (other, *held[1:])] == [b""] * (NODE_MOST + 1)
    for writer in writers:
        writer.close()
