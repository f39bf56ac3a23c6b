"""What the supervision tests share: a worker with its supervisor, and bounded waits."""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from cmesh.beneath import Judged
from cmesh.model import TaskId
from cmesh.runner import processes
from cmesh.runner.evidence import Exit, Look
from cmesh.runner.launch import Containment, Launch
from cmesh.runner.sessions import Place
from cmesh.runner.shim_processes import Process, is_zombie, stat_of
from cmesh.runner.supervise import Supervisor

__all__ = [
    "CONTAINMENTS",
    "PYTHON",
    "SHIM",
    "WAIT_LIMIT_S",
    "Worker",
    "alive",
    "lives",
    "new_id",
    "python",
]

CONTAINMENTS: tuple[Containment, ...] = ("pid_namespace", "best_effort")

WAIT_LIMIT_S = 90.0
POLL_S = 0.02
GRACE_S = 0.3
PYTHON = sys.executable
SHIM = str(Path(__file__).parents[3] / "cmesh" / "runner" / "shim.py")


def new_id() -> TaskId:
    return TaskId(str(uuid.uuid4()))


def python(code: str) -> tuple[str, ...]:
    return (PYTHON, "-I", "-S", "-c", code)


def alive(pid: int) -> bool:
    stat = stat_of(pid)
    return stat is not None and not is_zombie(stat[0])


def lives(process: Process) -> bool:
    """Return whether exactly this process lives, by the number it has outside of the task."""
    stat = stat_of(process[0])
    return stat is not None and stat[2] == process[1] and not is_zombie(stat[0])


class Worker:
    """A supervisor in this process, and what it was told.

    Attributes:
        containment: what the tasks are launched with.
    """

    def __init__(
        self,
        tasks_dir: Path,
        containment: Containment = "pid_namespace",
        *,
        grace_s: float = GRACE_S,
    ) -> None:
        self.containment: Containment = containment
        self.news = asyncio.Event()
        self.told: list[TaskId] = []
        self.supervisor = Supervisor(tasks_dir, on_change=self._tell, grace_s=grace_s)

    def _tell(self, task_id: TaskId) -> None:
        self.told.append(task_id)
        self.news.set()

    def prepare(
        self,
        argv: tuple[str, ...],
        *,
        stdin: bytes = b"",
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        runtime_s: int = 60,
        output_bytes: int = 1_000_000,
        idle_s: int | None = None,
        session: Place | None = None,
        judged: Judged | None = None,
        port: int = 0,
        starts_in: str = "",
        files: Mapping[str, str] | None = None,
        again: tuple[str, ...] = (),
    ) -> TaskId:
        task_id = new_id()
        home = self.supervisor.directory(task_id) / "home"
        launch = Launch(
            argv=argv,
            cwd=cwd,
            env={"PATH": os.defpath, **(env or {})},
            stdin=stdin,
            runtime_s=runtime_s,
            output_bytes=output_bytes,
            idle_s=idle_s,
            containment=self.containment,
            again=again,
            session=session,
            judged=judged,
            port=port,
            session_link=str(home / "talks"),
            starts_in=f"{home}/{starts_in}" if starts_in else "",
            files={f"{home}/{name}": text for name, text in (files or {}).items()},
        )
        self.supervisor.prepare(task_id, launch)
        return task_id

    async def run(self, argv: tuple[str, ...], **options: object) -> Exit:
        task_id = self.prepare(argv, **options)  # pyright: ignore[reportArgumentType]
        await self.supervisor.spawn(task_id)
        return await self.result(task_id)

    async def until(self, task_id: TaskId, check: Callable[[Look], bool]) -> Look:
        """Look at each wake-up of the shim; a test that needs a poll uses `eventually`."""
        async with asyncio.timeout(WAIT_LIMIT_S):
            while True:
                self.news.clear()
                look = self.supervisor.look(task_id)
                if check(look):
                    return look
                await self.news.wait()

    async def result(self, task_id: TaskId) -> Exit:
        look = await self.until(task_id, lambda look: look.result)
        assert look.exit is not None
        return look.exit

    async def printed(self, task_id: TaskId, text: bytes) -> bytes:
        """Wait until the agent printed `text`; return all it printed."""
        await self.until(task_id, lambda _look: text in self.output(task_id))
        return self.output(task_id)

    async def eventually(self, check: Callable[[], bool]) -> None:
        """Poll, for what announces nothing: other processes and their ends."""
        async with asyncio.timeout(WAIT_LIMIT_S):
            while not check():
                await asyncio.sleep(POLL_S)

    def processes(self, task_id: TaskId) -> set[Process]:
        """Return the task's processes by their numbers outside of it."""
        claim = processes.read_owner(f"{self.supervisor.directory(task_id)}/claim")
        alive = self.supervisor.look(task_id).owner_alive
        return processes.task_processes(task_id, claim, owner_alive=alive)

    def shim(self, task_id: TaskId) -> int:
        pid = self.claim(task_id)["pid"]
        assert isinstance(pid, int)
        return pid

    def output(self, task_id: TaskId) -> bytes:
        return self.supervisor.read_spool(task_id, 0, 10_000_000)

    def claim(self, task_id: TaskId) -> dict[str, object]:
        path = self.supervisor.directory(task_id) / "claim"
        claim: dict[str, object] = json.loads(path.read_bytes())
        return claim
