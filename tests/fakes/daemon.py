"""A daemon process for interface tests: the real control server over `FakeOperations`.

Serves the state directory of the environment until `down`. With `--drive` it
takes JSON lines on stdin, `{"do": "finish", "with": {...}}`, each answered
with one line on stdout once done, and ends with stdin.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from cmesh.interfaces.control import ControlServer
from cmesh.logs import configure
from cmesh.model import TaskState
from cmesh.paths import control_socket, ensure_private_dir, state_dir
from tests.fakes.operations import FakeOperations

__all__ = ["DaemonProcess", "DaemonThread", "main"]

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
END_LIMIT_S = 10.0


class DaemonProcess:
    """The test's side of a driven daemon: a context manager over its process."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.daemon", "--drive"],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == {"ready": True}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(END_LIMIT_S)

    def order(self, do: str, **fields: object) -> dict[str, Any]:
        """Drive the fake; return once done."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "with": fields}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def kill(self) -> None:
        """End it at once, without a goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(END_LIMIT_S)

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


class DaemonThread:
    """The same in a thread of the test's process: quick, for tests that need no process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.operations = FakeOperations()
        self._server: ControlServer | None = None
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._server is not None
        self._run(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_LIMIT_S)
        self._loop.close()

    def order(self, do: str, **fields: object) -> dict[str, Any]:
        """Drive the fake; return once done."""
        return self._run(self._do({"do": do, "with": fields}))

    async def _open(self) -> None:
        ensure_private_dir(state_dir())
        self._server = ControlServer(control_socket(state_dir()), self.operations)
        await self._server.start()

    async def _do(self, order: dict[str, Any]) -> dict[str, Any]:
        return _do(self.operations, order)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(END_LIMIT_S)


def main(*, drive: bool = False) -> int:
    """Serve; return when `down` was called, or stdin ended when driven."""
    configure(sys.stderr)
    asyncio.run(_serve(drive=drive))
    return 0


async def _serve(*, drive: bool) -> None:
    operations = FakeOperations()
    operations.status_view = operations.status_view.model_copy(update={"pid": os.getpid()})
    ensure_private_dir(state_dir())
    async with ControlServer(control_socket(state_dir()), operations):
        ends: list[asyncio.Task[bool]] = [asyncio.create_task(_stopped(operations))]
        if drive:
            ends.append(asyncio.create_task(_drive(operations)))
        _done, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()


async def _stopped(operations: FakeOperations) -> bool:
    return await operations.stopped.wait()


async def _drive(operations: FakeOperations) -> bool:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say({"ready": True})
    while line := await reader.readline():
        _say(_do(operations, json.loads(line)))
    return True


def _do(operations: FakeOperations, order: dict[str, Any]) -> dict[str, object]:
    fields = order.get("with", {})
    match order["do"]:
        case "start":
            operations.start(**fields)
        case "hold":
            operations.hold(**fields)
        case "emit":
            operations.emit(**fields)
        case "finish":
            operations.finish(fields.pop("task_id"), TaskState(fields.pop("state")), **fields)
        case "status":
            update = operations.status_view.model_dump() | fields
            operations.status_view = type(operations.status_view).model_validate(update)
        case "calls":
            names = [name for name, _context, _arguments in operations.calls]
            return {"calls": names, "last": _call(operations)}
        case other:
            raise ValueError(f"no order is called {other}")
    return {"done": order["do"]}


def _call(operations: FakeOperations) -> dict[str, object]:
    if not operations.calls:
        return {}
    _name, context, arguments = operations.calls[-1]
    return {"context": context.model_dump(), "arguments": arguments.model_dump(mode="json")}


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(drive="--drive" in sys.argv))
