"""A listening port inside the node's own network stack.

Connections come out as non-blocking stream sockets with their remote tailnet
address. Who that is, and what it may do, is not decided here.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple, Self

from cmesh.errors import NodeClosed, NodeError
from cmesh.node import ffi

__all__ = ["Connection", "Listener"]

_log = logging.getLogger(__name__)


class Connection(NamedTuple):
    """An accepted connection; the socket is the receiver's to close.

    Attributes:
        sock: non-blocking stream socket; shutdown and backpressure reach the peer.
        remote: tailnet `ip:port` of the other side, as whois wants it.
    """

    sock: socket.socket
    remote: str


class Listener:
    """Accepts tailnet connections on the loop it was made in.

    Attributes:
        port: the TCP port on the node's tailnet addresses.
    """

    def __init__(self, fd: int, port: int) -> None:
        os.set_blocking(fd, False)
        self.port = port
        self._fd = fd
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[Connection]:
        """Yield connections until the listener or its node is closed.

        A connection that cannot be taken (the process is out of descriptors) is lost,
        logged, and does not end the iteration.
        """
        while True:
            try:
                connection = await self.accept()
            except NodeClosed:
                return
            except NodeError as error:
                _log.warning("connection lost: port=%d error=%s", self.port, error.message)
                continue
            yield connection

    def fileno(self) -> int:
        """Return the pollable descriptor, -1 once closed."""
        return self._fd

    def accept_nowait(self) -> Connection:
        """Take a connection that is waiting.

        Raises:
            BlockingIOError: nothing is waiting.
            NodeClosed: the listener or its node was closed.
        """
        if self._fd < 0:
            raise NodeClosed("the listener is closed")
        return Connection(*ffi.accept(self._fd))

    async def accept(self) -> Connection:
        """Wait for the next connection.

        Raises:
            NodeClosed: the listener or its node was closed.
            NodeError: a connection came but could not be taken.
        """
        async with self._turn:
            while True:
                try:
                    return self.accept_nowait()
                except BlockingIOError:
                    await self._readable()

    def close(self) -> None:
        """Stop listening. Connections not yet accepted are closed."""
        if self._fd < 0:
            return
        if self._waiting is not None:
            self._waiting.get_loop().remove_reader(self._fd)
            if not self._waiting.done():
                self._waiting.set_exception(NodeClosed("the listener is closed"))
        os.close(self._fd)
        self._fd = -1

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        loop.add_reader(self._fd, _wake, self._waiting)
        try:
            await self._waiting
        finally:
            if self._fd >= 0:
                loop.remove_reader(self._fd)
            self._waiting = None


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
