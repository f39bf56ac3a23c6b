"""The typed client against the real server, and against servers that misbehave."""

import asyncio
import gc
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cmesh import __version__
from cmesh.daemon.arguments import DelegateArguments, SqlArguments, TaskArguments
from cmesh.errors import (
    CmeshError,
    DaemonError,
    DaemonNotRunning,
    DaemonRestarted,
    DaemonTimeout,
    PolicyDenied,
    VersionMismatch,
)
from cmesh.interfaces import client as client_module
from cmesh.interfaces.client import ControlClient, run
from cmesh.interfaces.control import ControlServer
from cmesh.model import TaskState
from tests.fakes.operations import FIRST_TASK, FakeOperations

pytestmark = pytest.mark.anyio

LIMIT_S = 5.0
TASK = DelegateArguments(peer="worker", prompt="look", directory="/srv/app")


@asynccontextmanager
async def answering(path: Path, *lines: bytes) -> AsyncGenerator[None]:
    """Serve connections that get one of `lines` for each line they send, then their end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            if not await reader.readline():
                break
            writer.write(line)
        writer.close()

    path.parent.mkdir(mode=0o700, exist_ok=True)
    server = await asyncio.start_unix_server(serve, str(path))
    async with server:
        yield


async def test_a_call_returns_the_view_of_its_operation(server: ControlServer):
    async with ControlClient(server.path) as client:
        assert client.daemon_version == __version__
        view = await client.delegate(TASK)
        assert (view.task_id, view.state) == (FIRST_TASK, TaskState.QUEUED)
        assert (await client.status()).phase == "up"
        assert [peer.name for peer in (await client.list_peers()).peers] == ["worker", "gone"]


async def test_an_error_arrives_as_its_class(server: ControlServer, operations: FakeOperations):
    operations.failures["status"] = PolicyDenied("no rule", hint="add one")
    async with ControlClient(server.path) as client:
        with pytest.raises(PolicyDenied, match="no rule") as caught:
            await client.status()
    assert caught.value.hint == "add one"


async def test_calls_of_one_client_do_not_wait_for_each_other(
    server: ControlServer, operations: FakeOperations
):
    async with ControlClient(server.path) as client, asyncio.TaskGroup() as group:
        await client.delegate(TASK)
        wait = TaskArguments(task_id=FIRST_TASK, wait_s=30)
        waiting = group.create_task(client.get_task(wait))
        assert (await client.status()).phase == "up"
        operations.finish(FIRST_TASK, text="done")
        assert (await waiting).summary == "done"


async def test_a_cancelled_call_is_cancelled_in_the_daemon_and_the_client_stays_usable(
    server: ControlServer, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(_context: object, _arguments: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(operations, "status", endless)
    async with ControlClient(server.path) as client, asyncio.timeout(LIMIT_S):
        call = asyncio.create_task(client.status())
        await begun.wait()
        call.cancel()
        await ended.wait()
        assert len((await client.list_peers()).peers) == 2


async def test_no_socket_and_a_dead_one_mean_that_no_daemon_runs(state: Path):
    state.mkdir(mode=0o700)
    path = state / "control.sock"
    with pytest.raises(DaemonNotRunning):
        await ControlClient(path).connect()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(DaemonNotRunning) as caught:
        await ControlClient(path).connect()
    assert caught.value.hint == "run `cmesh up`"


async def test_a_daemon_that_goes_away_during_a_call_is_told_apart(
    state: Path, operations: FakeOperations
):
    path = state / "control.sock"
    hello = b'{"ok":true,"version":"0.1.0"}\n'
    async with answering(path, hello, b""), ControlClient(path) as client:
        for _again in range(2):
            with pytest.raises(DaemonRestarted):
                await client.status()


@pytest.mark.parametrize(
    ("hello", "expected"),
    [
        (b'{"error":{"code":"version_mismatch","message":"m","hint":"h"}}\n', VersionMismatch),
        (b'{"error":{"code":"new_code","message":"m","hint":"h"}}\n', CmeshError),
        (b"HTTP/1.1 400 Bad Request\r\n", DaemonError),
        (b"[]\n", DaemonError),
        (b"", DaemonNotRunning),
    ],
)
async def test_a_refused_hello_raises_what_the_daemon_says(
    state: Path, hello: bytes, expected: type[CmeshError]
):
    path = state / "control.sock"
    async with answering(path, hello):
        with pytest.raises(CmeshError) as caught:
            await ControlClient(path).connect()
    assert type(caught.value) is expected


async def test_an_answer_of_another_form_is_a_version_mismatch(state: Path):
    path = state / "control.sock"
    async with (
        answering(
            path, b'{"ok":true,"version":"9"}\n', b'{"id":1,"result":{"phase":"dreaming"}}\n'
        ),
        ControlClient(path) as client,
    ):
        with pytest.raises(VersionMismatch, match="daemon \\(9\\)"):
            await client.status()


async def test_a_line_that_is_no_json_fails_the_open_call(state: Path):
    path = state / "control.sock"
    hello = b'{"ok":true,"version":"9"}\n'
    async with answering(path, hello, b"oops\n"), ControlClient(path) as client:
        with pytest.raises(DaemonError, match="cannot be read"):
            await client.status()


async def test_a_silent_daemon_is_not_waited_for_for_ever(
    state: Path, server: ControlServer, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
):
    async def endless(_context: object, _arguments: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(operations, "status", endless)
    monkeypatch.setattr(client_module, "CALL_LIMIT_S", 0.01)
    async with ControlClient(server.path) as client:
        with pytest.raises(DaemonTimeout, match="`status`"):
            await client.status()


async def test_an_answer_of_many_megabytes_arrives_whole(
    server: ControlServer, operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
):
    sql = operations.sql

    async def wide(context: Any, arguments: Any) -> Any:
        view = await sql(context, arguments)
        return view.model_copy(update={"rows": [["x" * 1_000]] * 4_000})

    monkeypatch.setattr(operations, "sql", wide)
    async with ControlClient(server.path) as client:
        view = await client.sql(SqlArguments(sql="SELECT 1"))
    assert len(view.rows) == 4_000


async def test_the_blocking_form_connects_works_and_closes(
    server: ControlServer, operations: FakeOperations
):
    async def phase(client: ControlClient) -> str:
        return (await client.status()).phase

    assert await asyncio.to_thread(run, server.path, phase, cwd="/here", agent="me") == "up"
    _name, context, _arguments = operations.calls[0]
    assert (context.project, context.agent) == ("/here", "me")


async def test_a_close_that_is_cancelled_leaves_no_connection(server: ControlServer):
    client = ControlClient(server.path)
    await client.connect()
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    del client, closing
    gc.collect()  # an open connection would warn here, and warnings are errors
