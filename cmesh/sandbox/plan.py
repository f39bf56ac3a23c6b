"""From a sandbox's data to what the shim starts: the record in a task's launch file.

Looks at this machine, never at the task's files. Says nothing about who may ask for what.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cmesh.errors import SandboxUnavailable
from cmesh.sandbox import bwrap
from cmesh.sandbox.profile import DEVICES, ETC, SYSTEM, SandboxSpec, is_below, views
from cmesh.sandbox.start import (
    BESIDE_FD,
    DIRECTORY_FD,
    OBJECTS_FD,
    OPTIONS_FD,
    ORDER_FD,
    PARTS_FD,
    REPORT_FD,
)
from cmesh.sandbox.tier import Enforcement

__all__ = ["Interpreter", "find_bwrap", "find_program", "interpreter", "plan", "require_fit"]

_NEVER = ("/proc", "/sys", "/dev")
_HERE = Path(__file__).parent
_LAUNCHER = _HERE / "launch.py"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that runs in a sandbox, without the virtual environment around it.

    Attributes:
        needs: what must be readable for it; empty where the system's directories hold it all.
    """

    program: str
    needs: tuple[str, ...]


def find_bwrap() -> str:
    """Return bubblewrap's absolute path; empty = it is not installed."""
    return find_program("bwrap")


def find_program(name: str) -> str:
    """Return a program's absolute path; empty = it is not installed.

    Looked for in the system's directories alone: what the owner's `PATH` names first may be
    a task's work.
    """
    return shutil.which(name, path="/usr/bin:/bin:/usr/local/bin") or ""


def require_fit(directory: str, hidden: Sequence[str], found: Enforcement) -> None:
    """Check that a directory can be shown to a task without what must stay hidden.

    Args:
        directory: absolute, links resolved.
        hidden: absolute, links resolved.
        found: what there is here.

    Raises:
        SandboxUnavailable: it cannot.
    """
    if directory == "/" or is_below(directory, _NEVER):
        raise SandboxUnavailable(
            f"a sandbox cannot show `{directory}`", hint="name a directory below it in the task"
        )
    if is_below(directory, hidden):
        raise SandboxUnavailable(
            f"`{directory}` is in cmesh's own directories, which no sandbox shows", hint=""
        )
    if found.tier == 2 and any(is_below(path, [directory]) for path in hidden):
        raise SandboxUnavailable(
            f"cmesh's own directories lie below `{directory}`, and without bubblewrap they"
            " cannot be hidden there",
            hint=found.hint,
        )


def plan(
    spec: SandboxSpec, found: Enforcement, relay: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Return the `sandbox` record of a launch: JSON values only.

    Args:
        spec: what the task may do.
        found: what there is here; what the launcher then reports must be the same.
        relay: `port` on the task's loopback, and `socket`, a path that the shim connects to.

    Raises:
        SandboxUnavailable: the directory does not fit, or nothing can hold the task.
    """
    if not spec.copy:
        require_fit(spec.directory, spec.hidden, found)
        if spec.parts.read and found.tier == 2:
            _require_apart(spec, found)
    if not found.tier:
        raise SandboxUnavailable(f"no sandbox here: {found.why}", hint=found.hint)
    outer = found.tier in {1, 3}
    python = interpreter()
    needs = (*python.needs, str(_HERE), str(_HERE.parent / "__init__.py"))
    options = bwrap.arguments(
        spec,
        numbers=bwrap.Numbers(
            directory=DIRECTORY_FD, objects=OBJECTS_FD, parts=PARTS_FD, beside=BESIDE_FD
        ),
        links=_links(),
        launcher=needs,
    )
    prefix = [find_bwrap(), "--args", str(OPTIONS_FD), "--"] if outer else []
    launcher = [python.program, "-I", "-S", str(_LAUNCHER), str(ORDER_FD), str(REPORT_FD)]
    return {
        "enforcement": found.label,
        "expect": f"landlock={found.landlock_abi} seccomp own_network={found.netns and outer}",
        "outer": outer,
        "argv": [*prefix, *launcher],
        "options": options if outer else [],
        "directory": spec.copy or spec.directory,
        "objects": spec.objects and {"judged": spec.objects.judged, "below": spec.objects.below},
        "beside": spec.beside and {"judged": spec.beside.judged, "names": spec.beside.names},
        "parts": [view.below for view in views(spec)],
        # What shows parts alone gets no descriptor from which the others could be reached.
        "whole": not (outer and spec.parts.read),
        "relay": dict(relay) if relay else None,
        "order": {
            "limits": _limits(spec, outer=outer),
            "landlock": _landlock(spec, outer=outer) if found.landlock_abi else None,
            # Mounts that cannot be written keep modes and times as well; Landlock does not.
            "metadata": outer or spec.own_program,
        },
    }


def _require_apart(spec: SandboxSpec, found: Enforcement) -> None:
    """Refuse parts of a directory that may be read as a whole: Landlock takes nothing away."""
    if is_below(spec.directory, (*SYSTEM, *ETC, *spec.read)):
        raise SandboxUnavailable(
            f"every task may read all of `{spec.directory}`, and without bubblewrap no part of it"
            " can be hidden",
            hint=found.hint,
        )


def _limits(spec: SandboxSpec, *, outer: bool) -> dict[str, int]:
    # Without a user namespace of the task's own it would count all processes of the user.
    return {name: value for name, value in spec.limits.items() if outer or name != "NPROC"}


def _landlock(spec: SandboxSpec, *, outer: bool) -> dict[str, object]:
    # Without a mount of its own the directory is named by the descriptor that was checked.
    directory = spec.directory if outer else f"/proc/self/fd/{DIRECTORY_FD}"
    write = [spec.home, spec.tmp, *spec.write]
    write += ["/tmp"] if outer else []  # noqa: S108 - the task's own `tmp`
    shown = list(enumerate(views(spec), PARTS_FD))
    names = [f"{directory}/{v.below}" if outer else f"/proc/self/fd/{fd}" for fd, v in shown]
    write += [name for name, (_fd, view) in zip(names, shown, strict=True) if view.writable]
    write += [directory] if spec.writes_directory and not shown else []
    whole = [] if spec.parts.read else [directory]
    read = [*SYSTEM, *ETC, *spec.read, *whole, *names, "/proc" if outer else "/proc/self"]
    read += [f"{directory}/{name}" for name in (spec.beside.names if spec.beside else ())]
    if spec.objects is not None:
        read.append(spec.objects.place if outer else f"/proc/self/fd/{OBJECTS_FD}")
    return {
        "read": read,
        "write": write,
        "devices": list(DEVICES),
        "ports": [] if spec.port is None else [spec.port],
        # Below bubblewrap there is nothing in it but the way to its parts.
        "folders": [directory] if outer and spec.parts.read else [],
    }


@cache
def _links() -> Mapping[str, str]:
    return {path: os.readlink(path) for path in SYSTEM if Path(path).is_symlink()}


@cache
def interpreter() -> Interpreter:
    """Return the Python for a program of cmesh's own in a sandbox."""
    # A virtual environment's interpreter would look for its `pyvenv.cfg`; the launcher needs none.
    program = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    roots = {os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)}
    outside = tuple(root for root in sorted(roots) if not is_below(root, SYSTEM))
    return Interpreter(program, outside)
