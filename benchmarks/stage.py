"""Two daemons on a loopback tailnet, as processes in one private directory, for the benchmarks.

Ends exactly what it started. Where the state lies decides the disk that is measured:
`--directory` of `benchmarks/run`.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from benchmarks.lines import LineClient, control_hello
from cmesh.node.testnet import Testnet
from cmesh.paths import control_socket
from cmesh.policy.rules import FULL_CONSENT

__all__ = ["CLOCK", "COMMAND", "PEER", "TREES", "BenchDaemon", "Stage", "stage"]

ROOT = Path(__file__).resolve().parents[1]
USER = "me@example.com"
COMMAND = "command:true"
PEER = "worker"
UP_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
POLL_S = 0.05

TREES = {
    "cooperative": "sleep 300 & sleep 300 & echo ready; wait",
    "stubborn": "trap '' TERM; setsid sleep 300 & (setsid sleep 300 &) ; echo ready; "
    "while :; do sleep 1; done",
    "finishes": "trap 'sleep 0.3; exit 0' TERM; echo ready; while :; do sleep 0.01; done",
}
"""Commands that are cancelled, by name; each says `ready`."""

CLOCK = "clock"
"""Command that prints the time in nanoseconds, as often as its prompt says."""

_CLOCK = "read n; while [ $n -gt 0 ]; do date +%s%N; sleep 0.02; n=$((n-1)); done"

_OUTBOUND = f"""
[[outbound.allow]]
name = "ask the worker"
peers = ["user:{USER}"]
profiles = ["full"]
"""


class BenchDaemon:
    """One machine: its directories and its daemon."""

    def __init__(self, name: str, base: Path) -> None:
        self.name = name
        self.state = base / name / "state"
        self.config = base / name / "config"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the daemon's process id."""
        assert self.process is not None
        return self.process.pid

    def environment(self) -> dict[str, str]:
        """Return what a program needs to speak to this daemon."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.state.parent),
            "LANG": "C.UTF-8",
            "CMESH_STATE_DIR": str(self.state),
            "CMESH_CONFIG_DIR": str(self.config),
            "CMESH_TESTNET": "1",
        }

    def configure(self, control_url: str, auth_key: str, text: str) -> None:
        """Write the configuration."""
        self.config.mkdir(parents=True)
        _write(self.config / "authkey", auth_key)
        node = f'[node]\nhostname = "{self.name}"\ncontrol_url = "{control_url}"\n'
        _write(self.config / "config.toml", f'{node}auth_key_file = "authkey"\n{text}')

    async def up(self, phase: str = "up") -> None:
        """Start the daemon and wait until its node is on the tailnet, or in another `phase`.

        Raises:
            RuntimeError: it ended, or is not up within `UP_LIMIT_S`.
        """
        with (self.state.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", "cmesh", "daemon"],
                env=self.environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        async with asyncio.timeout(UP_LIMIT_S):
            while True:
                if self.process.poll() is not None:
                    raise RuntimeError((self.state.parent / "log").read_text("utf-8"))
                with contextlib.suppress(OSError, EOFError):
                    if (await asyncio.to_thread(self.call, "status"))["phase"] == phase:
                        return
                await asyncio.sleep(POLL_S)

    def connect(self, session: str = "bench") -> LineClient:
        """Return a connection to the control socket, greeted."""
        client = LineClient.connect(control_socket(self.state))
        control_hello(client, session)
        return client

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Call one operation over a connection of its own."""
        with self.connect() as client:
            answer = client.ask({"id": 1, "op": operation, "arguments": arguments})
        if "error" in answer:
            raise RuntimeError(json.dumps(answer["error"]))
        return answer["result"]

    def stop(self) -> None:
        """End the daemon."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()


class Stage:
    """The tailnet, `caller` and `worker`, and the directory the tasks run in."""

    def __init__(self, base: Path, testnet: Testnet) -> None:
        self.base = base
        self.testnet = testnet
        self.caller = BenchDaemon("caller", base)
        self.worker = BenchDaemon(PEER, base)
        self.place = base / "app"

    def delegation(self) -> dict[str, object]:
        """Return the arguments of one no-op delegation that waits for its end."""
        return {
            "peer": PEER,
            "prompt": "nothing",
            "directory": str(self.place),
            "runner": COMMAND,
            "profile": "full",
            "wait_s": 20,
        }

    def clock_argv(self) -> list[str]:
        """Return the argv of `CLOCK`."""
        return ["/bin/sh", "-c", _CLOCK]

    async def open(self) -> None:
        """Start both daemons and let them trust each other."""
        self.place.mkdir()
        for daemon, text in ((self.caller, _OUTBOUND), (self.worker, self._inbound())):
            key = await self.testnet.auth_key(USER)
            daemon.configure(self.testnet.control_url, key, text)
        await asyncio.gather(self.caller.up(), self.worker.up())
        knock = self.delegation() | {"wait_s": 0}
        await asyncio.to_thread(lambda: self.caller.call("delegate", **knock))
        await self._trust()

    async def _trust(self) -> None:
        async with asyncio.timeout(UP_LIMIT_S):
            while True:
                with contextlib.suppress(RuntimeError):
                    await asyncio.to_thread(lambda: self.worker.call("trust_peer", peer="caller"))
                    return
                await asyncio.sleep(POLL_S)

    def _inbound(self) -> str:
        # Root may be all there is in a container; the daemon refuses it unless it is told.
        root = "[worker]\nallow_root = true\n" if os.getuid() == 0 else ""
        true = shutil.which("true") or "/bin/true"
        trees = "".join(
            f'[commands.{name}]\nargv = [\'/bin/sh\', \'-c\', """{script}"""]\n'
            for name, script in TREES.items()
        )
        runners = ", ".join(f'"command:{name}"' for name in ("true", CLOCK, *TREES))
        return f"""{root}
[commands.true]
argv = ["{true}"]
[commands.{CLOCK}]
argv = {json.dumps(self.clock_argv())}
{trees}
[[inbound.allow]]
name = "benchmark"
peers = ["user:{USER}"]
operations = ["task"]
profiles = ["full"]
runners = [{runners}]
paths = ["{self.place}"]
consent = "{FULL_CONSENT}"
"""


@contextlib.asynccontextmanager
async def stage(directory: Path | None) -> AsyncGenerator[Stage]:
    """Open a stage under `directory` (None = the system's temporary one), then remove it."""
    base = Path(tempfile.mkdtemp(prefix="cmesh-bench-", dir=directory))
    try:
        async with Testnet() as testnet:
            made = Stage(base, testnet)
            try:
                await made.open()
                yield made
            finally:
                for daemon in (made.caller, made.worker):
                    await asyncio.to_thread(daemon.stop)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    path.chmod(0o600)
