"""Task directories and the shims that own them: prepare, start, look, end, discard.

The files are the truth, read again at every look; nothing here remembers what a task did.
It never ends a shim by itself, and never starts an agent: only a shim that won a claim does.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal, cast

from cmesh.errors import RunnerError
from cmesh.locks import is_locked
from cmesh.model import TaskId
from cmesh.paths import ensure_private_dir, sync
from cmesh.runner import processes
from cmesh.runner.acceptance import PLACES
from cmesh.runner.evidence import Look, Turn, read_exit, read_turn
from cmesh.runner.launch import Containment, Launch
from cmesh.runner.sessions import Place
from cmesh.runner.shim_files import AGAIN, AGAIN_STDIN, SPENT, TURN
from cmesh.runner.shim_processes import MARKER, Process, signal_process
from cmesh.runner.task_files import delete_tree, replace, size, write_synced
from cmesh.runner.warm import WarmShim
from cmesh.runner.watches import Watches

__all__ = ["GRACE_S", "Supervisor"]

GRACE_S = 5.0
DELETE_LIMIT_S = 2.0
STDERR_LIMIT_BYTES = 1024 * 1024
_GONE = ".gone-"
_PRIVATE = ("home", "tmp")


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
        self._watches = Watches(self._changed)
        self._handed: dict[TaskId, WarmShim] = {}
        self._warm: WarmShim | None = None
        self._deleting: set[asyncio.Future[None]] = set()

    @property
    def warm_pid(self) -> int | None:
        """Return the process that keeps the idle shim, for memory figures; None = not now."""
        return None if self._warm is None else self._warm.pid

    @property
    def containment(self) -> tuple[Containment | Literal[""], str]:
        """Return what will hold the next task's processes, and why it is not more.

        Empty until the first idle shim has tried.
        """
        return ("", "") if self._warm is None else self._warm.containment

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
                self.look(TaskId(entry.name))
        self._start_warm()

    async def close(self) -> None:
        """Let the idle shim go; shims with a task run on, for the next life to adopt."""
        self._watches.close()
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
        if launch.session is not None:
            _link_session(launch.session, Path(launch.session_link))
        _fill_home(launch)
        # The marker by which processes are found again when no shim is left to ask.
        env = {**launch.env, MARKER: task_id}
        fields: Mapping[str, object] = {
            "argv": launch.argv,
            "cwd": launch.cwd,
            "judged": launch.judged,
            "starts_in": launch.starts_in,
            "runtime_s": launch.runtime_s,
            "output_bytes": launch.output_bytes,
            "idle_s": launch.idle_s,
            "env": env,
            "stdin": "stdin",
            "containment": launch.containment,
            "error_bytes": min(launch.output_bytes, STDERR_LIMIT_BYTES),
            "grace_s": self._grace_s,
            "lock": str(launch.session.lock) if launch.session else "",
            "sandbox": launch.sandbox,
            "port": launch.port,
            "disk": launch.disk and asdict(launch.disk),
            "before": launch.before and {**launch.before, "env": {MARKER: task_id}},
            "after": launch.after and {**launch.after, "env": {MARKER: task_id}},
            "again": launch.again,
            "accept": launch.accept and self._acceptance(task_id, launch, launch.accept),
        }
        replace(directory / "stdin", launch.stdin)
        replace(directory / "launch.json", json.dumps(fields).encode())
        return directory

    def _acceptance(
        self, task_id: TaskId, launch: Launch, accept: Mapping[str, object]
    ) -> Mapping[str, object]:
        """Make the command's own places; return what its shim is told of it."""
        for place in PLACES:
            (self.directory(task_id) / place).mkdir(mode=0o700, exist_ok=True)
        env = {**cast("Mapping[str, str]", accept["env"]), MARKER: task_id}
        places = tuple(str(self.directory(task_id) / place) for place in PLACES[1:])
        disk = launch.disk and asdict(dataclasses.replace(launch.disk, places=places))
        return {**accept, "env": env, "grace_s": self._grace_s, "disk": disk}

    async def spawn(self, task_id: TaskId) -> None:
        """Hand a prepared task to the idle shim; harmless when the task is claimed already.

        Raises:
            RunnerError: no shim can be started.
        """
        self._watches.pipe(task_id, self._pipe(task_id))
        try:
            self._handed[task_id] = self._hand(self.directory(task_id))
        except RunnerError:
            self._watches.unpipe(task_id)
            raise

    def look(self, task_id: TaskId) -> Look:
        """Return what the disk and the processes say now; well under a millisecond.

        INVARIANT: an owner that is seen alive is followed, so that its end is told.
        """
        directory = f"{self.tasks_dir}/{task_id}"  # `Path` is half of a look's cost
        claim = processes.read_owner(f"{directory}/claim")
        alive = (
            claim is not None
            and self._owner_alive(directory, claim)
            and self._watches.follow(task_id, claim.process, self._pipe(task_id))
        )
        # INVARIANT: the owner first, then the result. The other way round, a shim that ends in
        # between would look as if it had left none.
        exit_ = read_exit(f"{directory}/result.json")
        agent = processes.read_owner(f"{directory}/agent")
        return Look(
            claim="none" if claim is None else "burnt" if claim.who == "worker" else "shim",
            owner_alive=alive,
            child_alive=self._watches.is_piped(task_id),
            agent_pid=agent.pid if agent is not None and agent.pid else None,
            spool_bytes=size(f"{directory}/stdout"),
            exit=exit_,
            containment="" if claim is None else claim.containment,
            containment_note="" if claim is None else claim.containment_note,
            enforcement="" if claim is None else claim.enforcement,
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
        write_synced(own, json.dumps(asdict(processes.own_record())).encode())
        try:
            os.link(own, directory / "claim")
        except FileExistsError:
            owner = processes.read_owner(f"{directory}/claim")
            return owner is not None and owner.who == "worker"
        finally:
            own.unlink()
        sync(directory)
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
            write_synced(directory / ".end", json.dumps({"reason": reason}).encode())
            (directory / ".end").replace(wish)
            sync(directory)
        self._wake_shim(directory)

    def stop(self, task_id: TaskId, why: str) -> None:
        """Tell the task's shim that a limit is spent: it ends the tree as at its deadline.

        Not durable: who finds the limit spent again, after a restart, tells it again. A shim that
        saw the agent end first lets that stand.
        """
        directory = self.directory(task_id)
        if not directory.is_dir():
            return
        replace(directory / SPENT, json.dumps({"why": why}).encode())
        self._wake_shim(directory)

    def turn(self, task_id: TaskId) -> Turn | None:
        """Return the end of a first turn after which the shim asks for a word; None = none."""
        return read_turn(f"{self.tasks_dir}/{task_id}/{TURN}")

    def told_again(self, task_id: TaskId) -> bool:
        """Say whether the shim was told if there is a repair turn."""
        return (self.directory(task_id) / AGAIN).exists()

    def tell_again(self, task_id: TaskId, session: str, prompt: str = "", *, why: str = "") -> None:
        """Tell the shim how the agent goes on, in its session `session`; empty = not, and `why`.

        Not durable: without its shim a task does not go on. Raises `OSError` for a full disk.
        """
        directory = self.directory(task_id)
        if not directory.is_dir():
            return
        replace(directory / AGAIN_STDIN, prompt.encode("utf-8", "replace"))
        replace(directory / AGAIN, json.dumps({"session": session, "why": why}).encode())
        self._wake_shim(directory)

    def _wake_shim(self, directory: Path) -> None:
        claim = processes.read_owner(f"{directory}/claim")
        if claim is not None and claim.who == "shim" and self._owner_alive(str(directory), claim):
            signal_process(claim.process, signal.SIGTERM)

    def count_processes(self, task_id: TaskId) -> int:
        """Return how many live processes the task has; the shim itself is not one of them."""
        return len(self._processes(task_id))

    def end_survivors(self, task_id: TaskId) -> int:
        """Kill what a dead shim left behind and return how many live; repeat until 0.

        Does nothing but count while the shim lives: ending the tree is the shim's work.
        """
        if not self.look(task_id).owner_alive:
            for process in self._processes(task_id):
                signal_process(process, signal.SIGKILL)
        return self.count_processes(task_id)

    def discard(self, task_id: TaskId) -> None:
        """Rename the task's directory away at once and delete it in a thread.

        INVARIANT: the directory goes as a whole. While it stands, its claim stands, so a
        straggling shim finds either the claim or nothing.
        """
        self._watches.drop(task_id)
        self._handed.pop(task_id, None)
        gone = self.tasks_dir / f"{_GONE}{task_id}"
        with contextlib.suppress(FileNotFoundError):
            self.directory(task_id).rename(gone)
            self._delete(gone)

    def directory(self, task_id: TaskId) -> Path:
        """Return the task's directory; it need not exist."""
        return self.tasks_dir / task_id

    def _owner_alive(self, directory: str, claim: processes.Owner) -> bool:
        return is_locked(f"{directory}/claim") and processes.is_alive(claim)

    def _processes(self, task_id: TaskId) -> set[Process]:
        directory = f"{self.tasks_dir}/{task_id}"
        claim = processes.read_owner(f"{directory}/claim")
        alive = claim is not None and self._owner_alive(directory, claim)
        # The same shim's word on the namespace of its acceptance command; the agent's is gone.
        check = processes.read_owner(f"{directory}/check")
        claim = check if claim is not None and check and check.pid == claim.pid else claim
        return processes.task_processes(task_id, claim, owner_alive=alive)

    def _start_warm(self) -> WarmShim:
        self._warm = WarmShim(self.tasks_dir / "shim.log", self._warm_ended)
        return self._warm

    def _hand(self, directory: Path) -> WarmShim:
        """Hand a task over; return the process that keeps the shim which will take it."""
        if self._warm is not None:
            with contextlib.suppress(OSError):
                self._warm.hand(directory)
                return self._warm
        try:
            warm = self._start_warm()
            warm.hand(directory)
        except OSError as error:
            raise RunnerError(f"cannot reach the idle shim: {error.strerror}") from error
        return warm

    def _warm_ended(self, warm: WarmShim) -> None:
        """Forget the idle shim, and the tasks it may have taken along before a claim."""
        if self._warm is warm:
            self._warm = None
        for task_id in self._watches.piped:
            # Those of a successor are still to be claimed.
            if self._handed.get(task_id) is warm and self.look(task_id).claim == "none":
                self._watches.unpipe(task_id)
                self._changed(task_id)

    def _pipe(self, task_id: TaskId) -> Path:
        return self.directory(task_id) / "wake"

    def _changed(self, task_id: TaskId) -> None:
        if self.on_change is not None:
            self.on_change(task_id)

    def _delete(self, path: Path) -> None:
        job = asyncio.get_running_loop().run_in_executor(None, delete_tree, path)
        self._deleting.add(job)
        job.add_done_callback(self._deleting.discard)


def _link_session(session: Place, link: Path) -> None:
    """Make the conversation's folder and the agent's way to it."""
    for path in (session.lock.parent, session.files):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(session.files)


def _fill_home(launch: Launch) -> None:
    """Make what the program is to find in its home, before anything of the task can run."""
    if launch.starts_in:
        Path(launch.starts_in).mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in launch.files.items():
        path = Path(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(path, text.encode())
