"""Machines whose daemons are ended and come back all the time: started in parts, never waited out.

Their daemon is `tests.chaos.crashing`. They may live in a network namespace.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from typing_extensions import override

from cmesh.errors import CmeshError
from cmesh.node.testnet import Testnet
from tests.chaos.adopted import Adopted, daemons
from tests.chaos.calls import Hands
from tests.system.daemon.machine import (
    READY_LIMIT_S,
    ROOT,
    Machine,
    as_user,
    eventually,
    interpreter,
)

__all__ = ["ChaosMachine"]

_libc = ctypes.CDLL(None)

REPLACE_LIMIT_S = 120.0

_REPLACE = ("up", "--replace", "--json")


class ChaosMachine(Machine):
    """One machine.

    Attributes:
        place: where the harness tells the daemon's clock and the point to die at.
        user: whose the daemon is.
        enter: a command that runs another one where this machine's network and disk are.
        kills: how often its daemon was ended without a goodbye.
    """

    def __init__(
        self,
        name: str,
        base: Path,
        testnet: Testnet,
        user: pwd.struct_passwd,
        *,
        enter: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, base, testnet, user)
        self.place = self.base / "chaos"
        self.kills = 0
        self.enter = enter
        self._hands: Hands | None = None

    @override
    def command(self, *arguments: str) -> list[str]:
        if arguments == ("daemon",):
            return [*self.enter, interpreter(self.user), "-m", "tests.chaos.crashing"]
        if arguments in (("mcp",), _REPLACE):
            return [*self.enter, interpreter(self.user), "-m", "tests.chaos.commands", *arguments]
        return super().command(*arguments)

    @override
    def environment(self) -> dict[str, str]:
        return {**super().environment(), "CHAOS_DIR": str(self.place)}

    def launch(self) -> None:
        """Start the daemon's process and do not wait for it."""
        assert self._process is None
        if not self.place.exists():
            self.place.mkdir(parents=True)
            self._own()
        # Entering a namespace needs root, so the entry itself becomes the machine's user.
        identity: Mapping[str, Any] = {} if self.enter else as_user(self.user)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command("daemon"),
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
                **identity,
            )

    @override
    async def start(
        self, *, environment: Mapping[str, str] | None = None, module: str = "cmesh"
    ) -> None:
        assert environment is None
        assert module == "cmesh"
        self.launch()
        # An agent's relay may have started one as well: whichever has the store is followed.
        await self._follow(READY_LIMIT_S)
        assert self.alive, self.log_text()[-4_000:]

    async def bring_up(self) -> None:
        """Start the daemon unless it lives; one that died by itself counts as killed."""
        if self.alive:
            return
        if self._process is not None:
            await self.died(0)
        await self.start()

    async def replace(self) -> float:
        """Call `cmesh up --replace`, follow the new daemon; return the gap between both, seconds.

        Raises:
            AssertionError: the command failed; whichever daemon is left then is followed.
        """
        command = await self._replacing()
        try:
            async with asyncio.timeout(REPLACE_LIMIT_S):
                out, said = await command.communicate()
        finally:
            await _end(command)
        await self._follow()
        assert command.returncode == 0, f"not replaced: {out.decode()} {said.decode()[-2_000:]}"
        done = json.loads(out)
        assert done["pid"] == self.pid, f"{done}, and process {self.pid} is there"
        return float(done["gap_s"])

    async def break_replace(self, after_s: float) -> bool:
        """Call it and kill the command after so long; False when it was done before."""
        command = await self._replacing()
        try:
            async with asyncio.timeout(after_s):
                await command.communicate()
        except TimeoutError:
            return True
        else:
            return False
        finally:
            await _end(command)
            await self._follow()

    async def _replacing(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self.command(*_REPLACE),
            cwd=ROOT,
            env=self.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            **({} if self.enter else as_user(self.user)),
        )

    async def _follow(self, limit_s: float = REPLACE_LIMIT_S) -> None:
        """Wait until one daemon answers and no other tries to be one, or none is left."""
        old = self._process
        assert old is not None

        async def one() -> int | None:
            others, ended = daemons(self.place) - {old.pid}, old.poll() is not None
            if ended and not others:
                return old.pid
            with contextlib.suppress(CmeshError, OSError):
                pid = (await self.status()).pid
                there = others if ended else others | {old.pid}
                return pid if there == {pid} else None
            return None

        pid = await eventually(one, limit_s)
        if pid == old.pid:
            self._process = old if old.poll() is None else None
        else:
            # All of a `Popen` that a machine uses.
            self._process = cast("subprocess.Popen[Any]", Adopted(pid))

    @property
    def alive(self) -> bool:
        """The daemon's process lives."""
        return self._process is not None and self._process.poll() is None

    @override
    def kill(self) -> None:
        super().kill()
        self.kills += 1

    def signal(self, number: int) -> None:
        """Send the daemon a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def signal_go(self, number: int) -> None:
        """Send a signal to a thread of the daemon's Go runtime, whose own handler then gets it.

        The second thread: the runtime makes its own while the native part is loaded, which is
        before Python starts any. Only tgkill(2) picks a thread.
        """
        threads = [int(entry.name) for entry in Path(f"/proc/{self.pid}/task").iterdir()]
        _libc.tgkill(self.pid, threads[1], number)

    def signal_shims(self, number: int) -> None:
        """Send a signal to every shim of this machine, the idle one and its keeper included."""
        program = str(self.place / "shim.py").encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and program in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), number)

    async def died(self, limit_s: float) -> int | None:
        """Wait for the daemon's death by something else; its status, None = it lives on."""
        assert self._process is not None
        try:
            status = await asyncio.to_thread(self._process.wait, limit_s)
        except subprocess.TimeoutExpired:
            return None
        self._process = None
        self.kills += 1
        return status

    def arm(self, point: str, skip: int = 0) -> None:
        """Make the daemon, or one shim, die at a point after passing it `skip` times."""
        self.disarm()
        (self.place / "reached").unlink(missing_ok=True)
        self._tell("arm", json.dumps({"point": point, "skip": skip}))

    def disarm(self) -> None:
        """Let nothing die at a point any more."""
        (self.place / "arm").unlink(missing_ok=True)

    @property
    def reached(self) -> bool:
        """The armed point was reached."""
        return (self.place / "reached").exists()

    def shift_clock(self, seconds: float) -> None:
        """Set the daemon's wall clock so far off."""
        self._tell("clock", str(seconds))

    @override
    async def call(self, operation: str, arguments: Any) -> dict[str, Any]:
        if self.user.pw_uid == os.getuid():
            return await super().call(operation, arguments)
        if self._hands is None:
            self._hands = await Hands.open(self.user, self.state, self.environment())
        return await self._hands.call(operation, arguments.model_dump(mode="json"))

    async def close(self) -> None:
        """End the daemon and who calls it."""
        hands, self._hands = self._hands, None
        if hands is not None:
            await hands.close()
        await self.stop()

    def _tell(self, name: str, text: str) -> None:
        path = self.place / f".{name}"
        path.write_text(text, "utf-8")
        if os.getuid() == 0:
            shutil.chown(path, self.user.pw_uid, self.user.pw_gid)
        path.replace(self.place / name)


async def _end(command: asyncio.subprocess.Process) -> None:
    if command.returncode is None:
        command.kill()
    await command.wait()
