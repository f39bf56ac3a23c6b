"""`cmesh runners login` and `logout`: an agent's key in cmesh's own place, so that no file is edited.

The key comes from the terminal without an echo, or from standard input; never from an argument. It
goes into one 0600 file, and into no log, message or row.
"""

import getpass
import os
import sys
from typing import Annotated, TypeAlias

import typer

from cmesh.errors import RunnerUnavailable, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.options import JsonOption, complete_runner
from cmesh.interfaces.cli.session import call
from cmesh.paths import ensure_private_dir, key_file, require_private_file, state_dir

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
    """Give a runner an API key of its own, kept by cmesh in a file of mode 0600.

    It counts from the next task on, unless `key_file` of [runners.NAME] names another. Your own
    login of that agent is neither read nor changed. Ask for a key with a spending limit.
    """
    _require_known(name)
    if not key:
        raise UsageError(
            "an agent's account cannot be logged in for tasks yet; an API key can",
            hint=f"cmesh runners login {name} --key",
        )
    text = _read(name)
    place = key_file(state_dir(), name)
    ensure_private_dir(place.parent)
    fresh = place.with_name(f".{place.name}.new")
    fresh.unlink(missing_ok=True)
    with open(fresh, "w", encoding="ascii", opener=_private) as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(place)
    if as_json:
        output.print_json({"name": name, "file": str(place)})
        return
    output.say(f"the key of `{name}` is in {place}, yours alone")
    output.hint(f"cmesh runners check {name}")


def logout(*, name: NameArgument, as_json: JsonOption = False) -> None:
    """Delete the key that `cmesh runners login NAME --key` kept; one that `key_file` names stays."""
    if "/" in name:  # also a runner that is not there any more can have left a key
        raise UsageError(f"`{name}` is no name of a runner")
    place = key_file(state_dir(), name)
    try:
        require_private_file(place, secret=True)
        place.unlink()
        deleted = True
    except FileNotFoundError:
        deleted = False
    if as_json:
        output.print_json({"name": name, "deleted": deleted})
    elif deleted:
        output.say(f"the key of `{name}` is deleted; take it back at its provider too")
    else:
        output.say(f"cmesh keeps no key of `{name}`")


def _require_known(name: str) -> None:
    """Check that there is such a runner, and that it takes a key.

    Raises:
        RunnerUnavailable: there is none.
        UsageError: it takes no key.
    """
    names = {runner.name: runner for runner in call(lambda client: client.list_runners()).runners}
    if name not in names:
        raise RunnerUnavailable(
            f"no runner `{name}` on this machine", hint=f"runners here: {', '.join(names)}"
        )
    if not names[name].takes_key:
        raise UsageError(f"runner `{name}` takes no key")


def _read(name: str) -> str:
    """Return a key that can stand in a header.

    Raises:
        UsageError: it cannot; says why and never what was typed.
    """
    try:
        if sys.stdin.isatty():
            text = getpass.getpass(f"API key of {name} (not shown): ")
        else:
            text = sys.stdin.read(KEY_BYTES + 1)
    except (OSError, EOFError, UnicodeDecodeError):
        raise UsageError("the key could not be read") from None
    text = text.strip()
    if not text or len(text) > KEY_BYTES or not all("!" <= one <= "~" for one in text):
        raise UsageError("that is no key: one word of plain characters is expected")
    return text


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | os.O_CLOEXEC, 0o600)
