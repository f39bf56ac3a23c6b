"""The daemon's end of every task's network: a door for each task, connections behind it.

A door is a datagram socket in the task's directory. The task's relay (`cmesh.sandbox.relay`)
hands each connection in as a descriptor, so the kernel says whose it is: the task's own network
namespace has no way to another door. Used from one event loop; never blocks it.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from cmesh.clock import Clock
from cmesh.errors import CmeshError
from cmesh.model import TaskId
from cmesh.paths import ensure_private_dir
from cmesh.rate import Bucket
from cmesh.runner.egress.gateway import Credentials, Gateway, KeyReader, LoginReader
from cmesh.runner.egress.network import Network
from cmesh.runner.egress.outside import INTERNET, Inside, Outside, open_streams
from cmesh.runner.egress.reach import Limits, Means
from cmesh.runner.egress.trail import UNAVAILABLE, Refused
from cmesh.runner.egress.tunnel import Tunnel
from cmesh.runner.key_files import read_key

__all__ = ["UNRECORDED", "Proxy"]

logger = logging.getLogger(__name__)

CONNECTIONS_MOST = 64
"""Open connections of one task; more are refused."""

CONNECTIONS_PER_S, CONNECTIONS_BURST = 10.0, 100.0
"""New connections of one task; faster ones wait at its door."""

REFUSED_RECORDED = 1_000
"""Refusals of one task that get a row each. Later ones are counted, and the number recorded."""

CLOSE_LIMIT_S = 5.0
UNRECORDED = "connections_unrecorded"
_TAKEN_AT_ONCE = 16

Audit = Callable[[TaskId, str, Mapping[str, object]], Awaitable[None]]
"""Makes one audit row of a task durable: the task, the row's kind, its data."""


class Proxy:
    """All doors of one daemon. `audit` raises CmeshError when a row cannot be stored.

    `read_key` and `read_login` read the owner's key, or the login of an account, for those that
    have a gateway; None = no account is logged in here.
    """

    def __init__(
        self,
        audit: Audit,
        clock: Clock,
        *,
        read_key: KeyReader = read_key,
        read_login: LoginReader | None = None,
        outside: Outside = INTERNET,
        limits: Limits | None = None,
    ) -> None:
        self._audit = audit
        self._credentials = Credentials(key=read_key, login=read_login)
        self._means = Means(outside=outside, clock=clock, limits=limits or Limits())
        self._doors: dict[TaskId, _Door] = {}

    def open(
        self, task_id: TaskId, network: Network, path: Path, inside: Inside | None = None
    ) -> None:
        """Serve a task's network at the socket `path`; harmless when it is served already.

        `path` replaces what an earlier daemon left there. Its directory must hold nothing else:
        the task's relay can reach all of it. `inside` leads to this daemon's own server for the
        task; None = it has none.

        Raises:
            OSError: the socket cannot be made.
            UnsafePermissions: its directory is open to others.
        """
        if task_id in self._doors:
            return
        handle = _bind(path)
        audit = partial(self._audit, task_id)
        gateway = None
        if network.gate is not None:
            gateway = Gateway(network.gate, network.port, self._means, self._credentials)
        make = partial(Tunnel, network=network, means=self._means, inside=inside, gateway=gateway)
        self._doors[task_id] = _Door(handle, make, audit, self._means.clock, gateway)

    async def shut(self, task_id: TaskId) -> None:
        """End a task's network and all its connections; harmless when there is none."""
        door = self._doors.pop(task_id, None)
        if door is not None:
            await door.close("task ended")

    async def close(self) -> None:
        """End every task's network; the next daemon opens those of tasks that run on."""
        doors = list(self._doors.values())
        self._doors.clear()
        await asyncio.gather(*(door.close("daemon stopped") for door in doors))


class _Door:
    """The connections of one task."""

    def __init__(
        self,
        handle: socket.socket,
        make: Callable[..., Tunnel],
        audit: Callable[[str, Mapping[str, object]], Awaitable[None]],
        clock: Clock,
        gateway: Gateway | None,
    ) -> None:
        self._gateway = gateway
        self._handle = handle
        self._make = make
        self._audit = audit
        self._clock = clock
        self._rate = Bucket(per_s=CONNECTIONS_PER_S, burst=CONNECTIONS_BURST, now=clock.monotonic())
        self._tunnels: dict[asyncio.Task[None], Tunnel | None] = {}
        self._refused = 0
        self._closed = ""
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(handle, self._readable)

    async def close(self, why: str) -> None:
        """Take nothing more, drop what is open, wait until that is recorded."""
        self._closed = why
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._handle)
        self._handle.close()
        for tunnel in self._tunnels.values():
            if tunnel is not None:
                tunnel.stop(why)
        if self._tunnels:
            _done, late = await asyncio.wait(self._tunnels, timeout=CLOSE_LIMIT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._gateway is not None:
            await self._gateway.close()
        if self._refused > REFUSED_RECORDED:
            with contextlib.suppress(CmeshError):
                await self._audit(UNRECORDED, {"refused": self._refused - REFUSED_RECORDED})

    def _readable(self) -> None:
        for _ in range(_TAKEN_AT_ONCE):
            now = self._clock.monotonic()
            if (wait_s := self._rate.wait_s(1, now)) > 0:
                self._loop.remove_reader(self._handle)
                self._pause = self._loop.call_later(wait_s, self._resume)
                return
            try:
                taken = _take(self._handle)
            except BlockingIOError:
                return
            if taken is not None:
                self._rate.take(1, now)
                task = self._loop.create_task(self._serve(taken))
                self._tunnels[task] = None
                task.add_done_callback(self._ended)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._handle, self._readable)

    async def _serve(self, handle: socket.socket) -> None:
        full = len(self._tunnels) > CONNECTIONS_MOST
        task = asyncio.current_task()
        assert task is not None
        try:
            tunnel = self._make(await open_streams(handle), record=self._record)
        except OSError:
            handle.close()  # the client is gone already
            return
        self._tunnels[task] = tunnel
        if self._closed:  # it was taken just before
            tunnel.stop(self._closed)
        elif full:
            why = f"this task has {CONNECTIONS_MOST} connections open"
            await tunnel.turn_away(Refused("too_many", why, status=UNAVAILABLE))
        else:
            await tunnel.run()

    async def _record(self, kind: str, row: Mapping[str, object]) -> None:
        if row.get("verdict") == "refused":
            self._refused += 1
            if self._refused > REFUSED_RECORDED:
                return
        await self._audit(kind, row)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tunnels.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("connection_failed", exc_info=task.exception())


def _bind(path: Path) -> socket.socket:
    """Bind a datagram socket at a path of any length (Linux: by /proc, see unix(7))."""
    ensure_private_dir(path.parent)
    path.unlink(missing_ok=True)
    handle = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        handle.bind(f"/proc/self/fd/{directory}/{path.name}")
    except OSError:
        handle.close()
        raise
    finally:
        os.close(directory)
    return handle


def _take(door: socket.socket) -> socket.socket | None:
    """Return the next connection; None for a datagram without one.

    Raises:
        BlockingIOError: none waits.
    """
    try:
        # Close-on-exec from the start: a program that this process starts must not get it.
        _data, fds, _flags, _address = socket.recv_fds(door, 1, 1, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError as error:
        logger.warning("connection_lost", extra={"data": {"why": error.strerror}})
        return None
    if not fds:
        return None
    try:
        taken = socket.socket(fileno=fds[0])
    except OSError:
        os.close(fds[0])
        return None
    if (taken.family, taken.type) != (socket.AF_INET, socket.SOCK_STREAM):
        taken.close()
        return None
    return taken
