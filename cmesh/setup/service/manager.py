"""Installing, looking at and removing the unit: which manager, which steps, and doing them.

Plans are values, shown before they are done. Files are written whole or not at all.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmesh import __version__
from cmesh.errors import ServiceFailed
from cmesh.paths import data_dir, replace_file
from cmesh.platform.system import HERE, System
from cmesh.setup.doctor.facts import ServiceFact
from cmesh.setup.installed import merged, read_installed, write_installed
from cmesh.setup.service import launchd, systemd, windows_task
from cmesh.setup.service.kept import COMMAND_LIMIT_S, Kept, forget, read_kept, record_kept
from cmesh.setup.service.unit import Change, Kind, Standing, Unit

__all__ = [
    "Surroundings",
    "apply",
    "fact",
    "is_written",
    "plan",
    "read_unit",
    "removal_plan",
    "remove",
    "require",
    "standing",
    "unit_file",
    "which",
]

Say = Callable[[str], None]

_USUAL: dict[System, Kind] = {"linux": "systemd", "macos": "launchd", "windows": "windows"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where this happens: the user's home, this process's environment, the state directory."""

    home: Path
    environment: Mapping[str, str]
    state: Path

    @property
    def config_home(self) -> str:
        """Return `XDG_CONFIG_HOME`, or nothing."""
        return self.environment.get("XDG_CONFIG_HOME", "")


def which(around: Surroundings, system: System = HERE) -> Kind | None:
    """Return the service manager that runs for this user now; None = none that is known."""
    kind = _USUAL[system]
    if kind != "systemd":
        return kind
    if shutil.which("systemctl") is None:
        return None
    runtime = systemd.environment(around.environment, os.getuid())["XDG_RUNTIME_DIR"]
    return "systemd" if Path(runtime, "systemd", "private").exists() else None


def is_written(steps: Sequence[Change]) -> bool:
    """Say whether each file of a plan is as it would be written."""
    return all(one.path is None or _read(one.path) == one.write for one in steps)


def require(around: Surroundings) -> Kind:
    """Return the manager.

    Raises:
        ServiceFailed: there is none.
    """
    kind = which(around)
    if kind is None:
        raise ServiceFailed(
            "no service manager of this user runs here",
            hint="log in with systemd, then repeat it; or start `cmesh daemon --service` by "
            "another supervisor (docs/service.md)",
        )
    return kind


def plan(kind: Kind, unit: Unit, around: Surroundings, *, linger: bool = False) -> list[Change]:
    """Return the steps that install the unit; none of them is done."""
    file = unit_file(kind, unit.name, around)
    if kind == "systemd":
        return systemd.changes(unit, file, linger=linger)
    if kind == "launchd":
        return launchd.changes(unit, file, uid=os.getuid())
    return windows_task.changes(unit, file)


def removal_plan(kept: Kept) -> list[Change]:
    """Return the steps that take the unit away."""
    file = Path(kept.file)
    if kept.manager == "systemd":
        return systemd.removal(kept.name, file)
    if kept.manager == "launchd":
        return launchd.removal(kept.name, file, uid=os.getuid())
    return windows_task.removal(kept.name, file)


def unit_file(kind: Kind, name: str, around: Surroundings) -> Path:
    """Return where the manager looks for the unit's description."""
    if kind == "systemd":
        return systemd.unit_file(name, around.home, around.config_home)
    if kind == "launchd":
        return launchd.plist_file(name, around.home)
    return windows_task.task_file(name, around.state)


def read_unit(file: Path) -> str | None:
    """Return what a unit's file says; None = there is none, or it cannot be read. Blocks."""
    return _read(file)


def apply(kind: Kind, unit: Unit, steps: Sequence[Change], around: Surroundings, say: Say) -> None:
    """Do the steps of `plan`, and write down what was put where. Blocks.

    Raises:
        ServiceFailed: a step failed; what was written stays, and `remove` takes it away.
    """
    file = unit_file(kind, unit.name, around)
    kept = Kept(manager=kind, name=unit.name, file=str(file), program=unit.argv[0])
    for step in steps:
        _do(step, around, say)
        if step.path == file:
            # Before the manager hears of it, so that whatever comes after can be taken back.
            record_kept(around.state, kept)
            _record(file, step.write or "")


def remove(kept: Kept, steps: Sequence[Change], around: Surroundings, say: Say) -> None:
    """Do the steps of `removal_plan`. Blocks.

    Raises:
        ServiceFailed: the file cannot be removed.
    """
    for step in steps:
        _do(step, around, say)
    forget(around.state)
    data = data_dir()
    entries = read_installed(data)
    left = merged(entries, (), gone=(kept.file,))
    if left != entries:
        write_installed(data, left, version=__version__)


def standing(kept: Kept, around: Surroundings) -> Standing:
    """Ask the manager how the unit stands. Blocks."""
    if kept.manager == "systemd":
        return systemd.standing(_output(systemd.status(kept.name), around))
    if kept.manager == "launchd":
        return launchd.standing(_output(launchd.status(kept.name, uid=os.getuid()), around))
    return windows_task.standing(_output(windows_task.status(kept.name), around))


def fact(around: Surroundings, unit: Unit) -> ServiceFact:
    """Return what the doctor is told; `unit` is what this version would install. Blocks."""
    kind, kept = which(around), read_kept(around.state)
    if kept is None:
        return ServiceFact(manager=kind or "")
    stands, wanted = standing(kept, around), plan(kept.manager, unit, around)[0].write
    return ServiceFact(
        manager=kept.manager,
        installed=True,
        current=_read(Path(kept.file)) == wanted,
        enabled=stands.enabled,
        active=stands.active,
        lingers=stands.lingers,
        file=kept.file,
    )


def _do(step: Change, around: Surroundings, say: Say) -> None:
    if step.path is not None:
        if step.write is not None and _read(step.path) == step.write:
            return  # it is there already
        say(step.label)
        _put(step.path, step.write)
        return
    say(step.label)
    done = _run(step.argv, around)
    # One that is not failed cannot be reset, and says so.
    if done.returncode and not step.may_fail and "reset-failed" not in step.argv:
        why = (done.stderr or done.stdout).strip()
        raise ServiceFailed(f"`{' '.join(step.argv)}` failed: {why}", hint="cmesh service status")


def _put(path: Path, text: str | None) -> None:
    try:
        if text is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode(), mode=0o644)
    except OSError as error:
        raise ServiceFailed(
            f"`{path}` cannot be written: {error.strerror}", hint=f"ls -ld {path.parent}"
        ) from error


def _record(file: Path, text: str) -> None:
    data = data_dir()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)  # as the installer made it, if it is there
    digest = hashlib.sha256(text.encode()).hexdigest()
    entry: dict[str, object] = {"kind": "service", "path": str(file), "sha256": digest}
    write_installed(data, merged(read_installed(data), [entry]), version=__version__)


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _output(argv: Sequence[str], around: Surroundings) -> str:
    done = _run(argv, around)
    return done.stdout if done.returncode == 0 else ""


def _run(argv: Sequence[str], around: Surroundings) -> "subprocess.CompletedProcess[str]":
    own = around.environment
    more = systemd.environment(own, os.getuid()) if argv[0] in ("systemctl", "loginctl") else {}
    try:
        return subprocess.run(  # noqa: S603 - fixed words and a checked name
            argv,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
            env={**own, **more},
        )
    except (OSError, subprocess.SubprocessError) as error:
        return subprocess.CompletedProcess(argv, 1, "", str(error))
