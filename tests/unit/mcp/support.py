"""What the MCP unit tests share besides fixtures."""

import asyncio
import json
from typing import Any

__all__ = ["LIMIT_S", "Wire"]

LIMIT_S = 20.0
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


class Wire:
    """The client's end of a connection, and the task that serves the other."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        serving: "asyncio.Task[None]",
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.serving = serving

    def write(self, message: object) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def read(self) -> dict[str, Any]:
        async with asyncio.timeout(LIMIT_S):
            return json.loads(await self.reader.readline())

    async def ask(self, number: int, method: str, params: object) -> dict[str, Any]:
        self.write({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        return await self.read()

    async def begin(self) -> None:
        await self.ask(0, "initialize", HELLO)
        self.write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def served(self) -> None:
        """Wait for the server's end; raises what it raised."""
        async with asyncio.timeout(LIMIT_S):
            await self.serving
