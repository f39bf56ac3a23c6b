"""How a command reaches the daemon: connect, start one when none runs, report in one form.

Only commands come here; nothing in this file prints data.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cmesh import __version__
from cmesh.daemon.operations import Arguments
from cmesh.errors import DaemonNotRunning
from cmesh.interfaces.cli.output import say
from cmesh.interfaces.client import ControlClient, run
from cmesh.interfaces.start import ensure_daemon
from cmesh.interfaces.wire import usage_error
from cmesh.paths import config_dir, control_socket, state_dir

__all__ = ["call", "checked"]

_T = TypeVar("_T")
_A = TypeVar("_A", bound=Arguments)


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
                f"{__version__}; restart it with `cmesh down` and `cmesh up`"
            )
        return await work(client)

    try:
        return run(path, checked_work, cwd=cwd, agent=agent)
    except DaemonNotRunning:
        if not start:
            raise
    ensure_daemon(state, config_dir())
    return run(path, checked_work, cwd=cwd, agent=agent)


def checked(arguments: type[_A], /, **fields: Any) -> _A:
    """Return the arguments of an operation.

    Raises:
        UsageError: a value is out of range; says which and why.
    """
    try:
        return arguments.model_validate(fields)
    except ValidationError as error:
        raise usage_error(error) from error


def _cwd() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""
