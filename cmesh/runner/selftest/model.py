"""The model of a self-test: it says one word, and notes who asks where it should not.

Served over pairs of connected sockets, so that nothing on the machine but the tested program can
reach it: there is no port. An API of another agent is another entry of `ANSWERS`.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Mapping
from typing import cast

from cmesh.runner.egress.outside import Streams, open_streams
from cmesh.runner.selftest import generate, messages, responses
from cmesh.runner.selftest.reply import Reply
from cmesh.runner.traps.trapset import Api

__all__ = ["ANSWERS", "DECOY_PATH", "MODEL_PATH", "Model"]

MODEL_PATH, DECOY_PATH = "/model", "/decoy"
"""Beginnings of the paths of the model that the program is told of, and of the traps' one."""

BODY_BYTES = 32 * 1024 * 1024
CONNECTIONS_MOST = 64
_NOT_FOUND = Reply(status="404 Not Found")

Answer = Callable[[str, Mapping[str, object]], Reply | None]

ANSWERS: Mapping[Api, Answer] = {
    "messages": messages.answer,
    "responses": responses.answer,
    "generate": generate.answer,
}


class Model:
    """One self-test's model; used from one event loop.

    Attributes:
        turns: how often it was asked to speak where the program was told to ask.
        sprung: `base_url`: it was asked at the traps' address; `instructions`, `credential`:
            the canary came in what was asked, or beside it.
    """

    def __init__(self, api: Api, canary: str) -> None:
        self.turns = 0
        self.sprung: set[str] = set()
        self._answer = ANSWERS[api]
        self._canary = canary.encode()
        self._serving: set[asyncio.Task[None]] = set()

    async def connect(self) -> Streams:
        """Return a new connection to it.

        Raises:
            OSError: there are too many, or no descriptor is left.
        """
        if len(self._serving) >= CONNECTIONS_MOST:
            raise ConnectionRefusedError("too many connections")
        ours, theirs = socket.socketpair()
        serving = asyncio.get_running_loop().create_task(self._serve(theirs))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        return await open_streams(ours)

    async def close(self) -> None:
        """End all connections."""
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, handle: socket.socket) -> None:
        reader, writer = await open_streams(handle)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                reply = await self._reply(head, reader)
                writer.write(
                    f"HTTP/1.1 {reply.status}\r\ncontent-type: {reply.kind}\r\n"
                    f"content-length: {len(reply.body)}\r\n\r\n".encode()
                )
                # A HEAD gets the head alone (RFC 9110 section 9.3.2).
                writer.write(b"" if head.startswith(b"HEAD ") else reply.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, OSError):
            return  # it went away, or speaks no HTTP: then it is not answered either
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _reply(self, head: bytes, reader: asyncio.StreamReader) -> Reply:
        """Read the rest of a request and answer it.

        Raises:
            ValueError: it is no HTTP.
        """
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _version = first.split(" ")
        fields = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        body = await _body(headers, reader)
        self._note(target, head, body)
        if method != "POST":
            return Reply()
        path = target.partition("?")[0]
        for base in (MODEL_PATH, DECOY_PATH):
            if path.startswith(f"{base}/"):
                asked: object = json.loads(body or b"{}")
                values = cast("dict[str, object]", asked) if isinstance(asked, dict) else {}
                reply = self._answer(path.removeprefix(base), values) or _NOT_FOUND
                self.turns += reply.turn and base == MODEL_PATH
                return reply
        return _NOT_FOUND

    def _note(self, target: str, head: bytes, body: bytes) -> None:
        if target.startswith(DECOY_PATH):
            self.sprung.add("base_url")
        if self._canary in head:
            self.sprung.add("credential")
        if self._canary in body:
            self.sprung.add("instructions")


async def _body(headers: Mapping[str, str], reader: asyncio.StreamReader) -> bytes:
    """Return a request's body, plain or in chunks (RFC 9112 section 7.1).

    Raises:
        ValueError: it has no form that is known, or is too long.
    """
    if "transfer-encoding" not in headers:
        return await reader.readexactly(_size(headers.get("content-length", "0"), 10))
    body = b""
    while size := _size((await _line(reader)).partition(b";")[0].decode("ascii"), 16):
        body += await reader.readexactly(_size(str(len(body) + size), 10) - len(body))
        await _line(reader)
    while await _line(reader):
        pass
    return body


async def _line(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readuntil(b"\r\n")).removesuffix(b"\r\n")


def _size(text: str, base: int) -> int:
    size = int(text, base)
    if not 0 <= size <= BODY_BYTES:
        raise ValueError("too long")
    return size
