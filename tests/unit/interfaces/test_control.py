"""The control server against raw lines: who is let in, what is answered, what a cancel does."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import stat
from pathlib import Path
from typing import Any, Self

import pytest

from cmesh import __version__
from cmesh.daemon.answers import StatusView
from cmesh.daemon.arguments import Context, NoArguments
from cmesh.errors import DiskFull
from cmesh.interfaces import control, control_calls
from cmesh.interfaces.control import RESTART_GRACE_S, ControlServer
from cmesh.interfaces.control_calls import CALLS
from cmesh.interfaces.unixsocket import Credentials, peer_credentials
from cmesh.interfaces.wire import OPERATIONS, REQUEST_BYTES
from tests.fakes.operations import FIRST_TASK, GROUP, FakeOperations

pytestmark = pytest.mark.anyio

LIMIT_S = 5.0
HELLO = {"v": 1, "kind": "cli", "session": "s1", "cwd": "/home/me/app", "agent": "test 1"}
TASK: dict[str, object] = {"peer": "worker", "prompt": "look", "directory": "/srv/app"}


class Raw:
    """A client that sends what it is told, right or wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_unix_connection(str(self._path), limit=2**24)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.writer.close()

    async def send(self, message: Any) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")
        await self.writer.drain()

    async def line(self) -> Any:
        """Return the next line; None when the server closed, also over what we sent."""
        async with asyncio.timeout(LIMIT_S):
            try:
                line = await self.reader.readline()
            except ConnectionResetError:
                return None
        return json.loads(line) if line else None

    async def hello(self, **fields: object) -> Any:
        await self.send(HELLO | fields)
        return await self.line()

    async def ask(self, number: int, operation: str, **arguments: object) -> Any:
        await self.send({"id": number, "op": operation, "arguments": arguments})
        return await self.line()


async def until_called(operations: FakeOperations, name: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while name not in [called for called, _context, _arguments in operations.calls]:
            await asyncio.sleep(0)


async def test_the_socket_is_the_owners_alone_and_no_other_name_stays(server: ControlServer):
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in server.path.parent.iterdir()] == ["control.sock"]


async def test_a_hello_is_answered_with_the_version(server: ControlServer):
    async with Raw(server.path) as client:
        assert await client.hello() == {
            "ok": True,
            "version": __version__,
            "grace_s": RESTART_GRACE_S,
        }


async def test_calls_carry_the_hello_and_the_pid_the_kernel_says(
    server: ControlServer, operations: FakeOperations
):
    async with Raw(server.path) as client:
        await client.hello(pid=1)
        await client.ask(1, "status")
    _name, context, _arguments = operations.calls[0]
    assert context == Context(session="s1", project="/home/me/app", agent="test 1", pid=os.getpid())


async def test_a_process_of_another_user_is_refused_without_a_word(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def stranger(_connection: socket.socket) -> Credentials:
        return Credentials(pid=7, uid=os.getuid() + 1)

    monkeypatch.setattr(control, "peer_credentials", stranger)
    with caplog.at_level(logging.WARNING):
        async with Raw(server.path) as client:
            assert await client.hello() is None
    assert [record.message for record in caplog.records] == ["control_refused"]


def test_the_kernel_names_the_process_at_the_other_end():
    here, there = socket.socketpair()
    with here, there:
        assert peer_credentials(here) == Credentials(pid=os.getpid(), uid=os.getuid())


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"GET / HTTP/1.1\r\n", "bad_arguments"),
        (b"[]\n", "bad_arguments"),
        (b"[" * 100_000 + b"\n", "bad_arguments"),
        (b'{"v":1,"kind":"other"}\n', "bad_arguments"),
        (b'{"v":1,"kind":"cli","session":7}\n', "bad_arguments"),
        (b'{"kind":"cli"}\n', "bad_arguments"),
        (b'{"v":2,"kind":"cli"}\n', "version_mismatch"),
        (b'{"v":1,"kind":"mcp"}\n', "bad_arguments"),
        (b'"' + b"x" * (REQUEST_BYTES + 1) + b'"\n', "bad_arguments"),
    ],
)
async def test_a_bad_hello_gets_one_error_and_the_connection_ends(
    server: ControlServer, line: bytes, code: str
):
    async with Raw(server.path) as client:
        client.writer.write(line)
        answer = await client.line()
        assert answer["error"]["code"] == code
        assert await client.line() is None


@pytest.mark.parametrize("line", [b"", b'{"v":1'])
async def test_a_look_at_the_socket_is_no_refusal(
    server: ControlServer, caplog: pytest.LogCaptureFixture, line: bytes
):
    async with Raw(server.path) as client:
        client.writer.write(line)
        client.writer.write_eof()
        assert await client.line() is None
    assert caplog.records == []


async def test_a_hello_that_does_not_come_is_not_waited_for(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(control, "HELLO_LIMIT_S", 0.01)
    async with Raw(server.path) as client:
        assert (await client.line())["error"]["code"] == "bad_arguments"


async def test_every_operation_can_be_called_by_its_name(
    server: ControlServer, operations: FakeOperations
):
    needed: dict[str, dict[str, object]] = {
        "trust_peer": {"peer": "worker"},
        "untrust_peer": {"peer": "worker"},
        "pair": {"peer": "worker"},
        "pair_rules": {"peer": "worker"},
        "unpair": {"peer": "worker"},
        "delegate": TASK,
        "fan_out": {"peers": ["worker"], "prompt": "each of you", "directory": "/srv"},
        "get_group": {"group": GROUP},
        "cancel_group": {"group": GROUP},
        "reply_task": {"task_id": FIRST_TASK, "prompt": "and then"},
        "get_task": {"task_id": FIRST_TASK},
        "get_record": {"task_id": FIRST_TASK},
        "figures": {"since": "2026-01-01T00:00:00Z"},
        "get_result": {"task_id": FIRST_TASK},
        "get_patch": {"task_id": FIRST_TASK},
        "get_artifact": {"task_id": FIRST_TASK, "path": "a"},
        "check_patch": {"task_id": FIRST_TASK},
        "cancel_task": {"task_id": FIRST_TASK},
        "approve_task": {"task_id": FIRST_TASK, "approve": True},
        "release": {"task_id": FIRST_TASK},
        "sql": {"sql": "SELECT 1"},
        "explain": {"direction": "outbound", "peer": "worker", "directory": "/srv"},
        "check_runner": {"name": "claude"},
        "new_runner": {"name": "mine"},
        "keep_login": {"name": "claude"},
        "drop_login": {"name": "claude"},
        "test_runner": {"name": "claude"},
        "ask_proof": {"peer": "worker"},
        "setup_step": {"step": "machine"},
        "setup_confirm": {"plan_id": "s-00000000", "sha256": "0" * 64, "accept": True},
    }
    async with Raw(server.path) as client:
        await client.hello()
        for number, operation in enumerate(OPERATIONS, 1):
            if operation in {"reply_task", "get_result"}:
                operations.finish(FIRST_TASK, text="done")
            if operation == "approve_task":
                operations.hold(FIRST_TASK)
            answer = await client.ask(number, operation, **needed.get(operation, {}))
            # Nothing of these tasks is withheld, so there is nothing to release.
            expected = "task_refused" if operation == "release" else None
            assert answer.get("error", {}).get("code") == expected, operation
            assert answer["id"] == number
    assert [name for name, _context, _arguments in operations.calls] == list(OPERATIONS)


async def test_operations_and_their_table_do_not_drift_apart():
    methods = {name for name in vars(control.Operations) if not name.startswith("_")}
    assert methods == set(OPERATIONS)
    for name, arguments in OPERATIONS.items():
        annotations = getattr(control.Operations, name).__annotations__
        assert annotations["arguments"] is arguments


async def test_an_error_keeps_code_message_hint_and_status(
    server: ControlServer, operations: FakeOperations
):
    operations.failures["status"] = DiskFull("no room", hint="make room")
    async with Raw(server.path) as client:
        await client.hello()
        answer = await client.ask(1, "status")
    body = {"code": "disk_full", "message": "no room", "hint": "make room", "exit_status": 74}
    assert answer == {"id": 1, "error": body}


async def test_bad_arguments_are_named_and_their_values_not_echoed(server: ControlServer):
    async with Raw(server.path) as client:
        await client.hello()
        answer = await client.ask(1, "delegate", peer="worker", prompt="s3cret" * 9_000, color="x9")
    message = answer["error"]["message"]
    assert answer["error"]["code"] == "bad_arguments"
    assert "`directory`: is missing" in message
    assert "`color`" in message
    assert "s3cret" not in message
    assert "x9" not in message


async def test_an_unexpected_failure_is_logged_under_the_reference_that_is_answered(
    server: ControlServer, operations: FakeOperations, caplog: pytest.LogCaptureFixture
):
    operations.failures["status"] = ZeroDivisionError("secret detail")
    async with Raw(server.path) as client:
        await client.hello()
        error = (await client.ask(1, "status"))["error"]
    assert error["code"] == "internal"
    assert "secret detail" not in error["message"]
    reference = error["message"].split()[-1]
    assert [record.__dict__["data"]["reference"] for record in caplog.records] == [reference]


async def test_an_unknown_operation_and_a_used_id_are_refused(server: ControlServer):
    async with Raw(server.path) as client:
        await client.hello()
        assert (await client.ask(1, "stat"))["error"]["code"] == "bad_arguments"
        assert (await client.ask(1, "__init__"))["error"]["code"] == "bad_arguments"
        await client.ask(2, "delegate", **TASK)
        await client.send({"id": 3, "op": "get_task", "arguments": wait(LIMIT_S)})
        refused = await client.ask(3, "status")
        assert refused["id"] == 3
        assert refused["error"]["code"] == "bad_arguments"


def wait(wait_s: float) -> dict[str, object]:
    return {"task_id": FIRST_TASK, "wait_s": wait_s}


async def test_several_calls_run_at_once(server: ControlServer, operations: FakeOperations):
    async with Raw(server.path) as client:
        await client.hello()
        await client.ask(1, "delegate", **TASK)
        await client.send({"id": 2, "op": "get_task", "arguments": wait(30)})
        assert (await client.ask(3, "status"))["id"] == 3
        operations.start(FIRST_TASK)
        answer = await client.line()
    assert (answer["id"], answer["result"]["state"]) == (2, "running")


async def test_more_calls_than_the_limit_are_refused_as_busy(server: ControlServer):
    async with Raw(server.path) as client:
        await client.hello()
        await client.ask(1, "delegate", **TASK)
        for number in range(2, CALLS + 2):
            await client.send({"id": number, "op": "get_task", "arguments": wait(30)})
        assert (await client.ask(999, "status"))["error"]["code"] == "busy"


async def test_more_connections_than_the_limit_are_refused_as_busy(
    server: ControlServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(control, "CONNECTIONS", 1)
    async with Raw(server.path) as first:
        assert "ok" in await first.hello()
        async with Raw(server.path) as second:
            assert (await second.hello())["error"]["code"] == "busy"
        assert (await first.ask(1, "status"))["id"] == 1


async def test_a_cancel_ends_the_call_and_not_the_task(
    server: ControlServer, operations: FakeOperations
):
    async with Raw(server.path) as client:
        await client.hello()
        await client.ask(1, "delegate", **TASK)
        await client.send({"id": 2, "op": "get_task", "arguments": wait(30)})
        await client.send({"cancel": 2})
        view = (await client.ask(3, "get_task", task_id=FIRST_TASK))["result"]
        assert (view["state"], view["cancel_requested"]) == ("queued", False)
        # The number is free again once its call has ended.
        assert (await client.ask(2, "status"))["result"]["phase"] == "up"
    assert "cancel_task" not in [name for name, _context, _arguments in operations.calls]


async def test_a_client_that_goes_away_ends_its_calls(
    server: ControlServer, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
):
    ended = asyncio.Event()

    async def endless(_context: Context, _arguments: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(operations, "status", endless)
    async with Raw(server.path) as client:
        await client.hello()
        await client.send({"id": 1, "op": "status"})
        assert (await client.ask(2, "list_peers"))["id"] == 2
    async with asyncio.timeout(LIMIT_S):
        await ended.wait()


async def test_a_garbage_line_is_answered_and_ends_the_connection(server: ControlServer):
    async with Raw(server.path) as client:
        await client.hello()
        client.writer.write(b"\x00\xff garbage\n")
        assert (await client.line())["error"]["code"] == "bad_arguments"
        assert await client.line() is None


async def test_a_stopping_server_answers_open_calls_and_frees_the_path(
    state: Path, operations: FakeOperations
):
    server = ControlServer(state / "control.sock", operations)
    await server.start()
    async with Raw(server.path) as client:
        await client.hello()
        await client.ask(1, "delegate", **TASK)
        await client.send({"id": 2, "op": "get_task", "arguments": wait(30)})
        await until_called(operations, "get_task")
        await server.close()
        answer = await client.line()
        assert (answer["id"], answer["error"]["code"]) == (2, "daemon_restarted")
        assert await client.line() is None
    assert not server.path.exists()


async def test_the_call_that_stops_the_daemon_gets_its_answer(
    state: Path, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
):
    server = ControlServer(state / "control.sock", operations)
    await server.start()
    down = operations.down

    async def slow_down(context: Context, arguments: Any) -> Any:
        view = await down(context, arguments)
        await asyncio.sleep(0.01)
        return view

    monkeypatch.setattr(operations, "down", slow_down)
    async with Raw(server.path) as client:
        await client.hello()
        await client.send({"id": 1, "op": "down"})
        await operations.stopped.wait()
        await server.close()
        assert (await client.line())["result"]["phase"] == "down"


async def test_a_stale_socket_is_replaced_and_a_successors_is_left_alone(
    state: Path, operations: FakeOperations
):
    first = ControlServer(state / "control.sock", operations)
    await first.start()
    second = ControlServer(state / "control.sock", operations)
    await second.start()
    await first.close()
    async with Raw(second.path) as client:
        assert "ok" in await client.hello()
    await second.close()


async def test_an_mcp_relays_bytes_go_to_the_callback(state: Path, operations: FakeOperations):
    seen: list[Context] = []

    async def echo(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: Context
    ) -> None:
        seen.append(context)
        writer.write(await reader.readexactly(5))

    async with (
        ControlServer(state / "control.sock", operations, on_mcp=echo) as server,
        Raw(server.path) as client,
    ):
        assert "ok" in await client.hello(kind="mcp")
        client.writer.write(b"12345")
        assert await client.reader.read() == b"12345"
    assert seen[0].session == "s1"


async def test_a_client_that_does_not_read_its_answers_is_closed_by_name(
    server: ControlServer,
    operations: FakeOperations,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    usual = operations.status

    async def long(context: Context, arguments: NoArguments) -> StatusView:
        view = await usual(context, arguments)
        return view.model_copy(update={"state_dir": "x" * 4_000_000})

    monkeypatch.setattr(operations, "status", long)
    monkeypatch.setattr(control_calls, "OWED_BYTES", 5_000_000)
    async with Raw(server.path) as client:
        await client.hello()
        for number in (1, 2):
            await client.send({"id": number, "op": "status", "arguments": {}})
        async with asyncio.timeout(LIMIT_S):
            while "control_not_reading" not in [record.message for record in caplog.records]:
                await asyncio.sleep(0)
            with contextlib.suppress(ConnectionResetError):
                assert len(await client.reader.read()) < 8_000_000
