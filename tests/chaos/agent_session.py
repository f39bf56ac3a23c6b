"""One long session of a real agent: its process, its conversation, and the calls it makes.

The harness is its model: it says which tool to call, and hears what the tool answered. Between
two calls the agent waits for its model.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

from tests.fakes.live_model import LiveModel
from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import run_of
from tests.system.daemon.machine import Machine

__all__ = ["AgentSession", "Answer"]

START_LIMIT_S = 60.0
CALL_LIMIT_S = 90.0
"""Longer than any call may take, so that a slow one is told as slow and not as a dead agent."""

END_LIMIT_S = 30.0
SAID_BYTES = 4_000

_ERROR = re.compile(r"([a-z_]{3,40}): .*\nNext: ", re.DOTALL)
_KEY = re.compile(r'idempotency_key="([^"]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model was told that its call came to.

    Attributes:
        began, at: seconds of `time.monotonic`, when it was said and when the answer came.
    """

    tool: str
    text: str
    began: float
    at: float

    @property
    def error(self) -> str:
        """The code of an error of cmesh; empty = it is none."""
        found = _ERROR.match(self.text)
        return found[1] if found else ""

    @property
    def key(self) -> str:
        """The idempotency key with which the call is to be repeated; empty = none is named."""
        found = _KEY.search(self.text)
        return found[1] if found else ""

    @property
    def fields(self) -> dict[str, Any]:
        """The structured answer; empty for text."""
        try:
            raw: object = json.loads(self.text)
        except ValueError:
            return {}
        return cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}


class AgentSession:
    """An async context manager that starts the agent, and ends it well.

    Attributes:
        name: `claude` or `codex`.
        calls: how many tools it has called.
    """

    def __init__(self, name: str, machine: Machine, model: ModelServer) -> None:
        self.name = name
        self.calls = 0
        marker = f"long-{name}"
        self._live = model.live[marker] = LiveModel()
        self._run = run_of(name, machine, model.url, f"go on until told <<fake:{marker}>>")
        self._said = self._run.directory / "said"
        self._open: dict[int, tuple[str, float]] = {}
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                self._run.argv,
                cwd=self._run.directory,
                env=self._run.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        await self._heard(0, START_LIMIT_S)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._live.say({"text": "enough"})
        try:
            status = await asyncio.to_thread(self._process.wait, END_LIMIT_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        assert error is not None or status == 0, f"{self.name} ended with {status}: {self.said()}"

    def begin(self, tool: str, **arguments: object) -> int:
        """Let the agent call a tool; `answer` tells what came of it."""
        self.calls += 1
        number = self._live.say({"tool": f"mcp__cmesh__{tool}", "input": arguments})
        self._open[number] = tool, time.monotonic()
        return number

    async def answer(self, number: int) -> Answer:
        """Return the answer of a call.

        Raises:
            AssertionError: none came within `CALL_LIMIT_S`; says what the agent wrote.
        """
        heard = await self._heard(number + 1, CALL_LIMIT_S)
        tool, began = self._open.pop(number)
        return Answer(tool=tool, text=heard.text, began=began, at=heard.at)

    async def call(self, tool: str, **arguments: object) -> Answer:
        """Let the agent call a tool, and return the answer."""
        return await self.answer(self.begin(tool, **arguments))

    def said(self) -> str:
        """Return the end of what the agent has written."""
        return self._said.read_text("utf-8", "replace")[-SAID_BYTES:]

    async def _heard(self, number: int, limit_s: float) -> Any:
        try:
            return await asyncio.to_thread(self._live.heard, number, limit_s)
        except TimeoutError as error:
            raise AssertionError(f"{self.name}: {error}\n{self.said()}") from error
