"""Task directories and the shims that own them: prepare, start, look, end, discard.

The files are the truth, read again at every look; nothing here remembers what a task did.
It never ends a shim by itself, and never starts an agent: only a shim that won a claim does.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from cmesh.errors import RunnerError
from cmesh.model import TaskId
from cmesh.paths import ensure_private_dir
from cmesh.runner import processes, shim
from cmesh.runner.evidence import Look, read_exit
from cmesh.runner.launch import Launch
from cmesh.runner.warm import WarmShim

__all__ = ["GRACE_S", "Supervisor"]

GRACE_S = 5.0
DELETE_LIMIT_S = 2.0
STDERR_LIMIT_BYTES = 1024 * 1024
_GONE = ".gone-"
_PRIVATE = ("home", "tmp")
_WAKE_READ_BYTES = 512


class Supervisor:
    """The worker's side of the start and cancel protocols; used from one event loop.

    Attributes:
        tasks_dir: one directory a task, mode 0700, on a local file system with `flock`.
        on_change: called in the loop when a task's files or shim may have changed; it says
            nothing but "look".
    """

    def __init__(
        self,
        tasks_dir: Path,
        *,
        on_change: Callable[[TaskId], None] | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.tasks_dir = tasks_dir
        self.on_change = on_change
        self._grace_s = grace_s
        self._watched: dict[TaskId, int] = {}
        self._warm: WarmShim | None = None
        self._deleting: set[asyncio.Future[None]] = set()

    @property
    def warm_pid(self) -> int | None:
        """Return the process that keeps the idle shim, for memory figures; None = not now."""
        return None if self._warm is None else self._warm.pid

    async def start(self) -> None:
        """Adopt the tasks of an earlier life and start the idle shim.

        Raises:
            UnsafePermissions: the tasks directory is open to others.
            RunnerError: no shim can be started.
        """
        ensure_private_dir(self.tasks_dir)
        for entry in list(self.tasks_dir.iterdir()):
            if entry.name.startswith(_GONE):
                self._delete(entry)
            elif entry.is_dir():
                self._adopt(TaskId(entry.name))
        self._start_warm()

    async def close(self) -> None:
        """Let the idle shim go; shims with a task run on, for the next life to adopt."""
        for task_id in list(self._watched):
            self._unwatch(task_id)
        if self._warm is not None:
            warm, self._warm = self._warm, None
            await warm.close()
        if self._deleting:
            await asyncio.wait(self._deleting, timeout=DELETE_LIMIT_S)

    def prepare(self, task_id: TaskId, launch: Launch) -> Path:
        """Make the task's directory and write what its shim will start; return it.

        May be repeated until the task is claimed.

        Raises:
            OSError: the disk is full, or the directory cannot be made.
        """
        directory = self.directory(task_id)
        for path in (directory, *(directory / name for name in _PRIVATE)):
            path.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(directory / "wake", 0o600)
        # The marker by which processes are found again when no shim is left to ask.
        env = {**launch.env, shim.MARKER: task_id}
        fields: Mapping[str, object] = {
            "argv": launch.argv,
            "cwd": launch.cwd,
            "runtime_s": launch.runtime_s,
            "output_bytes": launch.output_bytes,
            "env": env,
            "stdin": "stdin",
            "error_bytes": min(launch.output_bytes, STDERR_LIMIT_BYTES),
            "grace_s": self._grace_s,
        }
        _replace(directory / "stdin", launch.stdin)
        _replace(directory / "launch.json", json.dumps(fields).encode())
        return directory

    async def spawn(self, task_id: TaskId) -> None:
        """Hand a prepared task to the idle shim; harmless when the task is claimed already.

        Raises:
            RunnerError: no shim can be started.
        """
        self._watch(task_id)
        try:
            self._hand(self.directory(task_id))
        except RunnerError:
            self._unwatch(task_id)
            raise

    def look(self, task_id: TaskId) -> Look:
        """Return what the disk and the processes say now; well under a millisecond."""
        directory = f"{self.tasks_dir}/{task_id}"  # `Path` is half of a look's cost
        claim = processes.read_owner(f"{directory}/claim")
        alive = claim is not None and self._owner_alive(directory, claim)
        # INVARIANT: the owner first, then the result. The other way round, a shim that ends in
        # between would look as if it had left none.
        exit_ = read_exit(f"{directory}/result.json")
        agent = processes.read_owner(f"{directory}/agent")
        return Look(
            claim="none" if claim is None else "burnt" if claim.who == "worker" else "shim",
            owner_alive=alive,
            child_alive=task_id in self._watched,
            agent_pid=agent.pid if agent is not None and agent.pid else None,
            spool_bytes=_size(f"{directory}/stdout"),
            exit=exit_,
        )

    def read_spool(
        self,
        task_id: TaskId,
        offset: int,
        limit: int,
        *,
        stream: Literal["stdout", "stderr"] = "stdout",
    ) -> bytes:
        """Return at most `limit` bytes of the kept output from `offset`; empty = no more yet."""
        try:
            with (self.directory(task_id) / stream).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def spool_path(self, task_id: TaskId) -> Path:
        """Return the path of the kept standard output; it need not exist."""
        return self.directory(task_id) / "stdout"

    def burn(self, task_id: TaskId) -> bool:
        """Take the claim so that no shim ever can; False when a shim has it.

        Durable when it returns. Only then may a task that was about to start be called
        cancelled.
        """
        directory = self.directory(task_id)
        directory.mkdir(mode=0o700, exist_ok=True)
        own = directory / f".claim.worker.{os.getpid()}"
        _write_synced(own, json.dumps(asdict(processes.own_record())).encode())
        try:
            os.link(own, directory / "claim")
        except FileExistsError:
            owner = processes.read_owner(f"{directory}/claim")
            return owner is not None and owner.who == "worker"
        finally:
            own.unlink()
        _sync(directory)
        return True

    def end(self, task_id: TaskId, reason: Literal["cancelled", "revoked"]) -> None:
        """Tell the task's shim to end the tree; may be repeated, also after a restart.

        The wish is durable before the signal. A shim that claims later finds the wish too.
        """
        directory = self.directory(task_id)
        if not directory.is_dir():
            return
        wish = directory / "end"
        if not wish.exists():
            _write_synced(directory / ".end", json.dumps({"reason": reason}).encode())
            (directory / ".end").replace(wish)
            _sync(directory)
        claim = processes.read_owner(f"{directory}/claim")
        if claim is not None and claim.who == "shim" and self._owner_alive(str(directory), claim):
            shim.signal_process(claim.process, signal.SIGTERM)

    def count_processes(self, task_id: TaskId) -> int:
        """Return how many live processes the task has; the shim itself is not one of them."""
        return len(self._processes(task_id))

    def end_survivors(self, task_id: TaskId) -> int:
        """Kill what a dead shim left behind and return how many live; repeat until 0.

        Does nothing but count while the shim lives: ending the tree is the shim's work.
        """
        if not self.look(task_id).owner_alive:
            for process in self._processes(task_id):
                shim.signal_process(process, signal.SIGKILL)
        return self.count_processes(task_id)

    def discard(self, task_id: TaskId) -> None:
        """Rename the task's directory away at once and delete it in a thread.

        INVARIANT: the directory goes as a whole. While it stands, its claim stands, so a
        straggling shim finds either the claim or nothing.
        """
        self._unwatch(task_id)
        gone = self.tasks_dir / f"{_GONE}{task_id}"
        with contextlib.suppress(FileNotFoundError):
            self.directory(task_id).rename(gone)
            self._delete(gone)

    def directory(self, task_id: TaskId) -> Path:
        """Return the task's directory; it need not exist."""
        return self.tasks_dir / task_id

    def _owner_alive(self, directory: str, claim: processes.Owner) -> bool:
        return processes.is_locked(f"{directory}/claim") and processes.is_alive(claim)

    def _processes(self, task_id: TaskId) -> set[shim.Process]:
        claim = processes.read_owner(f"{self.tasks_dir}/{task_id}/claim")
        return processes.task_processes(task_id, claim)

    def _adopt(self, task_id: TaskId) -> None:
        # Watched first, so that a shim that ends in between is not waited for.
        with contextlib.suppress(OSError):
            self._watch(task_id)
        if not self.look(task_id).owner_alive:
            self._unwatch(task_id)

    def _start_warm(self) -> WarmShim:
        self._warm = WarmShim(self.tasks_dir / "shim.log", self._warm_ended)
        return self._warm

    def _hand(self, directory: Path) -> None:
        if self._warm is not None:
            with contextlib.suppress(OSError):
                self._warm.hand(directory)
                return
        try:
            self._start_warm().hand(directory)
        except OSError as error:
            raise RunnerError(f"cannot reach the idle shim: {error.strerror}") from error

    def _warm_ended(self, warm: WarmShim) -> None:
        """Forget the idle shim, and the tasks it may have taken along before a claim."""
        if self._warm is warm:
            self._warm = None
        for task_id in list(self._watched):
            if self.look(task_id).claim == "none":
                self._unwatch(task_id)
                self._changed(task_id)

    def _watch(self, task_id: TaskId) -> None:
        if task_id in self._watched:
            return
        fd = os.open(self.directory(task_id) / "wake", os.O_RDONLY | os.O_NONBLOCK)
        self._watched[task_id] = fd
        asyncio.get_running_loop().add_reader(fd, self._woken, task_id, fd)

    def _unwatch(self, task_id: TaskId) -> None:
        fd = self._watched.pop(task_id, -1)
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def _woken(self, task_id: TaskId, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            # The end of the pipe: the last shim of this task is gone.
            if not os.read(fd, _WAKE_READ_BYTES):
                self._unwatch(task_id)
        self._changed(task_id)

    def _changed(self, task_id: TaskId) -> None:
        if self.on_change is not None:
            self.on_change(task_id)

    def _delete(self, path: Path) -> None:
        job = asyncio.get_running_loop().run_in_executor(None, _delete_tree, path)
        self._deleting.add(job)
        job.add_done_callback(self._deleting.discard)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}")
    with open(temporary, "wb", opener=_open_private) as file:
        file.write(data)
    temporary.replace(path)


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb", opener=_open_private) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _size(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _delete_tree(path: Path) -> None:
    def open_up(_function: object, name: str, _error: object) -> None:
        # An agent may leave directories that nobody may enter, not even their owner.
        with contextlib.suppress(OSError):
            Path(name).parent.chmod(0o700)
            Path(name).chmod(0o700)

    for _attempt in range(2):
        if path.exists():
            shutil.rmtree(path, onerror=open_up)
