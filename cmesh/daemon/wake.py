"""Wakes the owner, or a program of the owner's, when a task ends that nobody waits for.

A wake is a hint: it carries a task's id and state, never text of another machine, and may be
lost with the daemon. What happened stands in the store.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping, Sequence

from cmesh.config import WakeConfig
from cmesh.model import TaskId
from cmesh.platform.notices import desktop_argv
from cmesh.store.records import TaskRecord

__all__ = ["Wake"]

logger = logging.getLogger(__name__)

GRACE_S = 0.5
"""A call that waits for the end gives it to its session first, and then nobody is woken."""

HOOK_LIMIT_S = 30.0
"""A hook that runs for longer is ended with its process group."""

PENDING = 100
"""Wakes of one session that wait; the oldest is dropped, for the store knows it anyway."""

PASSED_ON = (
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "HOME",
    "LANG",
    "LOGNAME",
    "PATH",
    "USER",
    "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR",
)
"""What a hook sees of the daemon's environment."""


class Wake:
    """Wakes at most one at a time for each session; needs a running event loop."""

    def __init__(
        self,
        config: Callable[[], WakeConfig],
        environment: Mapping[str, str],
        told: Callable[[TaskId], bool],
    ) -> None:
        """Make it; `told` says whether a task's session knows its end by itself."""
        self._config = config
        self._told = told
        self._environment = _environment(environment)
        self._pending: dict[str, dict[TaskId, str]] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}

    def note(self, record: TaskRecord, state: str) -> None:
        """Wake whoever asked for a task, or this machine's owner when it waits for approval."""
        config = self._config()
        if not config.hook and not config.desktop:
            return
        pending = self._pending.setdefault(record.session, {})
        pending[record.task_id] = state
        while len(pending) > PENDING:
            del pending[next(iter(pending))]
        if record.session not in self._serving:
            task = asyncio.create_task(self._serve(record.session))
            self._serving[record.session] = task

    async def close(self) -> None:
        """End what runs; hooks that have been started are ended."""
        serving = list(self._serving.values())
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, session: str) -> None:
        try:
            await asyncio.sleep(GRACE_S)
            while pending := self._pending.get(session):
                task_id = next(iter(pending))
                state = pending.pop(task_id)
                if not self._told(task_id):
                    await self._one(task_id, state)
        finally:
            self._pending.pop(session, None)
            del self._serving[session]

    async def _one(self, task_id: TaskId, state: str) -> None:
        config = self._config()
        if config.desktop:
            words = f"task {task_id} {state.replace('_', ' ')}"
            await self._run("desktop", desktop_argv(words), b"")
        if config.hook:
            line = json.dumps({"task_id": task_id, "state": state}).encode() + b"\n"
            await self._run("hook", config.hook, line)

    async def _run(self, kind: str, argv: Sequence[str], line: bytes) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=PIPE,
                stdout=DEVNULL,
                stderr=DEVNULL,
                cwd="/",
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            _failed(kind, error.strerror or type(error).__name__)
            return
        try:
            async with asyncio.timeout(HOOK_LIMIT_S):
                await process.communicate(line)
            if process.returncode:
                _failed(kind, f"exit status {process.returncode}")
        except TimeoutError:
            _failed(kind, f"not done after {HOOK_LIMIT_S:g} s")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


def _failed(kind: str, why: str) -> None:
    logger.warning("wake_failed", extra={"data": {"kind": kind, "why": why}})


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    passed = {name: environment[name] for name in PASSED_ON if name in environment}
    runtime = passed.get("XDG_RUNTIME_DIR")
    if runtime:  # where systemd puts the user's bus; the daemon is started without its address
        passed.setdefault("DBUS_SESSION_BUS_ADDRESS", f"unix:path={runtime}/bus")
    return passed
