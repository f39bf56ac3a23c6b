"""`cmesh runners login` and `logout`: an agent's account or key, in cmesh's own place.

A key comes from the terminal without an echo, or from standard input; never from an argument. It
goes into one 0600 file, and into no log, message or row.
"""

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import typer

from cmesh.daemon.arguments import LoginArguments
from cmesh.daemon.runner_answers import RunnerView
from cmesh.errors import DaemonNotRunning, RunnerUnavailable, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.accounts import log_in, read_secret
from cmesh.interfaces.cli.options import JsonOption, complete_runner
from cmesh.interfaces.cli.session import call, checked
from cmesh.nearest import did_you_mean
from cmesh.paths import (
    config_dir,
    ensure_private_dir,
    key_file,
    login_file,
    replace_file,
    require_private_file,
    state_dir,
)

__all__ = ["add_to"]

KEY_BYTES = 4096
"""The longest key that is taken; real ones have 40 to 200."""

NameArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Runner, see `cmesh runners list`.", autocompletion=complete_runner
    ),
]
KeyOption: TypeAlias = Annotated[
    bool, typer.Option("--key", help="Read an API key: typed without an echo, or standard input.")
]


def add_to(group: typer.Typer) -> None:
    """Add the two commands to the group of runners."""
    group.command()(login)
    group.command()(logout)


def login(*, name: NameArgument, key: KeyOption = False, as_json: JsonOption = False) -> None:
    """Log a runner in for tasks: with your account, by the agent's own login, or with an API key.

    The agent's login runs here once, in a home of its own; no task ever gets what it leaves: the
    daemon adds it to each request, and renews it. With `--key`, or for a runner without such a
    login, a key is kept in a file of mode 0600. `key_file` of [runners.NAME] goes before both.
    Your own login of that agent is neither read nor changed.
    """
    runner = _known(name)
    if key:
        _keep_key(runner, as_json=as_json)
        return
    if runner.account is None:
        what = "has no login that cmesh could keep from its tasks; a key it can"
        if not runner.program and not runner.available and not runner.reason.endswith("no key"):
            what = f"cannot be logged in: {runner.reason}"
        raise UsageError(f"`{name}` {what}", hint=f"cmesh runners login {name} --key")
    view = log_in(name, runner.account, quiet=as_json)
    if as_json:
        output.print_json(view)
        return
    until = "the daemon renews it" if view.renews else "until when is not known"
    if view.expires_at is not None:
        until = f"until {view.expires_at.date().isoformat()}"
    output.say(f"`{name}` is logged in for tasks, {until}; no task gets the login itself")
    if view.note:
        output.say(f"note: {view.note}")
    output.hint(f"cmesh runners check {name}")


def logout(*, name: NameArgument, as_json: JsonOption = False) -> None:
    """Delete what `cmesh runners login` kept; a key that `key_file` names stays."""
    if "/" in name:  # also a runner that is not there any more can have left a key
        raise UsageError(f"`{name}` is no name of a runner")
    place = key_file(state_dir(), name)
    try:
        require_private_file(place, secret=True)
        place.unlink()
        what = "key"
    except FileNotFoundError:
        what = ""
    if login_file(state_dir(), name).exists():
        arguments = checked(LoginArguments, name=name)
        if call(lambda client: client.drop_login(arguments)).deleted:
            what = "login"
    if as_json:
        output.print_json({"name": name, "deleted": bool(what)})
    elif what:
        output.say(f"the {what} of `{name}` is deleted; take it back at its provider too")
    else:
        output.say(f"cmesh keeps no key and no login of `{name}`")


def _keep_key(runner: RunnerView, *, as_json: bool) -> None:
    """Write the key that is typed, or comes on standard input; it replaces an account's login."""
    name = runner.name
    if not runner.takes_key:
        raise UsageError(f"runner `{name}` takes no key")
    text = read_secret(f"API key of {name} (not shown): ", KEY_BYTES)
    place = key_file(state_dir(), name)
    ensure_private_dir(place.parent)
    replace_file(place, f"{text}\n".encode("ascii"))
    if login_file(state_dir(), name).exists():
        arguments = checked(LoginArguments, name=name)
        call(lambda client: client.drop_login(arguments))
    if as_json:
        output.print_json({"name": name, "file": str(place)})
        return
    output.say(f"the key of `{name}` is in {place}, yours alone")
    output.hint(f"cmesh runners check {name}")


def _known(name: str) -> RunnerView:
    """Return a runner of this machine.

    Raises:
        RunnerUnavailable: there is none of this name.
    """
    try:
        view = call(lambda client: client.list_runners(), start=False)
    except DaemonNotRunning:
        # A slip is told from the files, so that it starts no daemon.
        from cmesh.daemon.runner_names import names_of_manifests

        if not name.startswith("command:"):
            _require(name, names_of_manifests(config_dir()))
        view = call(lambda client: client.list_runners())
    names = {runner.name: runner for runner in view.runners}
    _require(name, list(names))
    return names[name]


def _require(name: str, known: Sequence[str]) -> None:
    if name not in known:
        meant, here = did_you_mean(name, known), f"runners here: {', '.join(known)}"
        raise RunnerUnavailable(
            f"no runner `{name}` on this machine", hint=f"{meant} else {here}" if meant else here
        )
