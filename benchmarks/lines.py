"""JSON lines over a socket or a pair of pipes, with blocking calls: a client that costs little.

No SDK and no event loop, so that what is measured is the product.
"""

import json
import os
import select
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

__all__ = ["LineClient", "control_hello", "mcp_initialize"]

ANSWER_LIMIT_S = 60.0
_READ_BYTES = 65_536


class LineClient:
    """One conversation; a context manager that closes its descriptors."""

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._rest = b""

    @classmethod
    def connect(cls, path: Path) -> Self:
        """Connect to a unix socket."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            raise
        fd = connection.detach()
        return cls(fd, fd)

    @classmethod
    def of(cls, process: "subprocess.Popen[bytes]") -> Self:
        """Speak to a child by its pipes, which the child's owner closes."""
        assert process.stdin is not None
        assert process.stdout is not None
        return cls(os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for fd in {self._source, self._sink}:
            os.close(fd)

    def send(self, *messages: Mapping[str, object]) -> None:
        """Write messages, one line each, in one go."""
        os.write(self._sink, b"".join(json.dumps(one).encode() + b"\n" for one in messages))

    def read(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            TimeoutError: none came within `ANSWER_LIMIT_S`.
            EOFError: the other side is gone.
        """
        while b"\n" not in self._rest:
            if not select.select([self._source], [], [], ANSWER_LIMIT_S)[0]:
                raise TimeoutError("no answer")
            data = os.read(self._source, _READ_BYTES)
            if not data:
                raise EOFError("the other side is gone")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def ask(self, message: Mapping[str, object]) -> dict[str, Any]:
        """Send a message and return the answer with its id; others are dropped."""
        self.send(message)
        while True:
            answer = self.read()
            if answer.get("id") == message["id"]:
                return answer


def control_hello(client: LineClient, session: str) -> None:
    """Greet the control socket as a command line."""
    client.send({"v": 1, "kind": "cli", "session": session, "cwd": "", "agent": "bench"})
    if client.read().get("ok") is not True:
        raise RuntimeError("the daemon refused the connection")


def mcp_initialize(number: int) -> dict[str, object]:
    """Return the first request of an MCP client."""
    return {
        "jsonrpc": "2.0",
        "id": number,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "bench", "version": "1"},
        },
    }
