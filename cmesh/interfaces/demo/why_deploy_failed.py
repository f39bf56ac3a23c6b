"""Why did the last deploy fail? Reads log, unit and release of the directory it runs in.

The demo's worker runs it as `command:why-deploy-failed`; it works on any directory laid
out like that. Standard library only; changes nothing. Exit status 1: no cause was found.
"""

import difflib
import os
import re
import shlex
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Log", "NotFound", "Unit", "explain", "main", "read_log", "read_unit"]

LOG = Path("deploy") / "deploy.log"
UNIT = Path("deploy") / "myapp.service"
WIDTH = 72
FILE_BYTES = 1024 * 1024

_RELEASE = re.compile(r"deploy: release (\d+) of (\S+)")
_SPAWN = re.compile(r"Failed at step EXEC spawning (\S+): (.+)")
_STATUS = re.compile(r"status=(\d+/[A-Z]+)")
_HEALTH = re.compile(r"health check \S+?:(\d+)/\S*: (.+)")


class NotFound(Exception):
    """Raised when the files do not show a cause; says what they do show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What the log tells; lines count from 1, 0 = it does not say."""

    app: str
    release: str
    spawned: str
    spawn_line: int
    spawn_error: str
    status: str
    status_line: int
    health_port: str = ""
    health_line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What the service's unit starts, and in which line it says so."""

    program: Path
    line: int


def main() -> int:
    """Print the finding; return the exit status."""
    sys.stdin.read()  # the question; this program knows the answer to one only
    try:
        finding = explain(Path.cwd())
    except (OSError, NotFound) as error:
        sys.stdout.write(f"No cause found: {error}\n")
        return 1
    sys.stdout.write(finding)
    return 0


def explain(directory: Path) -> str:
    """Return the finding for a directory.

    Raises:
        NotFound: the files do not fit together to a cause.
        OSError: one of them cannot be read.
    """
    log = read_log(_lines(directory / LOG))
    unit = read_unit(_lines(directory / UNIT))
    release = directory / "releases" / log.release
    if str(unit.program) != log.spawned:
        raise NotFound(
            f"{UNIT}:{unit.line} starts {unit.program}, {LOG}:{log.spawn_line} another program"
        )
    if (directory / "current").resolve() != release.resolve():
        raise NotFound(f"`current` does not point to releases/{log.release}")
    if unit.program.exists():
        if os.access(unit.program, os.X_OK):
            raise NotFound(f"{unit.program} is there and can be started now")
        return _not_executable(log, unit, release)
    return _missing(log, unit, release, _others(directory, log))


def read_log(lines: list[str]) -> Log:
    """Return what the last deploy in a log tells.

    Raises:
        NotFound: there is no deploy in it, or none that failed to start.
    """
    app = release = ""
    spawned = error = status = port = ""
    spawn_line = status_line = health_line = 0
    for number, line in enumerate(lines, start=1):
        if found := _RELEASE.search(line):
            release, app = found[1], found[2].rstrip(",")
            spawn_line = status_line = health_line = 0
        elif (found := _SPAWN.search(line)) and not spawn_line:
            spawned, error, spawn_line = found[1], found[2], number
        elif (found := _STATUS.search(line)) and not status_line:
            status, status_line = found[1], number
        elif found := _HEALTH.search(line):
            port, health_line = found[1], number
    if not release:
        raise NotFound(f"{LOG} tells of no deploy")
    if not spawn_line or not status_line:
        raise NotFound(f"{LOG} does not say that release {release} failed to start")
    return Log(
        app=app,
        release=release,
        spawned=spawned,
        spawn_line=spawn_line,
        spawn_error=error.lower(),
        status=status,
        status_line=status_line,
        health_port=port if health_line else "",
        health_line=health_line,
    )


def read_unit(lines: list[str]) -> Unit:
    """Return what a unit starts.

    Raises:
        NotFound: it has no `ExecStart`.
    """
    for number, line in enumerate(lines, start=1):
        name, _, value = line.partition("=")
        if name.strip() == "ExecStart" and value.strip():
            return Unit(program=Path(shlex.split(value)[0].lstrip("@-:+!")), line=number)
    raise NotFound(f"{UNIT} has no ExecStart")


def _missing(log: Log, unit: Unit, release: Path, others: list[str]) -> str:
    folder = unit.program.parent.name
    there = sorted(entry.name for entry in (release / folder).iterdir())
    near = difflib.get_close_matches(unit.program.name, there, n=1)
    head = (
        f"Release {log.release} of {log.app} never started: its unit names a program that "
        "the release does not contain."
    )
    rows = [
        (f"{UNIT}:{unit.line}", "starts", f"{folder}/{unit.program.name}"),
        (f"releases/{log.release}/{folder}/", "contains", ", ".join(there) or "nothing"),
        *_log_rows(log),
    ]
    if near:
        fix = (
            f"Fix: `{unit.program.name}` is a misspelling of `{near[0]}`. Correct line "
            f"{unit.line} of {UNIT}, then `systemctl daemon-reload` and "
            f"`systemctl restart {log.app}`."
        )
    else:
        fix = f"Fix: add `{unit.program.name}` to the release, or correct line {unit.line}."
    return _text(head, rows, _consequence(log, others), fix)


def _not_executable(log: Log, unit: Unit, release: Path) -> str:
    folder = unit.program.parent.name
    mode = f"{unit.program.stat().st_mode & 0o777:04o}"
    head = (
        f"Release {log.release} of {log.app} never started: its program is there, but may not "
        "be executed."
    )
    rows = [
        (f"{UNIT}:{unit.line}", "starts", f"{folder}/{unit.program.name}"),
        (f"releases/{release.name}/{folder}/", "has it", f"with mode {mode}"),
        *_log_rows(log),
    ]
    fix = f"Fix: `chmod +x {unit.program}`, then `systemctl restart {log.app}`."
    return _text(head, rows, _consequence(log, []), fix)


def _log_rows(log: Log) -> list[tuple[str, str, str]]:
    return [
        (f"{LOG}:{log.spawn_line}", "reports", log.spawn_error),
        (f"{LOG}:{log.status_line}", "reports", f"status={log.status}"),
    ]


def _consequence(log: Log, others: list[str]) -> str:
    parts: list[str] = []
    if log.health_line:
        parts.append(
            f"The failed health check on port {log.health_port} ({LOG.name}:{log.health_line}) "
            "only follows from it: nothing was listening."
        )
    if others:
        parts.append(f"Release {others[-1]} is still there to go back to.")
    return " ".join(parts)


def _others(directory: Path, log: Log) -> list[str]:
    names = [entry.name for entry in (directory / "releases").iterdir()]
    return sorted((name for name in names if name.isdigit() and name != log.release), key=int)


def _text(head: str, rows: list[tuple[str, str, str]], consequence: str, fix: str) -> str:
    first = max(len(row[0]) for row in rows)
    second = max(len(row[1]) for row in rows)
    facts = "\n".join(f"  {a:<{first}}  {b:<{second}}  {c}" for a, b, c in rows)
    parts = [textwrap.fill(head, WIDTH), facts]
    parts += [_filled(text) for text in (consequence, fix) if text]
    return "\n\n".join(parts) + "\n"


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False, break_long_words=False)


def _lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        return file.read(FILE_BYTES).decode("utf-8", "replace").splitlines()


if __name__ == "__main__":
    sys.exit(main())
