"""A client may say anything and die in any way: its session ends, nothing else does."""

import asyncio
import socket

import pytest

from cmesh.daemon.arguments import Context, DelegateArguments
from cmesh.interfaces.mcp.relay_wire import LINE_BYTES
from tests.fakes.operations import FIRST_TASK, FakeOperations
from tests.unit.mcp.support import Wire

pytestmark = pytest.mark.anyio


async def test_a_session_serves_its_client(wire: Wire) -> None:
    await wire.begin()
    answer = await wire.ask(1, "tools/call", {"name": "cmesh_status", "arguments": {}})
    assert answer["result"]["structuredContent"]["phase"] == "up"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{bad", -32700),
        (b"\xff\xfe", -32700),
        (b"[]", -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
    ],
)
async def test_what_is_no_message_is_refused_and_the_session_goes_on(
    wire: Wire, line: bytes, code: int
) -> None:
    await wire.begin()
    wire.writer.write(line + b"\n")
    answer = await wire.read()
    assert answer["id"] is None
    assert answer["error"]["code"] == code
    assert (await wire.ask(2, "ping", {}))["result"] == {}


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_a_line_of_twenty_megabytes_ends_the_session(wire: Wire, end: bytes) -> None:
    await wire.begin()
    wire.writer.write(b'{"x":"' + b"y" * 20_000_000 + b'"}' + end)
    answer = await wire.read()
    assert answer["error"]["code"] == -32600
    await wire.served()


async def test_a_line_just_below_the_limit_is_read(wire: Wire) -> None:
    await wire.begin()
    padding = "y" * (LINE_BYTES - 200)
    answer = await wire.ask(1, "ping", {"_meta": {"x": padding}})
    assert answer["result"] == {}


async def test_a_client_that_dies_in_a_call_ends_its_session_and_not_the_task(
    wire: Wire, operations: FakeOperations
) -> None:
    context = Context(session="s")
    task = DelegateArguments(peer="worker", prompt="why?", directory="/srv/app")
    await operations.delegate(context, task)
    await wire.begin()
    called = len(operations.calls)
    call = {"name": "get_task", "arguments": {"task_id": FIRST_TASK, "wait_s": 40}}
    wire.write({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
    while len(operations.calls) == called:
        await asyncio.sleep(0)
    connection: socket.socket = wire.writer.get_extra_info("socket")
    connection.shutdown(socket.SHUT_RDWR)
    wire.writer.transport.abort()
    await wire.served()
    assert operations.start(FIRST_TASK).state == "running"


async def test_a_daemon_that_closes_ends_the_session(wire: Wire) -> None:
    await wire.begin()
    wire.serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wire.serving
    wire.serving = asyncio.ensure_future(asyncio.sleep(0))
