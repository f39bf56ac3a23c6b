"""Calls to a daemon of another user, made by a process of that user: `tests.system.daemon.hands`."""

import asyncio
import json
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmesh.errors import DaemonRestarted
from cmesh.interfaces.wire import error_from
from tests.system.daemon.machine import ROOT, as_user, interpreter

__all__ = ["Hands"]

LINE_BYTES = 16 * 1024 * 1024
HANDS_LIMIT_S = 10.0


class Hands:
    """A process of the machine's user that makes the calls."""

    def __init__(self, process: asyncio.subprocess.Process, state: Path) -> None:
        self._process = process
        self._state = str(state)
        self._open: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last = 0
        self._receiver = asyncio.create_task(self._receive())

    @classmethod
    async def open(
        cls, user: pwd.struct_passwd, state: Path, environment: Mapping[str, str]
    ) -> "Hands":
        """Start it for the daemon with this state directory."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(interpreter(user), "-m", "tests.system.daemon.hands"),
            cwd=ROOT,
            env=environment,
            stdin=pipe,
            stdout=pipe,
            limit=LINE_BYTES,
            start_new_session=True,
            **as_user(user),
        )
        return cls(process, state)

    async def call(self, operation: str, arguments: object) -> dict[str, Any]:
        """Call an operation; raises the daemon's error."""
        self._last += 1
        number = self._last
        future = self._open[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        line = json.dumps([number, self._state, operation, arguments])
        self._process.stdin.write(line.encode() + b"\n")
        try:
            answer = await future
        finally:
            del self._open[number]
        if "error" in answer:
            raise error_from(answer["error"])
        return answer["result"]

    async def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(HANDS_LIMIT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._receiver.cancel()
        await asyncio.wait([self._receiver])

    async def _receive(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            number, answer = json.loads(line)
            if number in self._open and not self._open[number].done():
                self._open[number].set_result(answer)
        for future in self._open.values():
            if not future.done():
                future.set_exception(DaemonRestarted("the calling process is gone"))
