"""A run apart from the tasks: a supervisor of its own, a throw-away directory, one end to wait for.

Nothing of an earlier run in the same place is left, nor of this one.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path

from cmesh.model import TaskId
from cmesh.runner.evidence import Exit
from cmesh.runner.supervise import Supervisor

__all__ = ["Apart", "run_apart", "throw_away"]


CANCEL_LIMIT_S = 15.0
"""How long a run that nobody wants any more has to come to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """The supervisor of one run apart."""

    supervisor: Supervisor
    changed: asyncio.Event

    async def end(self, task_id: TaskId, limit_s: float) -> Exit:
        """Wait for the shim's result.

        Raises:
            OSError: there is none in time, or the shim is gone without one.
        """
        async with asyncio.timeout(limit_s):
            while True:
                self.changed.clear()
                look = self.supervisor.look(task_id)
                if look.exit is not None:
                    return look.exit
                if not look.owner_alive and not look.child_alive:
                    raise OSError("its shim ended without a result")
                await self.changed.wait()


@contextlib.asynccontextmanager
async def run_apart(place: Path) -> AsyncGenerator[Apart]:
    """Keep a supervisor in a private directory, which is one run's alone; ends what it started.

    Raises:
        UnsafePermissions: the directory is open to others.
        RunnerError: no shim can be started.
    """
    changed = asyncio.Event()
    supervisor = Supervisor(place, on_change=lambda _task_id: changed.set())
    apart = Apart(supervisor=supervisor, changed=changed)
    try:
        await supervisor.start()
        await _end_all(apart)
        yield apart
    finally:
        try:
            await _end_all(apart)
        finally:
            await supervisor.close()


@contextlib.contextmanager
def throw_away(place: Path) -> Generator[Path]:
    """Give a directory outside of cmesh's own, which no sandbox shows; blocks on the disk.

    `place` tells whose it is: what an earlier run there has left is deleted.
    """
    prefix = f"cmesh-apart-{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}-"
    above = Path(os.path.realpath(tempfile.gettempdir()))
    for left in above.glob(f"{prefix}*"):
        if left.lstat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=above))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _end_all(apart: Apart) -> None:
    """End what runs and delete it; its shim first writes the end down, if it still can."""
    supervisor = apart.supervisor
    if not supervisor.tasks_dir.is_dir():
        return
    for entry in list(supervisor.tasks_dir.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            task_id = TaskId(entry.name)
            if supervisor.look(task_id).exit is None:
                supervisor.end(task_id, "cancelled")
                with contextlib.suppress(OSError):  # a wait that is over is one as well
                    await apart.end(task_id, CANCEL_LIMIT_S)
                supervisor.end_survivors(task_id)
            supervisor.discard(task_id)
