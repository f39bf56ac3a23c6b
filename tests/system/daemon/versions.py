"""Real other versions of cmesh: the tree copied, changed, and given an interpreter of its own."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from cmesh import __version__
from cmesh.daemon.answers import StatusView
from cmesh.interfaces.mcp.driver import AgentDriver
from cmesh.interfaces.start import wait_gone
from cmesh.node.testnet import Testnet
from tests.system.daemon.machine import END_LIMIT_S, ROOT, Machine, eventually, here

__all__ = ["Installed", "Version", "here_version", "install"]

CLI_LIMIT_S = 90.0
MIGRATIONS = '"packing.sql",\n)'
Change = tuple[str, str, str]
"""A file of the package, what stands in it, and what is to stand there."""


class Version:
    """An installed version: `python -I -m cmesh` is it."""

    def __init__(self, number: str, python: str) -> None:
        self.number = number
        self.python = python


def here_version(base: Path) -> Version:
    """Return the version under test, with an interpreter that knows it without variables."""
    return Version(__version__, _interpreter(base / "python-here", ROOT))


def install(
    base: Path,
    number: str,
    *,
    migrations: Mapping[str, str] | None = None,
    changes: Sequence[Change] = (),
) -> Version:
    """Copy the tree as version `number`, with more migrations (file name -> SQL) and changes.

    The compiled extension is shared.
    """
    place = base / f"cmesh-{number}"
    package = place / "cmesh"
    # The bytecode goes along: times are kept, so that it is valid.
    shutil.copytree(ROOT / "cmesh", package, ignore=shutil.ignore_patterns("_native*", "bin"))
    for native in (ROOT / "cmesh").glob("_native*.so"):
        (package / native.name).symlink_to(native)
    _change(package, "__init__.py", f'"{__version__}"', f'"{number}"')
    _change(package, "interfaces/mcp/handshake.json", f'"{__version__}"', f'"{number}"')
    names = "".join(f'    "{name}",\n' for name in migrations or {})
    _change(package, "store/migrations.py", MIGRATIONS, MIGRATIONS[:-1] + names + ")")
    for name, text in (migrations or {}).items():
        (package / "store" / name).write_text(text, "utf-8")
    for change in changes:
        _change(package, *change)
    return Version(number, _interpreter(base / f"python-{number}", place))


class Installed(Machine):
    """A machine whose programs come from an installed version, its daemon from its commands."""

    def __init__(self, name: str, base: Path, testnet: Testnet, version: Version) -> None:
        super().__init__(name, base, testnet, here())
        self.version = version
        self.pids: list[int] = []

    @override
    def command(self, *arguments: str) -> list[str]:
        return [self.version.python, "-I", "-m", "cmesh", *arguments]

    @override
    def environment(self) -> dict[str, str]:
        found = super().environment()
        del found["PYTHONPATH"]
        return found

    @override
    async def up(self) -> StatusView:
        """Start the daemon by the command line, and wait until its node is on the tailnet."""
        done = await self.run("up", "--json")
        assert done.returncode == 0, done.stdout + done.stderr

        async def is_up() -> StatusView | None:
            status = await self.status()
            return status if status.phase == "up" else None

        status = await eventually(is_up)
        self.pids.append(status.pid)
        return status

    @override
    async def stop(self) -> None:
        if self.state.exists():
            await self.run("down")

    async def replace(self, version: Version | None = None) -> "subprocess.CompletedProcess[str]":
        """Call `cmesh up --replace` of a version; the machine's commands stay what they were."""
        python = (version or self.version).python
        return await self._run([python, "-I", "-m", "cmesh", "up", "--replace", "--json"])

    async def replaced(self, version: Version) -> dict[str, Any]:
        """Replace the daemon by that of a version, which must work."""
        done = await self.replace(version)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.log_text()}"
        self.version = version
        return json.loads(done.stdout)

    async def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the machine's version."""
        return await self._run(self.command(*arguments))

    async def kill_now(self) -> None:
        """End the daemon at once, without a goodbye."""
        pid = (await self.status()).pid
        os.kill(pid, 9)
        assert await asyncio.to_thread(wait_gone, pid, END_LIMIT_S)

    def agent(self, errors: Any) -> AgentDriver:
        """Return an agent session of the machine's version."""
        return AgentDriver(
            self.command("mcp"), environment=self.environment(), directory=ROOT, errors=errors
        )

    async def _run(self, argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(
            subprocess.run,
            argv,
            cwd="/",
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=CLI_LIMIT_S,
            check=False,
        )


def _interpreter(place: Path, tree: Path) -> str:
    """Return an interpreter that finds `tree` and our packages without being told."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    [site] = place.glob("lib/python*/site-packages")
    (site / "tree.pth").write_text(f"{tree}\n{sysconfig.get_path('purelib')}\n", "utf-8")
    return str(place / "bin" / "python")


def _change(package: Path, name: str, old: str, new: str) -> None:
    file = package / name
    text = file.read_text("utf-8")
    assert old in text, f"{name} lacks {old!r}"
    file.write_text(text.replace(old, new, 1), "utf-8")
