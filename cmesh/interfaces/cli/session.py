"""How a command reaches the daemon: connect, start one when none runs, report in one form.

Only commands come here; nothing in this file prints data.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cmesh import __version__
from cmesh.daemon.arguments import Arguments
from cmesh.errors import DaemonNotRunning, DaemonRestarting
from cmesh.interfaces.cli.output import say
from cmesh.interfaces.client import ControlClient, run
from cmesh.interfaces.launch import is_replacing
from cmesh.interfaces.start import ensure_daemon
from cmesh.interfaces.usage import usage_error
from cmesh.paths import config_dir, control_socket, state_dir

__all__ = ["call", "checked"]

_T = TypeVar("_T")
_A = TypeVar("_A", bound=Arguments)

_LABELS = {
    "task_id": "ID",
    "name": "NAME",
    "group": "GROUP",
    "peer": "PEER",
    "prompt": "PROMPT",
    "sql": "SELECT",
    "timeout_s": "--timeout",
    "idempotency_key": "--key",
}


def call(work: Callable[[ControlClient], Awaitable[_T]], *, start: bool = True) -> _T:
    """Do `work` with a connected client; start the daemon first when none runs. Blocks.

    Raises:
        DaemonNotRunning: none runs, and `start` is off or `cmesh down` asked for quiet.
        CmeshError: what the daemon or its start reports.
    """
    state = state_dir()
    path = control_socket(state)
    agent = f"cmesh cli {__version__}"
    cwd = _cwd()

    async def checked_work(client: ControlClient) -> _T:
        if client.daemon_version != __version__:
            say(
                f"note: the daemon runs cmesh {client.daemon_version}, this command is "
                f"{__version__}; `cmesh up --replace` puts this one in its place"
            )
        return await work(client)

    try:
        return run(path, checked_work, cwd=cwd, agent=agent)
    except DaemonNotRunning:
        if not start and is_replacing(state):
            raise DaemonRestarting("a daemon of another version takes over just now") from None
        if not start:
            raise
    ensure_daemon(state, config_dir())
    say("note: this started the daemon, which runs on; `cmesh down` stops it")
    return run(path, checked_work, cwd=cwd, agent=agent)


def checked(arguments: type[_A], /, **fields: Any) -> _A:
    """Return the arguments of an operation.

    Raises:
        UsageError: a value is out of range; says which and why.
    """
    try:
        return arguments.model_validate(fields)
    except ValidationError as error:
        raise usage_error(error, _label, echo=True) from error


def _label(field: str) -> str:
    """Return what a field of an operation is called on the command line."""
    return _LABELS.get(field, f"--{field.replace('_', '-')}")


def _cwd() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""
