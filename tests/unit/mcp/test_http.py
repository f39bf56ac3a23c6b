"""A task's endpoint over real connections: who gets past the check, and what is served behind it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cmesh.daemon.endpoints import Door
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
        fields = {"Host": HOST, "Authorization": f"Bearer {TOKEN}"} | headers
        text = json.dumps(body)
        fields |= {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Content-Length": str(len(text)),
            "Connection": "close",
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        ours, theirs = socket.socketpair()
        self.endpoint.take(theirs)
        reader, writer = await asyncio.open_connection(sock=ours)
        async with asyncio.timeout(LIMIT_S):
            writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n{text}".encode())
            answer = (await reader.read()).decode()
        writer.close()
        head, _, rest = answer.partition("\r\n\r\n")
        return int(head.split(" ")[1]), rest


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
    fields["wait_s"] = 0  # the fake's task runs on
    ids: list[str] = []
    for prompt in ("one", "two", "one"):
        arguments = {**fields, "prompt": prompt}
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
