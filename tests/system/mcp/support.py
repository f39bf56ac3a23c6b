"""The processes of the MCP system tests: a fake daemon, a relay, and what an agent says to it."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

__all__ = [
    "HELLO",
    "LIMIT_S",
    "MODERN",
    "RELAY",
    "ROOT",
    "Daemon",
    "MakeRelay",
    "Relay",
    "environment",
    "text_of",
]

ROOT = Path(__file__).resolve().parents[3]
LIMIT_S = 40.0
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "agent", "version": "1"},
}
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "agent", "version": "2"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
RELAY = ROOT / "cmesh" / "interfaces" / "mcp" / "relay.py"
# The starter's stand-in: the module under `-S`, with a command of the test's own.
DRIVER = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from cmesh.interfaces.mcp.relay import main
sys.exit(main(sys.argv[1:]))
"""


class MakeRelay(Protocol):
    async def __call__(self, *start: str) -> "Relay": ...


def environment(state: Path) -> dict[str, str]:
    """Return a clean environment: its own home and state, the tree on the path."""
    return {
        "HOME": str(state.parent),
        "PATH": os.environ["PATH"],
        "CMESH_STATE_DIR": str(state),
        "CMESH_CONFIG_DIR": str(state.parent / "c"),
        "PYTHONPATH": str(ROOT),
    }


class Daemon:
    """The fake daemon; `do` calls a method of its `FakeOperations`."""

    argv = (sys.executable, str(Path(__file__).with_name("fake_daemon.py")))

    def __init__(self, state: Path) -> None:
        self._state = state
        self._process: Process | None = None

    async def start(self, *with_task: str) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self.argv, *with_task, stdin=PIPE, stdout=PIPE, env=environment(self._state)
        )
        assert await self._said() == "ready"

    async def do(self, method: str, **arguments: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{method} {json.dumps(arguments)}\n".encode())
        assert await self._said() == "done"

    async def kill(self) -> None:
        """Kill -9."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _said(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            return (await self._process.stdout.readline()).decode().strip()


class Relay:
    """`cmesh mcp` as an agent runs it.

    Attributes:
        notifications: what came without being asked for.
    """

    def __init__(self, state: Path, start: Sequence[str] = ()) -> None:
        # Without a command of its own a relay here must not start anything real.
        self._argv = ("-I", "-S", "-c", DRIVER, str(ROOT), *(start or ("/bin/false",)))
        self._state = state
        self._number = 0
        self._answers: dict[object, asyncio.Future[dict[str, Any]]] = {}
        self.notifications: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.refusals: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *self._argv, stdin=PIPE, stdout=PIPE, env=environment(self._state)
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self._reading
        await self.process.wait()

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def tell(self, method: str, **params: object) -> None:
        self.write(_line({"jsonrpc": "2.0", "method": method, "params": params}))

    def ask(self, method: str, params: object = None) -> "asyncio.Future[dict[str, Any]]":
        self._number += 1
        answer = asyncio.get_running_loop().create_future()
        self._answers[self._number] = answer
        asked = {"id": self._number, "method": method, "params": params}
        message = {"jsonrpc": "2.0"} | {key: value for key, value in asked.items() if value}
        self.write(_line(message))
        return answer

    async def answer(self, method: str, params: object = None) -> dict[str, Any]:
        async with asyncio.timeout(LIMIT_S):
            return await self.ask(method, params)

    async def begin(self) -> None:
        assert "result" in await self.answer("initialize", HELLO)
        self.tell("notifications/initialized")

    def call(self, tool: str, **arguments: object) -> "asyncio.Future[dict[str, Any]]":
        return self.ask("tools/call", {"name": tool, "arguments": arguments})

    async def text(self, tool: str, **arguments: object) -> str:
        async with asyncio.timeout(LIMIT_S):
            return text_of(await self.call(tool, **arguments))

    async def end(self) -> int:
        """Close stdin and return the exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(LIMIT_S):
            return await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            message = json.loads(line)
            if "method" in message:
                self.notifications.put_nowait(message)
            elif message["id"] is None:
                self.refusals.put_nowait(message)
            else:
                self._answers.pop(message["id"]).set_result(message)


def text_of(answer: dict[str, Any]) -> str:
    return answer["result"]["content"][0]["text"]


def _line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"
