"""The open connections of one server: none of the tailnet's nodes holds all of them."""

import asyncio
import select
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config

from cmesh.interfaces import connections as bounds
from cmesh.interfaces.connections import NODE_MOST, Connections

pytestmark = pytest.mark.anyio

LONG = 1024 * 1024
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"


class Ground:
    """Connections, and their far ends."""

    def __init__(self, app: ASGIApp) -> None:
        config = Config(app, http="h11", ws="none", lifespan="off", log_config=None)
        config.load()
        self.connections = Connections(config)
        self.ends: list[socket.socket] = []
        self.writers: list[asyncio.StreamWriter] = []

    def take(self, node_id: str) -> socket.socket:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self.connections.take(near, node_id)
        self.ends.append(far)
        return far

    async def connect(self, node_id: str) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection(sock=self.take(node_id))
        self.writers.append(writer)
        return reader


@asynccontextmanager
async def ground(app: ASGIApp) -> AsyncGenerator[Ground]:
    made = Ground(app)
    async with asyncio.timeout(10):
        yield made
    await asyncio.gather(*made.connections.abort(), return_exceptions=True)
    for end in (*made.writers, *made.ends):
        end.close()


async def nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Answer nobody: no request comes whole."""


async def whole(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at length, once all of a request is there."""
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] != "http.disconnect":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(LONG)})


async def test_a_node_with_too_many_connections_loses_its_oldest_and_no_other_node_one():
    async with ground(nothing) as made:
        other = await made.connect("nOTHER")
        held = [await made.connect("nPHONE") for _ in range(NODE_MOST + 1)]
        assert (await held[0].readline()).startswith(b"HTTP/1.1 503 ")
        made.connections.abort()
        assert [await one.read() for one in (other, *held[1:])] == [b""] * (NODE_MOST + 1)


@pytest.mark.parametrize("sent", [POST, POST + b"a=", GET + POST + b"a="])
async def test_half_a_body_holds_no_connection(sent: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounds, "REQUEST_LIMIT_S", 0.05)
    async with ground(whole) as made:
        reader = await made.connect("nPHONE")
        made.writers[0].write(sent)
        said = await reader.read()
        assert said[-200:].count(b"HTTP/1.1 408 ") == 1


async def test_who_reads_no_answer_holds_so_many_connections():
    async with ground(whole) as made:
        for number in range(3 * NODE_MOST):
            end = made.take("nPHONE")
            end.send(GET.replace(b"Host", b"Connection: close\r\nHost") if number % 2 else GET)
            await asyncio.get_running_loop().sock_recv(end, 1)  # its answer is on its way
        assert len(made.connections._state.connections) <= NODE_MOST + 1  # pyright: ignore[reportPrivateUsage]


async def test_who_reads_no_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounds, "UNREAD_LIMIT_S", 0.05)
    async with ground(whole) as made:
        end = made.take("nPHONE")
        end.send(GET)
        gone = select.poll()
        gone.register(end, 0)  # hang-ups are told of all the same
        assert await asyncio.to_thread(gone.poll, 5000)
