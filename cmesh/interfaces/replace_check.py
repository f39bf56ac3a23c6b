"""Whether this version can take the place of the daemon that runs, found without touching it."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmesh import __version__
from cmesh.errors import CmeshError, DaemonError, DaemonTimeout, UsageError
from cmesh.interfaces.client import run
from cmesh.interfaces.daemon_log import failure_in
from cmesh.interfaces.launch import Launch, daemon_argv
from cmesh.paths import control_socket, daemon_environment

__all__ = ["Checked", "check", "is_installed", "unfit"]

CHECK_LIMIT_S = 90.0
"""For the imports and the migration of a copy, which may be a large one."""


_VERSION_OF = "import cmesh; print(cmesh.__version__)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What the check found; `agents`: some have spoken MCP to the running daemon."""

    schema: int
    schema_after: int
    migrates: bool
    agents: bool


def check(state: Path, config: Path, launch: Launch) -> Checked:
    """Let a process of this version try itself on a copy of the store.

    Raises:
        CmeshError: what it found, or that it did not end well.
    """
    try:
        copy = run(control_socket(state), lambda client: client.copy_store())
    except UsageError as error:
        raise DaemonError(
            f"the running daemon (cmesh {launch.version}) cannot hand over",
            hint="`cmesh down`, then `cmesh up`",
        ) from error
    directory = Path(copy.directory)
    if copy.pid != launch.pid or directory.parent != state / "store" / "snapshots":
        raise DaemonError("the running daemon is not the one of the state directory")
    try:
        argv = daemon_argv(sys.executable, "--check")
        done = _run_apart(argv, state, config, given=f"{directory}\n")
    except subprocess.TimeoutExpired as error:
        raise DaemonTimeout(f"the check took more than {CHECK_LIMIT_S:g} s") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if done.returncode:
        raise unfit(failure_in(done.stderr, done.returncode), launch)
    try:
        found = json.loads(done.stdout)
        return Checked(
            schema=int(found["schema"]),
            schema_after=int(found["schema_after"]),
            migrates=bool(found["migrates"]),
            agents=copy.agents,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DaemonError("the check gave no answer that can be read") from error


def unfit(error: CmeshError, launch: Launch) -> CmeshError:
    """Return why this version cannot serve, with what that means."""
    message = f"cmesh {__version__} cannot take over: {error.message}"
    return type(error)(f"{message}; cmesh {launch.version} goes on untouched", hint=error.hint)


def is_installed(launch: Launch, state: Path, config: Path) -> bool:
    """Return whether the recorded interpreter still runs the version that wrote it down."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        argv = [launch.interpreter, "-I", "-c", _VERSION_OF]
        return _run_apart(argv, state, config).stdout.strip() == launch.version
    return False


def _run_apart(
    argv: Sequence[str], state: Path, config: Path, *, given: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run an interpreter as a daemon is run, and wait for its end."""
    return subprocess.run(  # noqa: S603 - ours, or an absolute path from our own 0600 file
        argv,
        input=given,
        capture_output=True,
        text=True,
        timeout=CHECK_LIMIT_S,
        cwd="/",
        env=daemon_environment(state, config),
        check=False,
    )
