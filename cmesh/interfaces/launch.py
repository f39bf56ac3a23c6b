"""How the running daemon was started, and the mark of a replacement that is under way.

Written by the daemon into its state directory, read by `cmesh up --replace`. What is read
back is checked: a file there may name an interpreter, never a command.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

from cmesh import __version__
from cmesh.errors import DaemonError, UnsafePermissions
from cmesh.paths import replace_file, require_private_file, sync

__all__ = [
    "HANDED_OVER",
    "REPLACING_FILE",
    "Kind",
    "Launch",
    "begin_replacing",
    "daemon_argv",
    "end_replacing",
    "is_replacing",
    "read_launch",
    "record_launch",
]

Kind = Literal["detached", "service", "foreground"]
"""Who starts it again: whoever needs it, a service manager, or the person who called it."""

HANDED_OVER = 75
"""Exit status of a daemon under a service manager that is to be started again (EX_TEMPFAIL)."""

REPLACING_FILE = "replacing"
"""There from before the old daemon stops until the new one takes work."""

_KINDS = ("detached", "service", "foreground")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What started a daemon; `interpreter` is absolute.

    Attributes:
        program: the path by which a service manager called it, often a link that moves with
            upgrades; empty for one that was called by its interpreter.
    """

    interpreter: str
    version: str
    kind: Kind
    pid: int
    program: str = ""

    def starts(self, interpreter: str) -> bool:
        """Return whether who started this daemon would now start an interpreter's installation."""
        if self.interpreter == interpreter:
            return True
        return (
            bool(self.program) and Path(self.program).resolve().parent == Path(interpreter).parent
        )


def daemon_argv(interpreter: str, *more: str) -> list[str]:
    """Return a daemon's whole command line: only the interpreter ever differs."""
    return [interpreter, "-I", "-m", "cmesh", "daemon", *more]


def record_launch(state: Path, kind: Kind) -> None:
    """Write down this process as the daemon of `state`, whose store it has open."""
    # `-m` puts the module's own file there.
    program = sys.argv[0] if Path(sys.argv[0]).is_absolute() and kind == "service" else ""
    launch = Launch(
        interpreter=sys.executable,
        version=__version__,
        kind=kind,
        pid=os.getpid(),
        program="" if program.endswith(".py") else program,
    )
    replace_file(_file(state), json.dumps(asdict(launch)).encode())


def read_launch(state: Path) -> Launch:
    """Return how the daemon was started.

    Raises:
        DaemonError: there is no such file, or it does not hold what a daemon writes.
        UnsafePermissions: others could have written it.
    """
    path = _file(state)
    try:
        require_private_file(path)
        raw: object = json.loads(path.read_bytes())
        return _launch(raw)
    except UnsafePermissions:
        raise
    except (OSError, ValueError) as error:
        raise DaemonError(
            f"`{path}` does not say how the daemon was started",
            hint="`cmesh down`, then `cmesh up`",
        ) from error


def begin_replacing(state: Path) -> None:
    """Leave the mark."""
    replace_file(
        state / REPLACING_FILE, json.dumps({"pid": os.getpid(), "to": __version__}).encode()
    )


def end_replacing(state: Path) -> None:
    """Take the mark away, durably: from here on the running version has taken work."""
    try:
        (state / REPLACING_FILE).unlink()
    except FileNotFoundError:
        return
    sync(state)


def is_replacing(state: Path) -> bool:
    """Return whether the mark is there."""
    return (state / REPLACING_FILE).exists()


def _launch(raw: object) -> Launch:
    fields = cast("dict[str, object]", raw) if isinstance(raw, dict) else {}
    interpreter, version = fields.get("interpreter"), fields.get("version")
    kind, pid = fields.get("kind"), fields.get("pid")
    if not isinstance(interpreter, str) or not Path(interpreter).is_absolute():
        raise ValueError("no interpreter")
    if not isinstance(version, str) or kind not in _KINDS or type(pid) is not int or pid <= 1:
        raise ValueError("no launch")
    program = fields.get("program", "")
    if not isinstance(program, str) or (program and not Path(program).is_absolute()):
        raise ValueError("no program")
    return Launch(interpreter=interpreter, version=version, kind=kind, pid=pid, program=program)


def _file(state: Path) -> Path:
    return state / "launch.json"
