"""The demo's stage: a local tailnet and two daemons as processes, in one private directory.

Starts them and, whatever happens, ends exactly what it started. What is shown there is
`cmesh.interfaces.demo.story`.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cmesh.clock import Clock
from cmesh.config import TESTNET_VARIABLE
from cmesh.daemon.operations import CancelArguments, StatusView, TaskArguments, TasksArguments
from cmesh.errors import CmeshError, DaemonNotRunning, DaemonTimeout
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.demo.processes import Started, alive, descendants, processes_with
from cmesh.interfaces.start import clear_down, failure, log_file, mark_down, serve_argv
from cmesh.model import Direction
from cmesh.node.testnet import Testnet
from cmesh.paths import control_socket, daemon_environment, ensure_private_dir
from cmesh.text import scrub

__all__ = ["DemoNode", "Stage"]

UP_LIMIT_S = 40.0
"""From a daemon's start to its node on the tailnet; a slow machine imports for seconds."""

POLL_S = 0.03
STOP_LIMIT_S = 15.0
CANCEL_LIMIT_S = 8.0
SWEEP_LIMIT_S = 5.0
LOG_LINES = 12

# Unix socket paths are short (108 bytes on Linux), temporary directories may be deep.
_BASE_CHARACTERS = 50


@dataclass(slots=True, kw_only=True)
class DemoNode:
    """One machine of the demo: its directories, its daemon and a control client of its owner."""

    name: str
    home: Path
    client: ControlClient
    process: asyncio.subprocess.Process | None = None
    connected: bool = False
    status: StatusView = field(default_factory=lambda: StatusView(version="", phase="setup"))

    @property
    def state(self) -> Path:
        """Return the state directory."""
        return self.home / "state"

    @property
    def config(self) -> Path:
        """Return the configuration directory."""
        return self.home / "config"

    @property
    def pid(self) -> int:
        """Return the daemon's process id; 0 before its start."""
        return self.process.pid if self.process else 0

    def environment(self) -> dict[str, str]:
        """Return what a command needs to speak to this node."""
        return {
            "CMESH_STATE_DIR": str(self.state),
            "CMESH_CONFIG_DIR": str(self.config),
            TESTNET_VARIABLE: "1",
        }

    def log_tail(self) -> str:
        """Return the last lines of the daemon's log."""
        with contextlib.suppress(OSError):
            lines = log_file(self.state).read_text("utf-8", "replace").splitlines()
            return scrub("\n".join(lines[-LOG_LINES:]))
        return ""


class Stage:
    """Everything the demo starts.

    Attributes:
        base: the private directory all of it lives in.
        testnet: the local tailnet.
        laptop: the caller; `builder` is the worker.
    """

    def __init__(self, clock: Clock) -> None:
        self.base = _private_directory()
        self.testnet = Testnet(state_dir=self.base / "tailnet")
        self.laptop = _node(self.base, "laptop")
        self.builder = _node(self.base, "builder")
        self._clock = clock

    @property
    def nodes(self) -> tuple[DemoNode, DemoNode]:
        """Return both nodes, the caller first."""
        return self.laptop, self.builder

    async def start(self, node: DemoNode, config: str, auth_key: str) -> None:
        """Write a node's configuration, start its daemon, wait until its node is up.

        Raises:
            CmeshError: the daemon ended; the error is what it said last.
            DaemonTimeout: it is not up within `UP_LIMIT_S`.
        """
        for directory in (node.home, node.config, node.state):
            ensure_private_dir(directory)
        _write_private(node.config / "auth.key", auth_key)
        _write_private(node.config / "config.toml", config)
        node.process = await _spawn(node)
        deadline = self._clock.monotonic() + UP_LIMIT_S
        while True:
            with contextlib.suppress(DaemonNotRunning):
                if not node.connected:
                    await node.client.connect()
                    node.connected = True
                node.status = await node.client.status()
                if node.status.phase == "up":
                    return
            if node.process.returncode is not None:
                error = failure(node.process.returncode, node.state)
                raise type(error)(f"the daemon of {node.name}: {error.message}", hint="")
            if self._clock.monotonic() > deadline:
                raise DaemonTimeout(
                    f"{node.name} is not on the tailnet within {UP_LIMIT_S:g} s "
                    f"(it is {node.status.phase})",
                    hint="",
                )
            await asyncio.sleep(POLL_S)

    async def close(self) -> list[int]:
        """End everything and remove the directory; return other processes that still use it.

        After a kept demo those may be an agent's, which was told to use it; else nothing
        may be left. Never raises for what is already gone.
        """
        family = descendants(node.pid for node in self.nodes if node.pid)
        for node in self.nodes:
            with contextlib.suppress(OSError, CmeshError):
                # So that no relay of an agent starts the daemon again meanwhile.
                mark_down(node.state)
        await self._end_tasks()
        await asyncio.gather(*(self._stop(node) for node in self.nodes))
        await self.testnet.close()
        await self._sweep()
        others = sorted({*processes_with(self.base), *await self._outlived(family)})
        await asyncio.to_thread(self._remove, keep_marks=bool(others))
        return others

    async def _end_tasks(self) -> None:
        """Cancel what runs on the worker, so that its agents end before their daemon does."""
        if not self.builder.connected:
            return
        client = self.builder.client
        with contextlib.suppress(CmeshError, TimeoutError):
            async with asyncio.timeout(CANCEL_LIMIT_S):
                page = await client.list_tasks(TasksArguments(state="open", direction=Direction.IN))
                for task in page.tasks:
                    view = await client.cancel_task(CancelArguments(task_id=task.task_id))
                    wait = TaskArguments(
                        task_id=task.task_id, known_state=view.state, wait_s=CANCEL_LIMIT_S
                    )
                    await client.get_task(wait)

    async def _stop(self, node: DemoNode) -> None:
        if node.connected:
            node.connected = False
            await node.client.close()
        process = node.process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _sweep(self) -> None:
        """End what is left of tasks: their processes carry the worker's task directory."""
        tasks = self.builder.state / "tasks"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SWEEP_LIMIT_S):
                while left := processes_with(tasks):
                    for pid in left:
                        with contextlib.suppress(ProcessLookupError, PermissionError):
                            os.kill(pid, signal.SIGKILL)
                    await asyncio.sleep(POLL_S)

    async def _outlived(self, family: set[Started]) -> list[int]:
        """Wait for the daemons' own children, idle shims above all; return who does not end."""
        deadline = self._clock.monotonic() + SWEEP_LIMIT_S
        while left := alive(family):
            if self._clock.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_S)
        return left

    def _remove(self, *, keep_marks: bool) -> None:
        shutil.rmtree(self.base, ignore_errors=True)
        if keep_marks:
            # A relay that lives on would start a daemon in an empty directory otherwise.
            for node in self.nodes:
                mark_down(node.state)


async def _spawn(node: DemoNode) -> asyncio.subprocess.Process:
    clear_down(node.state)
    environment: Mapping[str, str] = daemon_environment(node.state, node.config)
    log = os.open(log_file(node.state), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            *serve_argv(node.state, node.config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**environment, **node.environment(), "HOME": str(node.home)},
            start_new_session=True,
            umask=0o077,
        )
    finally:
        os.close(log)


def _node(base: Path, name: str) -> DemoNode:
    home = base / name
    client = ControlClient(control_socket(home / "state"), session="demo", agent="cmesh demo")
    return DemoNode(name=name, home=home, client=client)


def _private_directory() -> Path:
    parent = tempfile.gettempdir()
    if len(parent) > _BASE_CHARACTERS and sys.platform != "win32":
        parent = "/tmp"  # noqa: S108 - mkdtemp makes it ours alone
    # Rules name real paths, and on macOS the temporary directory is behind a link.
    return Path(tempfile.mkdtemp(prefix="cmesh-demo-", dir=parent)).resolve()


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")
