"""An HTTP API on loopback that keeps each request as it came, byte for byte, and answers by script."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

from cmesh.runner.egress.outside import Streams

__all__ = ["Api", "Asked", "Play", "api", "ok"]


@dataclass(frozen=True)
class Asked:
    """A request: its head as text, its headers by lower name, its body without chunks."""

    head: str
    headers: dict[str, str]
    body: bytes


Play = Callable[[Asked, Streams], Awaitable[bool]]
"""Answers a request; False = the connection ends after it."""


async def ok(asked: Asked, streams: Streams) -> bool:
    streams[1].write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine")
    await streams[1].drain()
    return bool(asked)


@dataclass
class Api:
    """Attributes: `play` answers; `connections`; `requests`, and `left` beyond the last one."""

    port: int = 0
    play: Play = ok
    connections: int = 0
    requests: list[Asked] = field(default_factory=list[Asked])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                    fields = [line.partition(":") for line in head.split("\r\n")[1:-2]]
                    headers = {name.lower(): value.strip() for name, _, value in fields}
                    asked = Asked(head, headers, await _body(headers, reader))
                    self.requests.append(asked)
                    if not await self.play(asked, (reader, writer)):
                        break
        finally:
            writer.close()


async def _body(headers: dict[str, str], reader: asyncio.StreamReader) -> bytes:
    if "transfer-encoding" not in headers:
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return body


@contextlib.asynccontextmanager
async def api(context: ssl.SSLContext | None = None) -> AsyncGenerator[Api]:
    """Serve one."""
    found = Api()
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(found.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
