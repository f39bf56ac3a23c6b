"""The process that keeps one idle shim, and the socket it gets its tasks from.

It ends when this side of the socket closes; shims that took a task do not.
"""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as parsed

from cmesh.errors import RunnerError
from cmesh.runner import shim
from cmesh.runner.launch import Containment

__all__ = ["WarmShim"]

CLOSE_LIMIT_S = 2.0
_READ_BYTES = 4096

logger = logging.getLogger(__name__)


@parsed(frozen=True, slots=True, kw_only=True)
class _Ready:
    """What an idle shim says once it could start a task."""

    containment: Containment
    note: str


_READY: TypeAdapter[_Ready] = TypeAdapter(_Ready)


class WarmShim:
    """A started `shim.py`; needs a running event loop.

    Attributes:
        containment: what the latest idle shim has for its task, and why it is not more.
    """

    def __init__(self, log: Path, on_end: Callable[["WarmShim"], None]) -> None:
        """Start the process; `log` gets what a shim says about its own failures.

        Raises:
            RunnerError: it cannot be started.
        """
        self._on_end = on_end
        self.containment: tuple[Containment | Literal[""], str] = ("", "")
        # Records, not a stream: an idle shim must read exactly one task.
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(0)
        with theirs, log.open("ab") as errors:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own file, our interpreter
                    [sys.executable, "-I", "-S", shim.__file__],
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd="/",
                    env={},
                    start_new_session=True,
                )
            except OSError as error:
                self._socket.close()
                raise RunnerError(f"cannot start a shim: {error.strerror}") from error
        assert self._process.stdout is not None
        self._news = self._process.stdout
        os.set_blocking(self._news.fileno(), False)
        asyncio.get_running_loop().add_reader(self._news.fileno(), self._readable)

    @property
    def pid(self) -> int:
        """Return the process id of the keeper, not of the idle shim."""
        return self._process.pid

    def hand(self, directory: Path) -> None:
        """Give the idle shim its task, without blocking.

        Raises:
            OSError: nobody is there to take it, or too many tasks wait.
        """
        self._socket.send(json.dumps({"directory": str(directory)}).encode())

    async def close(self) -> None:
        """Close the socket and wait for the process; killed after `CLOSE_LIMIT_S`."""
        self._release()
        try:
            await asyncio.to_thread(self._process.wait, CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def _readable(self) -> None:
        if news := os.read(self._news.fileno(), _READ_BYTES):
            self._noted(news.splitlines()[-1])
            return
        self._release()
        self._process.kill()
        self._process.wait()
        logger.warning("idle shim ended", extra={"data": {"status": self._process.returncode}})
        self._on_end(self)

    def _noted(self, line: bytes) -> None:
        ready = _READY.validate_json(line)
        now = (ready.containment, ready.note)
        if now != self.containment and ready.containment == "best_effort":
            logger.warning("best_effort", extra={"data": {"why": ready.note}})
        self.containment = now

    def _release(self) -> None:
        asyncio.get_running_loop().remove_reader(self._news.fileno())
        self._socket.close()
        self._news.close()
