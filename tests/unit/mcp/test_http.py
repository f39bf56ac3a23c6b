"""A task's endpoint over real connections: who gets past the check, and what is served behind it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from cmesh.daemon.endpoints import Door
from cmesh.interfaces import connections
from cmesh.interfaces.mcp.http import HttpEndpoint, open_endpoint
from cmesh.interfaces.mcp.tools import TASK_TOOLS
from cmesh.model import TaskId
from tests.fakes.operations import FakeOperations

pytestmark = pytest.mark.anyio

LIMIT_S = 30.0
PATH, TOKEN, HOST = "/cmesh/mcp", "token-of-this-task", "localhost:8119"


class World:
    def __init__(self) -> None:
        self.refused: list[str] = []
        self.endpoint: HttpEndpoint

    async def note(self, code: str) -> None:
        self.refused.append(code)

    async def ask(
        self, body: object, *, path: str = PATH, method: str = "POST", **headers: str
    ) -> tuple[int, str]:
        """Return status and body of one request on a connection of its own."""
        reader, writer = await self.connect()
        async with asyncio.timeout(LIMIT_S):
            writer.write(written(body, path, method, {"Connection": "close"} | headers))
            answer = (await reader.read()).decode()
        writer.close()
        head, _, rest = answer.partition("\r\n\r\n")
        return int(head.split(" ")[1]), rest

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        self.endpoint.take(theirs)
        return await asyncio.open_connection(sock=ours)


def written(body: object, path: str, method: str, headers: Mapping[str, str]) -> bytes:
    text = json.dumps(body)
    fields = {
        "Host": HOST,
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Content-Length": str(len(text)),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n{text}".encode()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    door = Door(
        task_id=TaskId("00000000-0000-7000-8000-000000000001"),
        path=PATH,
        hosts=frozenset({HOST, "127.0.0.1:8119"}),
        token=TOKEN,
        refused=made.note,
    )
    made.endpoint = await open_endpoint(door, FakeOperations())
    yield made
    await made.endpoint.close()


def request(method: str, **params: Any) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def test_a_task_lists_and_calls_its_tools_and_no_other(world: World) -> None:
    status, text = await world.ask(request("tools/list"))
    assert status == 200, text
    assert {f'"name":"{name}"' in text for name in TASK_TOOLS} == {True}
    assert "cmesh_status" not in text
    status, text = await world.ask(request("tools/call", name="list_peers", arguments={}))
    assert (status, "worker" in text) == (200, True)
    for name in ("cmesh_status", "query", "reply_task"):
        _status, text = await world.ask(request("tools/call", name=name, arguments={}))
        assert "there is no such tool" in text
    assert world.refused == []


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"Authorization": ""}, 401, "no_token"),
        ({"Authorization": "Bearer "}, 401, "wrong_token"),
        ({"Authorization": "Bearer token-of-another"}, 401, "wrong_token"),
        ({"Authorization": f"Basic {TOKEN}"}, 401, "wrong_token"),
        ({"Host": "evil.example.com"}, 421, "wrong_host"),
        ({"Host": "localhost"}, 421, "wrong_host"),
        ({"Host": "localhost:81"}, 421, "wrong_host"),
        ({"Origin": "http://localhost:8119"}, 403, "has_origin"),
        ({"Origin": "null"}, 403, "has_origin"),
        ({"path": f"{PATH}/more"}, 404, "no_such_path"),
    ],
)
async def test_a_request_that_does_not_show_whose_it_is_gets_no_further(
    world: World, change: dict[str, str], status: int, code: str
) -> None:
    got, text = await world.ask(request("tools/list"), **change)
    assert got == status
    assert "tools" not in text
    assert TOKEN not in text
    assert world.refused == [code]


async def test_a_small_program_that_numbers_each_request_1_asks_for_two_tasks(
    world: World,
) -> None:
    fields = {"peer": "worker", "directory": "/srv/app", "runner": "claude", "profile": "query"}
    ids: list[str] = []
    for prompt in ("one", "two", "one"):
        # The fake's task runs on: nothing to wait for.
        arguments = {**fields, "prompt": prompt, "wait_s": 0}
        _status, text = await world.ask(request("tools/call", name="delegate", arguments=arguments))
        data = next(line for line in text.splitlines() if line.startswith("data: "))
        ids.append(json.loads(data[6:])["result"]["structuredContent"]["task_id"])
    assert ids[0] != ids[1]
    assert ids[2] == ids[0]


async def test_a_closed_endpoint_ends_a_call_that_waits(world: World) -> None:
    ours, theirs = socket.socketpair()
    world.endpoint.take(theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\n".encode())
    await writer.drain()
    await world.endpoint.close()
    async with asyncio.timeout(LIMIT_S):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


async def test_idle_connections_have_so_many_places_and_who_asks_is_served(world: World) -> None:
    asked = written(request("tools/list"), PATH, "POST", {})
    reader, writer = await world.connect()
    writer.write(asked)
    async with asyncio.timeout(LIMIT_S):
        assert (await reader.readline()).split()[1] == b"200"
        await reader.readuntil(b"\r\n0\r\n\r\n")
    most = connections.CONNECTIONS_MOST
    idle = [await world.connect() for _ in range(3 * most)]
    status, _text = await world.ask(request("tools/list"))
    assert status == 200
    async with asyncio.timeout(LIMIT_S):
        # The oldest went, each with a word; the last ones are still there.
        gone = [await one.read() for one, _writer in idle[: 2 * most + 2]]
        assert {answer.partition(b"\r\n")[0] for answer in gone} == {
            b"HTTP/1.1 503 Service Unavailable"
        }
        _one, last = idle[-1]
        last.write(asked)
        assert (await idle[-1][0].readline()).split()[1] == b"200"
        # Who has shown the token is not ended for others.
        writer.write(asked)
        assert (await reader.readline()).split()[1] == b"200"
    for _one, other in (*idle, (reader, writer)):
        other.close()


@pytest.mark.parametrize("sent", [b"", b"POST /cmesh/mcp HTTP/1.1\r\nHost: lo"])
async def test_a_connection_that_does_not_ask_in_time_is_closed(
    world: World, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_LIMIT_S", 0.05)
    reader, writer = await world.connect()
    writer.write(sent)
    async with asyncio.timeout(LIMIT_S):
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_who_was_refused_is_closed_however_much_it_goes_on_sending(world: World) -> None:
    reader, writer = await world.connect()
    writer.write(written("", PATH, "POST", {"Authorization": "", "Content-Length": "100"}))
    async with asyncio.timeout(LIMIT_S):
        assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
    writer.close()
