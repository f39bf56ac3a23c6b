"""The demo's stage: a local tailnet and two daemons as processes, in one private directory.

Starts them. What is shown there is `cmesh.interfaces.demo.story`; how it ends,
`cmesh.interfaces.demo.ending`.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cmesh.clock import Clock
from cmesh.errors import DaemonNotRunning, DaemonTimeout
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.daemon_log import failure
from cmesh.interfaces.demo.ending import Left, end
from cmesh.interfaces.demo.machine import DemoNode
from cmesh.interfaces.start import clear_down, serve_argv
from cmesh.node.testnet import Testnet
from cmesh.paths import control_socket, daemon_environment, ensure_private_dir, log_file
from cmesh.platform import directories

__all__ = ["Stage"]

UP_LIMIT_S = 40.0
"""From a daemon's start to its node on the tailnet; a slow machine imports for seconds."""

POLL_S = 0.03

# Unix socket paths are short (108 bytes on Linux), temporary directories may be deep.
_BASE_CHARACTERS = 50


class Stage:
    """Everything the demo starts.

    Attributes:
        base: the private directory all of it lives in.
        testnet: the local tailnet.
        join_key: file with a key for more nodes, once `open_to_others` made it.
        laptop: the caller; `builder` is the worker.
    """

    def __init__(self, clock: Clock) -> None:
        self.base = _private_directory()
        self.join_key = self.base / "join.key"
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

    async def open_to_others(self, user: str) -> None:
        """Make the key by which another daemon of this machine joins, as a machine of `user`."""
        _write_private(self.join_key, await self.testnet.auth_key(user, reusable=True))

    async def close(self) -> Left:
        """End everything of the demo's own and remove the directory; return what is left.

        Never raises for what is already gone.
        """
        return await end(self.nodes, self.testnet, self.base, self._clock)


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
    parent = directories.short_temporary(_BASE_CHARACTERS)
    # Rules name real paths, and on macOS the temporary directory is behind a link.
    return Path(tempfile.mkdtemp(prefix="cmesh-demo-", dir=parent)).resolve()


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")
