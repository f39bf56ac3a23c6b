"""Shims without processes: what the worker's looks would find on disk, set by a test."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cmesh.model import TaskId
from cmesh.runner.evidence import Exit, Look
from cmesh.runner.launch import Launch

__all__ = ["FakeShims"]


@dataclass(slots=True)
class _Run:
    claim: Literal["none", "shim", "burnt"] = "none"
    alive: bool = False
    child: bool = False
    agent: bool = False
    exit: Exit | None = None
    out: bytes = b""
    survivors: int = 0


class FakeShims:
    """Does what `Supervisor` does; outlives a daemon, as shims do.

    Attributes:
        starts: how often an agent was started, by task.
        spawns: how often a shim was spawned, by task.
        launches: what was prepared last, by task.
        claiming: a spawned shim claims at once; else it ends without a trace.
    """

    def __init__(self, tasks_dir: Path) -> None:
        self.tasks_dir = tasks_dir
        self.on_change: Callable[[TaskId], None] = lambda _: None
        self.starts: Counter[TaskId] = Counter()
        self.spawns: Counter[TaskId] = Counter()
        self.launches: dict[TaskId, Launch] = {}
        self.ended: dict[TaskId, str] = {}
        self.claiming = True
        self._runs: dict[TaskId, _Run] = {}

    @property
    def containment(self) -> tuple[str, str]:
        return ("pid_namespace", "")

    def count_processes(self, task_id: TaskId) -> int:
        return int(self._run(task_id).alive)

    def directory(self, task_id: TaskId) -> Path:
        return self.tasks_dir / task_id

    def spool_path(self, task_id: TaskId) -> Path:
        return self.directory(task_id) / "stdout"

    def prepare(self, task_id: TaskId, launch: Launch) -> Path:
        assert launch.argv
        self.launches[task_id] = launch
        self.directory(task_id).mkdir(parents=True, exist_ok=True)
        return self.directory(task_id)

    async def spawn(self, task_id: TaskId) -> None:
        run = self._run(task_id)
        self.spawns[task_id] += 1
        if run.claim == "none" and self.claiming:
            run.claim, run.alive, run.agent = "shim", True, True
            self.starts[task_id] += 1
        self.on_change(task_id)

    def look(self, task_id: TaskId) -> Look:
        run = self._run(task_id)
        return Look(
            claim=run.claim,
            owner_alive=run.alive,
            child_alive=run.child,
            agent_pid=1 if run.agent else None,
            spool_bytes=len(run.out),
            exit=run.exit,
        )

    def read_spool(
        self, task_id: TaskId, offset: int, limit: int, *, stream: str = "stdout"
    ) -> bytes:
        return self._run(task_id).out[offset : offset + limit] if stream == "stdout" else b""

    def burn(self, task_id: TaskId) -> bool:
        run = self._run(task_id)
        self.directory(task_id).mkdir(parents=True, exist_ok=True)
        if run.claim == "none":
            run.claim = "burnt"
        return run.claim == "burnt"

    def end(self, task_id: TaskId, reason: str) -> None:
        self.ended[task_id] = reason

    def end_survivors(self, task_id: TaskId) -> int:
        run = self._run(task_id)
        left, run.survivors = run.survivors, max(0, run.survivors - 1)
        return left

    def discard(self, task_id: TaskId) -> None:
        if self.directory(task_id).exists():
            for path in self.directory(task_id).iterdir():
                path.unlink()
            self.directory(task_id).rmdir()

    # What a test does.

    def running(self) -> list[TaskId]:
        return [task_id for task_id, run in self._runs.items() if run.alive]

    def write(self, task_id: TaskId, data: bytes) -> None:
        self._run(task_id).out += data
        self.on_change(task_id)

    def finish(
        self, task_id: TaskId, *, verdict: Literal["exited", "cancelled"] = "exited", code: int = 0
    ) -> None:
        """Let the agent end, and the shim write its result."""
        run = self._run(task_id)
        self.spool_path(task_id).write_bytes(run.out)
        size = len(run.out)
        run.exit = Exit(
            verdict=verdict,
            exit_code=code,
            stdout_bytes=size,
            stdout_kept=size,
            stdout_sha256=hashlib.sha256(run.out).hexdigest(),
        )
        run.alive = False
        self.on_change(task_id)

    def kill(self, task_id: TaskId, *, survivors: int = 0) -> None:
        """Kill the shim before it could write a result; so many processes survive it."""
        run = self._run(task_id)
        run.alive, run.survivors = False, survivors
        self.on_change(task_id)

    def cut_spool(self, task_id: TaskId, size: int) -> None:
        """Lose what was spooled beyond so many bytes."""
        run = self._run(task_id)
        run.out = run.out[:size]

    def lose_claim(self, task_id: TaskId) -> None:
        """Lose the task's directory, while processes live on."""
        run = self._run(task_id)
        self._runs[task_id] = _Run(survivors=run.survivors)

    def _run(self, task_id: TaskId) -> _Run:
        return self._runs.setdefault(task_id, _Run())
