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
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, cast

from pydantic import ValidationError

from cmesh import __version__
from cmesh.daemon.arguments import Context
from cmesh.daemon.operations import Operations
from cmesh.errors import CmeshError, IdentityUnknown, QueueFull, UsageError, VersionMismatch
from cmesh.interfaces.control_calls import Calls
from cmesh.interfaces.control_lines import json_object, read_line, send_line
from cmesh.interfaces.unixsocket import bind_private, peer_credentials
from cmesh.interfaces.usage import usage_error
from cmesh.interfaces.wire import CONTROL_VERSION, REQUEST_BYTES, Hello, error_body

__all__ = ["CONNECTIONS", "RESTART_GRACE_S", "ControlServer", "OnMcp"]

CONNECTIONS = 256
"""Connections served at once; each agent session and each running CLI has one."""


RESTART_GRACE_S = 3.0
"""For a daemon that a service manager or a person will start again."""

HELLO_LIMIT_S = 5.0
CLOSE_LIMIT_S = 2.0


OnMcp = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Context], Awaitable[None]]
"""Serves one MCP relay until its end; the connection is closed for it afterwards."""

_logger = logging.getLogger(__name__)


class ControlServer:
    """Serves a control socket; an async context manager.

    Attributes:
        path: where clients connect.
    """

    def __init__(
        self,
        path: Path,
        operations: Operations,
        *,
        on_mcp: OnMcp | None = None,
        grace_s: float = RESTART_GRACE_S,
    ) -> None:
        """Make it; a relay that loses this daemon leaves its restart to others for `grace_s`."""
        self.path = path
        self._grace_s = grace_s
        self._operations = operations
        self._on_mcp = on_mcp
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._connections: dict[asyncio.Task[None], Calls | None] = {}

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
            if hello is None:  # somebody looked whether a daemon takes connections
                return
            if len(self._connections) > CONNECTIONS:
                raise QueueFull(f"the daemon already serves {CONNECTIONS} local connections")
            if hello.kind == "mcp" and self._on_mcp is None:
                raise UsageError("this daemon does not serve MCP")
        except CmeshError as error:
            data = {"code": error.code, "pid": pid, "why": error.message}
            _logger.warning("control_refused", extra={"data": data})
            await send_line(writer, json.dumps({"error": error_body(error)}))
            return
        context = Context(session=hello.session, project=hello.cwd, agent=hello.agent, pid=pid)
        await send_line(writer, self._greeting())
        if hello.kind == "mcp" and self._on_mcp is not None:
            await self._on_mcp(reader, writer, context)
            return
        calls = self._connections[task] = Calls(self._operations, context, writer)
        try:
            await calls.serve(reader)
        finally:
            await calls.cancel_all()

    def _greeting(self) -> str:
        return json.dumps({"ok": True, "version": __version__, "grace_s": self._grace_s})

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


async def _read_hello(reader: asyncio.StreamReader) -> Hello | None:
    """Return the first line; None = the other end closed without a word.

    Raises:
        UsageError: it is none, or did not come within `HELLO_LIMIT_S`.
        VersionMismatch: it is of another version of the protocol.
    """
    try:
        async with asyncio.timeout(HELLO_LIMIT_S):
            line = await read_line(reader)
    except TimeoutError as error:
        raise UsageError(f"no hello within {HELLO_LIMIT_S:g} s") from error
    if not line:
        return None
    raw = json_object(line)
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
