"""The world outside, as the proxy sees it: names, addresses and connections.

Four functions as one value, so that tests give their own. There is no setting that changes
the production ones: a task's connection goes to the public internet, or nowhere.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

from cmesh.runner.egress.addresses import Address, parse_address, refusal

__all__ = [
    "BUFFER_BYTES",
    "INTERNET",
    "Inside",
    "Outside",
    "Streams",
    "open_streams",
    "trusted_here",
]

BUFFER_BYTES = 16 * 1024
"""Bytes of one direction that are read ahead; asyncio holds at most twice as many."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

Inside = Callable[[], Awaitable[Streams]]
"""A connection to what serves this very task in the daemon; raises OSError when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """How the proxy reaches the world.

    Attributes:
        resolve: addresses of a name, best first; raises OSError when there are none.
        refusal: why no task may connect to an address; empty = it may.
        connect: a connection to exactly this address and port; raises OSError.
        secure: the same with TLS and a certificate for the name; raises OSError.
    """

    resolve: Callable[[str], Awaitable[Sequence[Address]]]
    refusal: Callable[[Address], str]
    connect: Callable[[Address, int], Awaitable[Streams]]
    secure: Callable[[Address, int, str], Awaitable[Streams]]


async def open_streams(handle: socket.socket) -> Streams:
    """Return the streams of a connected socket, which they own from then on.

    A write is over when the kernel has all of it: no byte waits in this process beyond one
    read, and the other side of a slow reader is slowed down.
    """
    reader, writer = await asyncio.open_connection(sock=handle, limit=BUFFER_BYTES)
    writer.transport.set_write_buffer_limits(0)
    return reader, writer


# INVARIANT: a name server that is silent holds up other look-ups and nothing else: a task can ask
# for many, each takes its thread until the system gives up, and the daemon's pool is small.
_LOOKUPS = ThreadPoolExecutor(8, "cmesh-lookup")


async def _resolve(name: str) -> Sequence[Address]:
    look = partial(socket.getaddrinfo, name, None, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, look)
    addresses = [parse_address(str(sockaddr[0])) for *_, sockaddr in found]
    return [address for address in addresses if address is not None]


async def _connect(address: Address, port: int) -> Streams:
    # INVARIANT: an address, never a name: what was judged is what is connected to.
    reader, writer = await asyncio.open_connection(str(address), port, limit=BUFFER_BYTES)
    writer.transport.set_write_buffer_limits(0)
    return reader, writer


async def _secure(address: Address, port: int, name: str) -> Streams:
    context = await asyncio.to_thread(trusted_here)
    reader, writer = await asyncio.open_connection(
        str(address), port, ssl=context, server_hostname=name, limit=BUFFER_BYTES
    )
    # With 0 asyncio's TLS stops writing at once and never goes on (`_control_app_writing`).
    writer.transport.set_write_buffer_limits(high=1, low=0)
    return reader, writer


@cache
def trusted_here() -> ssl.SSLContext:
    """Return what this machine trusts; reads its certificates once, which takes 10 to 50 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


INTERNET = Outside(resolve=_resolve, refusal=refusal, connect=_connect, secure=_secure)
