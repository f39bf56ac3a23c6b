"""A home of its own for an installation, and a release to install from."""

import contextlib
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.system.daemon.machine import ROOT

__all__ = ["INSTALLER", "Home", "release"]

INSTALLER = ROOT / "scripts" / "install.sh"
INSTALL_LIMIT_S = 110
TOOLS = ("uv", sys.executable)


def release(wheels: Path, into: Path, own: Path, *, lock: bool = False) -> Path:
    """Make a release folder of cmesh's wheel and its dependencies', with sums and installer."""
    into.mkdir()
    needed = sorted(wheels.glob("*.whl"))
    for wheel in (*needed, own):
        os.link(wheel, into / wheel.name)
    if lock:
        version = own.name.split("-")[1]
        (into / f"cmesh-{version}-lock.txt").write_text("".join(map(_locked, needed)), "utf-8")
    (into / "install.sh").write_bytes(INSTALLER.read_bytes())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(into.iterdir())
    ]
    (into / "SHA256SUMS").write_text("".join(lines), "utf-8")
    return into


def _locked(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


class Home:
    """A user's home; nothing that runs in it sees another one."""

    def __init__(self, base: Path, *, shell: str = "/bin/bash") -> None:
        self.base = base
        self.path = base / "home"
        self.path.mkdir()
        self.tools = base / "tools"
        self.tools.mkdir()
        (self.tools / "uv").symlink_to(Path(sys.executable).parent / "uv")
        self.variables = {
            "HOME": str(self.path),
            "PATH": f"{self.tools}:/usr/bin:/bin",
            "SHELL": shell,
            "TMPDIR": str(base),
        }

    @property
    def link(self) -> Path:
        return self.path / ".local" / "bin" / "cmesh"

    @property
    def data(self) -> Path:
        return self.path / ".local" / "share" / "cmesh"

    def left_over(self) -> list[str]:
        """Return the temporary files that are still there."""
        return [path.name for path in self.base.glob("tmp*")]

    def versions(self) -> list[str]:
        return sorted(path.name for path in (self.data / "versions").glob("*"))

    def tool(self, name: str, script: str) -> None:
        """Put a program on PATH, before all others."""
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        path.chmod(0o755)

    def install(
        self,
        place: str | Path,
        *more: str,
        shell: Sequence[str] = ("sh",),
        script: Path = INSTALLER,
        variables: Mapping[str, str] | None = None,
        python: bool = True,
    ) -> "subprocess.CompletedProcess[str]":
        """Run the installer as a person would; as root it is told that this is meant."""
        argv = [*shell, str(script), "--from", str(place), *more]
        argv += ["--python", sys.executable] if python else []
        argv += ["--allow-root"] if os.getuid() == 0 else []
        return self.run(argv, variables)

    def run(
        self, argv: Sequence[str | Path], variables: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            argv,
            env=self.variables | dict(variables or {}),
            cwd=self.base,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT_S,
            check=False,
        )

    def cmesh(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.run([self.link, *words])

    def snapshot(self) -> dict[str, Any]:
        """Return every path with its mode and content, an environment's insides left out."""
        found: dict[str, Any] = {}
        for path in sorted(self.path.rglob("*")):
            name = str(path.relative_to(self.path))
            if "/versions/" in name and name.count("/") > 4:
                continue
            # The files of a daemon that runs come and go.
            with contextlib.suppress(FileNotFoundError):
                mode = stat.filemode(path.lstat().st_mode)
                content: object = str(path.readlink()) if path.is_symlink() else ""
                if path.is_file() and not path.is_symlink():
                    content = path.read_bytes()
                found[name] = (mode, content)
        return found
