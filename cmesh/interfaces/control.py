"""The control socket's server: JSON lines of local programs become calls of `Operations`.

A connection starts with a hello; a `cli` then sends numbered requests, an
`mcp` relay's bytes go to the MCP server. Only this user's processes are
served. Nothing here decides, stores or knows the network, and ending a call
never ends a task.
"""

import asyncio
import json
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Self, cast

from pydantic import ValidationError

from cmesh import __version__
from cmesh.daemon.operations import Context, Operations, View
from cmesh.errors import (
    CmeshError,
    DaemonRestarted,
    IdentityUnknown,
    QueueFull,
    UsageError,
    VersionMismatch,
)
from cmesh.interfaces.unixsocket import bind_private, peer_credentials
from cmesh.interfaces.wire import (
    ANSWER_BYTES,
    CONTROL_VERSION,
    OPERATIONS,
    REQUEST_BYTES,
    Hello,
    error_body,
    usage_error,
)

__all__ = ["CALLS", "CONNECTIONS", "ControlServer", "OnMcp"]

CONNECTIONS = 256
"""Connections served at once; each agent session and each running CLI has one."""

CALLS = 64
"""Calls open at once on one connection."""

HELLO_LIMIT_S = 5.0
SEND_LIMIT_S = 30.0
CLOSE_LIMIT_S = 2.0

OnMcp = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Context], Awaitable[None]]
"""Serves one MCP relay until its end; the connection is closed for it afterwards."""

_logger = logging.getLogger(__name__)


class ControlServer:
    """Serves a control socket; an async context manager.

    Attributes:
        path: where clients connect.
    """

    def __init__(self, path: Path, operations: Operations, *, on_mcp: OnMcp | None = None) -> None:
        self.path = path
        self._operations = operations
        self._on_mcp = on_mcp
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._connections: dict[asyncio.Task[None], _Calls | None] = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Bind the socket and serve. The caller holds the state directory's lock.

        Raises:
            UnsafePermissions: the socket's directory is open to others.
            OSError: the socket cannot be made.
        """
        listener = bind_private(self.path)
        self._inode = self.path.stat().st_ino
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=REQUEST_BYTES
        )

    async def close(self) -> None:
        """Stop: open calls are answered `daemon_restarted`, a running `down` is let finish."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        self._unlink()
        for calls in self._connections.values():
            if calls is not None:
                calls.restart()
        open_calls = [calls.idle() for calls in self._connections.values() if calls is not None]
        if open_calls:
            await asyncio.wait(
                [asyncio.ensure_future(idle) for idle in open_calls], timeout=CLOSE_LIMIT_S
            )
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=CLOSE_LIMIT_S)

    def _unlink(self) -> None:
        # A successor may have put its own socket there already.
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            return

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = None
        try:
            await self._serve(task, reader, writer)
        except (ConnectionError, TimeoutError) as error:
            _logger.info("control_lost", extra={"data": {"why": type(error).__name__}})
        except asyncio.CancelledError:
            # Only close() cancels; asyncio would report a cancelled callback as a failure.
            return
        except Exception:
            _logger.exception("control_connection_failed")
        finally:
            del self._connections[task]
            writer.close()

    async def _serve(
        self,
        task: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        pid = self._admit(writer)
        if pid is None:
            return
        try:
            # Read first: closing over unread bytes would reset the connection and lose our answer.
            hello = await _read_hello(reader)
            if len(self._connections) > CONNECTIONS:
                raise QueueFull(f"the daemon already serves {CONNECTIONS} local connections")
            if hello.kind == "mcp" and self._on_mcp is None:
                raise UsageError("this daemon does not serve MCP")
        except CmeshError as error:
            data = {"code": error.code, "pid": pid, "why": error.message}
            _logger.warning("control_refused", extra={"data": data})
            await _send(writer, json.dumps({"error": error_body(error)}))
            return
        context = Context(session=hello.session, project=hello.cwd, agent=hello.agent, pid=pid)
        await _send(writer, json.dumps({"ok": True, "version": __version__}))
        if hello.kind == "mcp" and self._on_mcp is not None:
            await self._on_mcp(reader, writer, context)
            return
        calls = self._connections[task] = _Calls(self._operations, context, writer)
        try:
            await calls.serve(reader)
        finally:
            await calls.cancel_all()

    def _admit(self, writer: asyncio.StreamWriter) -> int | None:
        """Return the pid of an own process; None refuses anyone else, without a word to them."""
        connection = cast("socket.socket", writer.get_extra_info("socket"))
        try:
            who = peer_credentials(connection)
        except IdentityUnknown as error:
            _logger.warning("control_refused", extra={"data": {"why": error.message}})
            return None
        if who.uid != os.getuid():
            _logger.warning("control_refused", extra={"data": {"uid": who.uid, "pid": who.pid}})
            return None
        return who.pid


class _Calls:
    """The calls of one `cli` connection."""

    def __init__(
        self, operations: Operations, context: Context, writer: asyncio.StreamWriter
    ) -> None:
        self._operations = operations
        self._context = context
        self._writer = writer
        self._open: dict[int, asyncio.Task[None]] = {}
        self._closing = False
        self._stopping: set[int] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Take requests until the client goes away or breaks the protocol."""
        while True:
            try:
                line = await _read_line(reader)
                if not line:
                    return
                request = _object(line)
            except UsageError as error:
                # After a line that is none, what follows cannot be trusted to be one.
                await self._fail(None, error)
                return
            try:
                self._take(request)
            except CmeshError as error:
                await self._fail(_number(request.get("id")), error)

    def restart(self) -> None:
        """Answer every open call `daemon_restarted`, except one that is stopping the daemon."""
        self._closing = True
        for number, task in list(self._open.items()):
            if number not in self._stopping:
                task.cancel()

    async def idle(self) -> None:
        """Return when no call is open."""
        if self._open:
            await asyncio.wait(list(self._open.values()))

    async def cancel_all(self) -> None:
        """Cancel every open call; tasks go on."""
        for task in list(self._open.values()):
            task.cancel()
        await self.idle()

    def _take(self, request: Mapping[str, object]) -> None:
        if "cancel" in request:
            # An unknown number is a call that was answered while this was on its way.
            open_call = self._open.get(_number(request["cancel"]) or 0)
            if open_call is not None:
                open_call.cancel()
            return
        if self._closing:
            raise DaemonRestarted("the daemon is stopping")
        number = _number(request.get("id"))
        if number is None or number in self._open:
            raise UsageError("a request needs an unused positive `id`")
        operation = request.get("op")
        if not isinstance(operation, str) or operation not in OPERATIONS:
            raise UsageError("this daemon has no such operation", hint="compare `cmesh version`")
        if len(self._open) >= CALLS:
            raise QueueFull(f"this connection already has {CALLS} open calls")
        if operation == "down":
            self._stopping.add(number)
        task = asyncio.create_task(self._call(number, operation, request.get("arguments", {})))
        self._open[number] = task
        task.add_done_callback(lambda _task: self._open.pop(number, None))

    async def _call(self, number: int, operation: str, raw: object) -> None:
        try:
            arguments = OPERATIONS[operation].model_validate(raw)
            method: Callable[..., Awaitable[View]] = getattr(self._operations, operation)
            view = await method(self._context, arguments)
            text = view.model_dump_json()
            if len(text) > ANSWER_BYTES:
                raise UsageError(
                    f"the answer has {len(text)} bytes, more than a line may have",
                    hint="ask for less at once",
                )
            await _send(self._writer, f'{{"id":{number},"result":{text}}}')
        except asyncio.CancelledError:
            if self._closing:
                await self._fail(number, DaemonRestarted("the daemon stopped during the call"))
        except CmeshError as error:
            await self._fail(number, error)
        except ValidationError as error:
            await self._fail(number, usage_error(error))
        except (ConnectionError, TimeoutError):
            # The client is gone; serve() sees the end of its stream.
            return
        except Exception:
            reference = secrets.token_hex(4)
            data = {"reference": reference, "op": operation}
            _logger.exception("control_call_failed", extra={"data": data})
            await self._fail(
                number,
                CmeshError(
                    f"internal error, reference {reference}",
                    hint=f"search the daemon's log for {reference}",
                ),
            )

    async def _fail(self, number: int | None, error: CmeshError) -> None:
        try:
            await _send(self._writer, json.dumps({"id": number, "error": error_body(error)}))
        except (ConnectionError, TimeoutError):
            _logger.info("control_lost", extra={"data": {"code": error.code}})


async def _read_hello(reader: asyncio.StreamReader) -> Hello:
    try:
        async with asyncio.timeout(HELLO_LIMIT_S):
            line = await _read_line(reader)
    except TimeoutError as error:
        raise UsageError(f"no hello within {HELLO_LIMIT_S:g} s") from error
    raw = _object(line)
    version = raw.get("v")
    if isinstance(version, int) and version != CONTROL_VERSION:
        raise VersionMismatch(
            f"the daemon ({__version__}) speaks control protocol {CONTROL_VERSION}, not {version}",
            hint="restart the daemon with the installed version: `cmesh down`, then `cmesh up`",
        )
    try:
        return Hello.model_validate(raw)
    except ValidationError as error:
        raise usage_error(error) from error


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    """Return one line; empty at the end of the stream, also within a line."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError:
        return b""
    except asyncio.LimitOverrunError as error:
        raise UsageError(f"a line is longer than {REQUEST_BYTES} bytes") from error


def _object(line: bytes) -> dict[str, object]:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError("a line is not JSON") from error
    if not isinstance(value, dict):
        raise UsageError("a line is not a JSON object")
    return cast("dict[str, object]", value)


def _number(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 2**53 else None


async def _send(writer: asyncio.StreamWriter, text: str) -> None:
    # One write call per line, so that lines of several calls do not mix.
    writer.write(text.encode() + b"\n")
    async with asyncio.timeout(SEND_LIMIT_S):
        await writer.drain()
