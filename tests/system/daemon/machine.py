"""Machines for tests: cmesh daemons as processes, each with its own directories and user."""

import asyncio
import atexit
import contextlib
import fcntl
import functools
import os
import pty
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import ConfigDict

from cmesh.daemon.answers import StatusView, TaskView, View
from cmesh.daemon.arguments import (
    DelegateArguments,
    NoArguments,
    ReplyArguments,
    SqlArguments,
    TaskArguments,
    TrustArguments,
)
from cmesh.errors import CmeshError, TaskNotFound
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.mcp.driver import AgentDriver
from cmesh.interfaces.wire import error_from
from cmesh.model import ENDED, Profile
from cmesh.node.testnet import Testnet
from cmesh.paths import control_socket
from cmesh.policy.rules import FULL_CONSENT
from tests.system.daemon.calls import ROOT, call_as

__all__ = [
    "ME",
    "READY_LIMIT_S",
    "Machine",
    "as_user",
    "consent",
    "eventually",
    "here",
    "worker_user",
]

ME = "me@example.com"
READY_LIMIT_S = 40.0
END_LIMIT_S = 40.0
POLL_S = 0.05
TEST_USER = "cmesh-test"
_AS_USER = """
import os, sys
uid, gid, *command = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.execv(command[0], command)
"""
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_OTHERS = tuple(f"{place}/{_VERSION}" for place in ("/usr/bin", "/usr/local/bin"))

T = TypeVar("T")


class _Raw(View):
    model_config = ConfigDict(extra="allow")


def worker_user() -> pwd.struct_passwd:
    """Return who runs tasks in tests: this user, or as root an ordinary one made for it."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    with Path(__file__).open("rb") as ours:
        fcntl.flock(ours, fcntl.LOCK_EX)  # tests run in several processes
        try:
            return pwd.getpwnam(TEST_USER)
        except KeyError:
            argv = ["useradd", "--system", "--no-create-home", "--shell", "/bin/sh", TEST_USER]
            subprocess.run(argv, check=True, capture_output=True)
            return pwd.getpwnam(TEST_USER)


def here() -> pwd.struct_passwd:
    """Return the user who runs the tests; for machines that run no tasks."""
    return pwd.getpwuid(os.getuid())


@functools.cache
def interpreter(user: pwd.struct_passwd) -> str:
    """Return a Python of this version with our packages that `user` may run.

    An interpreter under root's home is nobody else's: then another one of the same
    version is given our packages by a path file.
    """
    for candidate in (sys.executable, *_OTHERS):
        try:
            subprocess.run([candidate, "-c", ""], check=True, **as_user(user))
        except (PermissionError, FileNotFoundError):
            continue
        if candidate == sys.executable:
            return candidate
        place = Path(tempfile.mkdtemp(prefix="cmesh-python-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        place.chmod(0o755)
        subprocess.run([candidate, "-m", "venv", "--without-pip", str(place)], check=True)
        [site] = place.glob("lib/python*/site-packages")
        ours = sysconfig.get_path("purelib")
        (site / "tree.pth").write_text(f"{ROOT}\n{ours}\n", "utf-8")
        return str(place / "bin" / "python")
    pytest.skip("no Python here that an ordinary user may run")


def consent() -> str:
    """Return the line a rule for profile `full` needs."""
    return f'consent = "{FULL_CONSENT}"'


async def eventually(check: Callable[[], Awaitable[T | None]], limit_s: float = END_LIMIT_S) -> T:
    """Look again until there is an answer; for what announces nothing.

    A task that the machine does not know yet may still arrive.
    """
    async with asyncio.timeout(limit_s):
        while True:
            with contextlib.suppress(TaskNotFound):
                if (answer := await check()) is not None:
                    return answer
            await asyncio.sleep(POLL_S)


class Machine:
    """One machine: a home, a configuration, a daemon that may run or not."""

    def __init__(self, name: str, base: Path, testnet: Testnet, user: pwd.struct_passwd) -> None:
        self.name = name
        self.base = base / name
        self.state = self.base / "state"
        self.config = self.base / "config"
        self.log = self.base / "log"
        self.path = os.environ["PATH"]
        self._testnet = testnet
        self._user = user
        self._process: subprocess.Popen[Any] | None = None

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def user(self) -> pwd.struct_passwd:
        return self._user

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def configure(self, text: str = "", *, control_url: str = "") -> None:
        """Write the configuration: a node that logs in by auth key, and `text`."""
        self.config.mkdir(parents=True, exist_ok=True)
        key = self.config / "authkey"
        if not key.exists():
            self._write(key, await self._testnet.auth_key(ME))
        url = control_url or self._testnet.control_url
        head = (
            f'[node]\nhostname = "{self.name}"\ncontrol_url = "{url}"\nauth_key_file = "authkey"\n'
        )
        self._write(self.config_file, head + text)
        self._own()

    async def start(
        self, *, environment: Mapping[str, str] | None = None, module: str = "cmesh"
    ) -> None:
        """Start the daemon, of another module where one is named, and wait until it answers."""
        self._own()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [interpreter(self._user), "-m", module, "daemon"],
                cwd=ROOT,
                env={**self.environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
                **as_user(self._user),
            )

        async def answers() -> StatusView | None:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text("utf-8")
            with contextlib.suppress(CmeshError, OSError):
                return await self.status()
            return None

        await eventually(answers, READY_LIMIT_S)

    async def up(self) -> StatusView:
        """Start the daemon unless it runs, and wait until its node is on the tailnet."""
        if self._process is None:
            await self.start()

        async def is_up() -> StatusView | None:
            status = await self.status()
            return status if status.phase == "up" else None

        return await eventually(is_up, READY_LIMIT_S)

    def kill(self) -> None:
        """End the daemon at once, without a goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(END_LIMIT_S)
        self._process = None

    async def stop(self) -> None:
        """End the daemon as a service manager does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, END_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncGenerator[ControlClient]:
        """Talk to the daemon as a local program of its user; needs the same user."""
        async with ControlClient(control_socket(self.state), session=self.name) as client:
            yield client

    async def status(self) -> StatusView:
        return StatusView.model_validate(await self.call("status", NoArguments()))

    async def call(self, operation: str, arguments: Any) -> dict[str, Any]:
        """Call an operation, as the daemon's user; raises the daemon's error."""
        if self._user.pw_uid == os.getuid():
            async with self.client() as client:
                answer = await client.call(operation, arguments, _Raw)
                return answer.model_extra or {}
        return await asyncio.to_thread(self._call_as_user, operation, arguments)

    async def delegate(self, peer: str, runner: str, directory: Path, **more: Any) -> TaskView:
        """Delegate with profile `full`; a task waits for a peer that is away."""
        fields: dict[str, Any] = {
            "peer": peer,
            "prompt": "do it",
            "directory": str(directory),
            "runner": runner,
            "profile": Profile.FULL,
            "if_offline": "queue",
            **more,
        }
        arguments = DelegateArguments.model_validate(fields)
        return TaskView.model_validate(await self.call("delegate", arguments))

    async def reply(self, task_id: str, prompt: str, **more: Any) -> TaskView:
        """Ask for another turn of an ended task."""
        fields = {"task_id": task_id, "prompt": prompt, **more}
        arguments = ReplyArguments.model_validate(fields)
        return TaskView.model_validate(await self.call("reply_task", arguments))

    async def task(self, task_id: str, **more: Any) -> TaskView:
        arguments = TaskArguments.model_validate({"task_id": task_id, **more})
        return TaskView.model_validate(await self.call("get_task", arguments))

    async def ended(self, task_id: str, limit_s: float = END_LIMIT_S) -> TaskView:
        """Wait for a task's end."""

        async def has_ended() -> TaskView | None:
            view = await self.task(task_id, wait_s=5)
            return view if view.state in ENDED else None

        return await eventually(has_ended, limit_s)

    async def trust(self, peer: "Machine") -> None:
        """Trust a peer that has knocked, as its owner does after a look."""
        fingerprint = (await peer.status()).fingerprint

        async def trusted() -> bool | None:
            with contextlib.suppress(CmeshError):
                arguments = TrustArguments(peer=peer.name, fingerprint=fingerprint)
                await self.call("trust_peer", arguments)
                return True
            return None

        await eventually(trusted)

    async def sql(self, text: str) -> list[list[Any]]:
        return (await self.call("sql", SqlArguments(sql=text)))["rows"]

    def command(self, *arguments: str) -> list[str]:
        """Return a command line of `cmesh`, to be run as the machine's user."""
        return [interpreter(self._user), "-m", "cmesh", *arguments]

    def cli(
        self, *arguments: str, cwd: Path = ROOT, given: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run the command line as the daemon's user; `given` comes on its standard input."""
        return subprocess.run(
            self.command(*arguments),
            cwd=cwd,
            env=self.environment(),
            input=given,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=END_LIMIT_S,
            check=False,
            **as_user(self._user),
        )

    def terminal(self, line: str, *arguments: str, after: bytes = b"") -> tuple[int, str]:
        """Run the command line at a terminal where somebody types one line; its status and words.

        It is typed once the program has said `after`.
        """
        parent, child = pty.openpty()
        with subprocess.Popen(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment() | {"TERM": "dumb"},
            stdin=child,
            stdout=child,
            stderr=child,
            **as_user(self._user),
        ) as process:
            os.close(child)
            seen = b""
            while after not in seen:
                seen += os.read(parent, 65_536)
            os.write(parent, f"{line}\n".encode())
            with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
                while data := os.read(parent, 65_536):
                    seen += data
            os.close(parent)
            return process.wait(END_LIMIT_S), seen.decode()

    @contextlib.asynccontextmanager
    async def mcp(self, directory: Path = ROOT) -> AsyncGenerator[AgentDriver]:
        """Talk MCP to `cmesh mcp` over stdio, as an agent of the daemon's user in a project does."""
        command = self.command("mcp")
        if self._user.pw_uid != os.getuid():
            ids = (str(self._user.pw_uid), str(self._user.pw_gid))
            command = [sys.executable, "-c", _AS_USER, *ids, *command]
        with (self.base.parent / f"{self.name}.mcp").open("a+", encoding="utf-8") as errors:
            driver = AgentDriver(
                command, environment=self.environment(), directory=directory, errors=errors
            )
            async with driver:
                yield driver

    async def cleared(self, task_id: str) -> None:
        """Wait until an ended task's directory is gone, which comes after its result."""

        async def gone() -> bool | None:
            return None if (self.state / "tasks" / task_id).exists() else True

        await eventually(gone)

    def log_text(self) -> str:
        """Return all that the machine's programs have written so far, for people to read."""
        files = [self.log, self.state / "daemon.log", self.state / "cli.log"]
        files += [self.base.parent / f"{self.name}.mcp"]
        return "\n".join(file.read_text("utf-8", "replace") for file in files if file.exists())

    def directory(self, name: str) -> Path:
        """Make a directory of the machine's user."""
        path = self.base / name
        path.mkdir(exist_ok=True)
        self._own()
        return path

    def _call_as_user(self, operation: str, arguments: Any) -> dict[str, Any]:
        answer = call_as(
            self._user,
            interpreter(self._user),
            (self.state, operation, arguments.model_dump(mode="json")),
            READY_LIMIT_S + END_LIMIT_S,
        )
        if "error" in answer:
            raise error_from(answer["error"])
        return answer["result"]

    def environment(self) -> dict[str, str]:
        """Return what the machine's programs are started with."""
        return {
            "PATH": self.path,
            "HOME": str(self.base),
            "LANG": "C.UTF-8",
            "CMESH_STATE_DIR": str(self.state),
            "CMESH_CONFIG_DIR": str(self.config),
            "CMESH_TESTNET": "1",
            "PYTHONPATH": str(ROOT),
        }

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, "utf-8")
        path.chmod(0o600)

    def _own(self) -> None:
        """Give the machine's files to its user."""
        self.base.mkdir(exist_ok=True)
        if os.getuid() != 0:
            return
        for path in (self.base, *self.base.glob("*"), *self.config.glob("**/*")):
            shutil.chown(path, self._user.pw_uid, self._user.pw_gid)


def as_user(user: pwd.struct_passwd) -> dict[str, Any]:
    """Return what makes a process `user`'s, for `subprocess`."""
    if user.pw_uid == os.getuid():
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
