"""`cmesh dashboard` as a process: a port on loopback, a link, a browser, until it is ended."""

import asyncio
import contextlib
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable, Generator
from dataclasses import dataclass
from html import escape
from pathlib import Path

import uvicorn
from typing_extensions import override

from cmesh import __version__
from cmesh.clock import SystemClock
from cmesh.errors import UsageError
from cmesh.interfaces.connections import KEEP_ALIVE_S, Connections
from cmesh.interfaces.dashboard.app import create_app
from cmesh.interfaces.dashboard.colours import Colours
from cmesh.interfaces.dashboard.daemon import Daemon
from cmesh.interfaces.dashboard.guard import HOST, SIGN_IN
from cmesh.interfaces.dashboard.sign_in import SignIn
from cmesh.paths import control_socket, replace_file

__all__ = ["DOOR", "Started", "serve"]

DOOR = "dashboard.html"
"""A file in the state directory that leads a browser to the link: an argument is seen by others."""

STOP_LIMIT_S = 2
"""How long open answers get to end; streams of events never do by themselves."""

ACCEPT_PAUSE_S = 0.2
"""Until the next try when the system has no descriptor for a connection."""

_BACKLOG = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A dashboard that serves: its port, and a function that makes a new link."""

    port: int
    link: Callable[[], str]


class _Server(uvicorn.Server):
    """Leaves signals to `serve`, which ends it in the same way for all of them."""

    @contextlib.contextmanager
    @override
    def capture_signals(self) -> Generator[None]:
        yield


def serve(state: Path, *, port: int, open_browser: bool, tell: Callable[[Started], None]) -> None:
    """Serve the daemon of a state directory until SIGINT or SIGTERM. Blocks.

    `port` 0 = one that is free. `tell` is called once with what serves; when standard input
    is a terminal, again after each line typed there.

    Raises:
        UsageError: the port cannot be had.
    """
    asyncio.run(_serve(state, _bind(port), open_browser=open_browser, tell=tell))


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # The same port can be had at once after an end; on Linux nobody can share it by this.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"port {port} cannot be had: {error.strerror}", hint="leave --port out for a free one"
        ) from error
    return listener


async def _serve(
    state: Path, listener: socket.socket, *, open_browser: bool, tell: Callable[[Started], None]
) -> None:
    clock, sign_in = SystemClock(), SignIn()
    port = int(listener.getsockname()[1])
    daemon = Daemon(control_socket(state), clock, agent=f"cmesh dashboard {__version__}")
    app = create_app(daemon, Colours(), sign_in, clock, port)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(KEEP_ALIVE_S),
    )
    server, connections = _Server(config), Connections(config)
    started = Started(
        port=port, link=lambda: f"{app.origin}{SIGN_IN}#{sign_in.link(clock.monotonic())}"
    )
    loop, ending = asyncio.get_running_loop(), list[asyncio.Task[None]]()

    def stop() -> None:
        server.should_exit = True
        ending.append(loop.create_task(daemon.close()))  # streams end by it

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    door = state / DOOR
    tell(started)
    if open_browser:
        await asyncio.to_thread(_open, door, started.link())
    accepting = loop.create_task(_accept(listener, connections))
    with _lines(loop, lambda: tell(started)):
        try:
            await server.serve([])
        finally:
            door.unlink(missing_ok=True)
            accepting.cancel()
            listener.close()
            await asyncio.wait({accepting, *connections.abort()}, timeout=STOP_LIMIT_S)


async def _accept(listener: socket.socket, connections: Connections) -> None:
    """Take connections: any program of this machine may hold some, and must not hold all."""
    loop = asyncio.get_running_loop()
    listener.settimeout(0)
    while True:
        try:
            connection, _address = await loop.sock_accept(listener)
        except OSError:
            await asyncio.sleep(ACCEPT_PAUSE_S)
        else:
            connections.take(connection)


@contextlib.contextmanager
def _lines(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> Generator[None]:
    """Do something for each line typed at the terminal, if there is one."""
    if not sys.stdin.isatty():
        yield
        return

    def typed() -> None:
        if sys.stdin.readline():
            act()
        else:
            loop.remove_reader(sys.stdin)

    loop.add_reader(sys.stdin, typed)
    try:
        yield
    finally:
        loop.remove_reader(sys.stdin)


def _open(door: Path, link: str) -> None:
    """Open the browser at a file that only this user can read, which leads to the link."""
    text = f'<!doctype html><meta http-equiv="refresh" content="0;url={escape(link)}"><title>cmesh</title>'
    replace_file(door, text.encode())
    webbrowser.open(door.as_uri())
