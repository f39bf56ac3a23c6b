"""Facts from outside of cmesh: the control server and its time, and what a login shell finds.

Each question has a limit; no answer is an answer. Blocks up to that limit.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from cmesh.clock import Clock
from cmesh.setup.doctor.facts import ControlFact
from cmesh.text import one_line

__all__ = ["TAILSCALE", "control_fact", "shell_path", "shell_programs"]

TAILSCALE = "https://controlplane.tailscale.com"
"""Tailscale's own control server, where `control_url` is empty."""

CONTROL_LIMIT_S = 5.0
SHELL_LIMIT_S = 5.0
_KEY_PAGE = "/key?v=1"  # a page that every control server has, with its public key
_MARK = "cmesh-path:"
_PLAIN_PATH = "/usr/local/bin:/usr/bin:/bin"


def control_fact(url: str, clock: Clock) -> ControlFact:
    """Ask a control server for its public key, first as the daemon would, without a proxy."""
    url = url or TAILSCALE
    fact = _asked(url, clock, {})
    proxies = urllib.request.getproxies()
    if fact.reached or not proxies:
        return fact
    through = _asked(url, clock, proxies)
    if not through.reached:
        return fact
    return ControlFact(url=url, reached=True, proxy=True, offset_s=through.offset_s)


def shell_programs(names: Mapping[str, str]) -> dict[str, str]:
    """Return by runner the program that this user's shell starts by a name; empty = none.

    Of aliases and functions nothing is seen.
    """
    path = shell_path()
    return {runner: shutil.which(name, path=path) or "" for runner, name in names.items()}


def shell_path() -> str:
    """Return `PATH` as this user's login shell has it for a person; empty = it did not say."""
    user = pwd.getpwuid(os.getuid())
    shell = user.pw_shell if Path(user.pw_shell).is_absolute() else "/bin/sh"
    # Many a tool puts itself into the file that only interactive shells read.
    for flags in ("-lic", "-lc"):
        said = _said([shell, flags, f'printf "\\n{_MARK}%s\\n" "$PATH"'], user)
        marked = [line for line in said.splitlines() if line.startswith(_MARK)]
        if marked:
            return marked[-1].removeprefix(_MARK)
    return ""


def _said(argv: list[str], user: pwd.struct_passwd) -> str:
    with subprocess.Popen(  # noqa: S603 - the user's own shell, fixed arguments
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # an interactive shell would take the terminal
        env={
            "HOME": str(Path.home()),
            "USER": user.pw_name,
            "LOGNAME": user.pw_name,
            "SHELL": user.pw_shell,
            "TERM": "dumb",
            "PATH": _PLAIN_PATH,
        },
    ) as process:
        try:
            return process.communicate(timeout=SHELL_LIMIT_S)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            return ""
        finally:
            # What a profile started in the background would hold the pipe open.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _asked(url: str, clock: Clock, proxies: Mapping[str, str]) -> ControlFact:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(dict(proxies)))
    try:
        with opener.open(f"{url.rstrip('/')}{_KEY_PAGE}", timeout=CONTROL_LIMIT_S) as answer:
            told = answer.headers.get("Date", "")
    except urllib.error.HTTPError as error:
        with error:
            told = error.headers.get("Date", "")  # it answers, whatever it says
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return ControlFact(url=url, reached=False, problem=one_line(str(reason), 200))
    return ControlFact(url=url, reached=True, offset_s=_offset(told, clock))


def _offset(told: str, clock: Clock) -> float | None:
    """Return this clock less the server's, which tells whole seconds; None = it tells none."""
    try:
        then = parsedate_to_datetime(told)
    except (TypeError, ValueError):
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    now: datetime = clock.now()
    return (now - then).total_seconds()
