"""An agent's own login at this terminal, in a home that holds nothing else.

What it leaves there, or a token that it prints and its owner hands over, is taken by the daemon;
nothing of it goes over the control socket, into an argument or a log.
"""

import getpass
import os
import shutil
import subprocess
import sys
from pathlib import Path

from cmesh.daemon.arguments import LoginArguments
from cmesh.daemon.runner_answers import AccountView, LoginView
from cmesh.errors import RunnerError, UsageError
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.session import call, checked
from cmesh.paths import ensure_private_dir, login_environment

__all__ = ["log_in", "read_secret", "write_private"]

LOGIN_LIMIT_S = 20 * 60.0
"""The agents themselves wait for ten to fifteen minutes."""

TOKEN_BYTES = 4096
PRINTED = "printed"


def log_in(name: str, account: AccountView, *, quiet: bool) -> LoginView:
    """Run an agent's login and have the daemon keep what it gives. Blocks on a person.

    `quiet` keeps standard output for the answer. A token that was made on another machine may
    come on standard input.

    Raises:
        RunnerError: the login failed, took too long, or left nothing of use.
        UsageError: what was handed over is no token.
    """
    home = Path(account.home)
    ensure_private_dir(home.parent)
    shutil.rmtree(home, ignore_errors=True)
    ensure_private_dir(home)
    try:
        typed = sys.stdin.isatty()
        if typed or not account.prints:
            _run(name, account, home, quiet=quiet)
        if account.prints:
            token = read_secret("the token that it printed (not shown): ", TOKEN_BYTES)
            write_private(home / PRINTED, token)
        arguments = checked(LoginArguments, name=name)
        return call(lambda client: client.keep_login(arguments))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def read_secret(question: str, most: int) -> str:
    """Return a word that can stand in a header, from the terminal or standard input.

    Raises:
        UsageError: it cannot; says why and never what was typed.
    """
    try:
        text = getpass.getpass(question) if sys.stdin.isatty() else sys.stdin.read(most + 1)
    except (OSError, EOFError, UnicodeDecodeError):
        raise UsageError("the key could not be read") from None
    text = text.strip()
    if not text:
        raise UsageError(
            "nothing came: no key was typed, or standard input is empty",
            hint="repeat it at a terminal, or add `< FILE` with the key in it",
        )
    if len(text) > most or not all("!" <= one <= "~" for one in text):
        raise UsageError("that is no key: one word of plain characters is expected")
    return text


def write_private(path: Path, text: str) -> None:
    """Write a new file of mode 0600; it is on the disk when this returns."""
    with open(path, "w", encoding="ascii", opener=_private) as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())


def _run(name: str, account: AccountView, home: Path, *, quiet: bool) -> None:
    """Run the login to its end, at this terminal."""
    # INVARIANT: with another HOME it finds nothing of its owner's own login, and changes nothing.
    env = login_environment(home) | account.env
    for value in account.env.values():
        if value.startswith(f"{home}/"):
            Path(value).mkdir(mode=0o700, parents=True, exist_ok=True)
    output.say(f"`{name}` logs in by itself now; its home is thrown away afterwards")
    out = sys.stderr if quiet else None
    again = f"cmesh runners login {name}"
    try:
        done = subprocess.run(  # noqa: S603 - the program of a runner
            account.argv, env=env, cwd=home, stdout=out, timeout=LOGIN_LIMIT_S, check=False
        )
    except OSError as error:
        why = f"`{account.argv[0]}` cannot be started: {error.strerror}"
        raise RunnerError(why, hint=f"cmesh runners check {name}") from error
    except subprocess.TimeoutExpired:
        why = f"the login of `{name}` was not done within {LOGIN_LIMIT_S / 60:g} minutes"
        raise RunnerError(why, hint=again) from None
    if done.returncode != 0:
        why = f"the login of `{name}` ended with status {done.returncode}; nothing was kept"
        raise RunnerError(why, hint=again)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | os.O_CLOEXEC, 0o600)
