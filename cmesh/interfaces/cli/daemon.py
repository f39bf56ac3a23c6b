"""The commands about this machine's daemon: up, down, status, login, version."""

import asyncio
import os
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cmesh import __version__
from cmesh.clock import SystemClock
from cmesh.config import starter_config
from cmesh.daemon.answers import StatusView
from cmesh.errors import (
    ControlUnreachable,
    DaemonNotRunning,
    DaemonRestarted,
    DaemonTimeout,
    LoginRequired,
)
from cmesh.interfaces.age import kept_text
from cmesh.interfaces.cli import output
from cmesh.interfaces.cli.options import JsonOption
from cmesh.interfaces.cli.session import call
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.machine import machine_lines
from cmesh.interfaces.start import clear_down, mark_down, start_daemon, wait_gone
from cmesh.interfaces.versions import versions
from cmesh.paths import config_dir, config_file, ensure_private_dir, state_dir

__all__ = ["register"]

DOWN_LIMIT_S = 30.0
LOGIN_LIMIT_S = 600.0
LOGIN_POLL_S = 1.0
SETTLE_LIMIT_S = 8.0
"""How long a command waits for a node that is just starting."""

SETTLE_POLL_S = 0.1
QUIET_S = 1.5
"""How long it waits before it says for what; most nodes are up by then."""

_PHASES = {
    "setup": "setup: not configured, no node",
    "starting": "starting: not on the tailnet yet",
    "login": "login: waits for a person to log this machine in",
    "up": "up",
    "down": "down",
    "failed": "failed: not on the tailnet",
}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (up, down, status, login, version):
        app.command()(command)


def up(
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of the daemon that runs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start the daemon unless it runs, and join the tailnet. Undoes `cmesh down`.

    On a machine without a configuration it writes a first one, which allows nothing. Ends
    with status 28 when the control server does not answer; the daemon then keeps trying. Ends
    with status 21 when the tailnet refuses the auth key.
    With --replace this version of cmesh follows the one that runs; tasks go on, and when it
    cannot serve, the other one does.
    """
    state = state_dir()
    clear_down(state)
    written = _write_starter(config_file())
    if replace:
        _replace(state, as_json=as_json)
        return
    running = start_daemon(state, config_dir())
    view = call(lambda client: _settled(client, told=not as_json))
    if view.phase == "login" and not view.login_url:
        view = call(lambda client: client.login())
    if as_json:
        output.print_json(view)
        raise typer.Exit(_up_exit(view))
    if written:
        output.say(f"wrote a first configuration, which allows nothing yet: {config_file()}")
    if running.pid:
        output.say(f"started the daemon, process {running.pid}")
    _print_status(view)
    if view.login_url:
        output.say("to log this machine in, open the login page above; `cmesh login` waits for it")
    raise typer.Exit(_up_exit(view))


def _replace(state: Path, *, as_json: bool) -> None:
    # Here and not above: it needs what other commands do not load.
    from cmesh.interfaces.replace import replace

    done = replace(state, config_dir(), say=output.say)
    if as_json:
        output.print_json(asdict(done))
        return
    schema = f"{done.schema} -> {done.schema_after}" if done.schema != done.schema_after else ""
    output.pairs(
        [
            ("was", done.before or "no daemon"),
            ("version", done.version),
            ("process", str(done.pid)),
            ("schema", schema),
            ("gap", f"{done.gap_s:.1f} s" if done.before else ""),
        ]
    )


def down(*, as_json: JsonOption = False) -> None:
    """Stop the daemon; only `cmesh up` starts it again. Running tasks go on.

    It takes no new task, finishes what it is committing, tells its peers, and leaves.
    """
    # The mark comes first, so that no agent's relay starts a new daemon in between.
    mark_down(state_dir())
    try:
        view = call(_stop, start=False)
    except DaemonNotRunning:
        view = StatusView(version=__version__, phase="down", state_dir=str(state_dir()))
        output.say("no daemon ran")
    if as_json:
        output.print_json(view)
    else:
        output.data("down")


def status(*, as_json: JsonOption = False) -> None:
    """Show what the daemon does and what keeps it from its work. Starts nothing."""
    view = call(lambda client: client.status(), start=False)
    if as_json:
        output.print_json(view)
        return
    _print_status(view)


def login(
    *,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the login is done.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Log this machine in to the tailnet. Prints the page to open."""
    trouble = _control_trouble(call(_settled))
    if trouble is not None:
        raise trouble
    view = call(lambda client: client.login())
    if not as_json and view.login_url:
        output.data(_web_address(view.login_url))
    if wait and view.phase in ("login", "starting"):
        output.say("waiting for the login; Ctrl-C stops the waiting only")
        view = call(_until_up)
    if as_json:
        output.print_json(view)
    elif view.phase == "up":
        output.say(f"logged in as {view.user or view.node}, {', '.join(view.addresses)}")
    if wait and view.phase == "login":
        raise typer.Exit(LoginRequired.exit_status)


def version(*, as_json: JsonOption = False) -> None:
    """Print the versions of cmesh, Tailscale and the protocols."""
    if as_json:
        output.print_json(versions())
        return
    output.pairs(list(versions().items()))


async def _stop(client: ControlClient) -> StatusView:
    before = await client.status()
    try:
        view = await client.down()
    except DaemonRestarted:
        # It went away before its answer arrived, which is what was asked for.
        view = before.model_copy(update={"phase": "down"})
    await client.close()
    if before.pid and not await asyncio.to_thread(wait_gone, before.pid, DOWN_LIMIT_S):
        raise DaemonTimeout(
            f"the daemon (process {before.pid}) does not end within {DOWN_LIMIT_S:g} s"
        )
    return view


def _write_starter(path: Path) -> bool:
    """Write a first configuration where there is none; say whether it was written."""
    if path.exists():
        return False
    ensure_private_dir(path.parent)
    try:
        # Never over a file that another process has just written.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(starter_config(socket.gethostname()))
    return True


async def _settled(client: ControlClient, *, told: bool = False) -> StatusView:
    """Return the status once the node is up, or known not to be."""
    clock = SystemClock()
    began = clock.monotonic()
    while True:
        view = await client.status()
        waited = clock.monotonic() - began
        if view.phase not in ("starting", "setup") or waited > SETTLE_LIMIT_S:
            return view
        if told and view.phase == "starting" and waited >= QUIET_S:
            output.say(f"waiting for an answer of the control server, {SETTLE_LIMIT_S:g} s at most")
            told = False
        await asyncio.sleep(SETTLE_POLL_S)


async def _until_up(client: ControlClient) -> StatusView:
    clock = SystemClock()
    deadline = clock.monotonic() + LOGIN_LIMIT_S
    while True:
        view = await client.status()
        if view.phase not in ("login", "starting") or clock.monotonic() > deadline:
            return view
        await asyncio.sleep(LOGIN_POLL_S)


def _up_exit(view: StatusView) -> int:
    """Return the status of `cmesh up`: 0 also where a person is yet to log the node in."""
    if _control_trouble(view) is not None:
        return ControlUnreachable.exit_status
    codes = [one.code for one in view.problems]
    refused = view.phase == "failed" and LoginRequired.code in codes
    return LoginRequired.exit_status if refused else 0


def _control_trouble(view: StatusView) -> ControlUnreachable | None:
    for problem in view.problems:
        if problem.code == ControlUnreachable.code:
            return ControlUnreachable(problem.what, hint=problem.next)
    return None


def _web_address(url: str) -> str:
    # The control server chose it; anything but a web page has no place in a terminal.
    return url if urlsplit(url).scheme in ("http", "https") else "(the login URL is no web page)"


def _handed_out(view: StatusView) -> str:
    """Say how many tasks of this node are unfinished, and which wait for their worker."""
    if not view.handed_out:
        return ""
    lines = [f"{view.handed_out} unfinished"]
    for box in view.outbox:
        why = f" [{box.code}]" if box.code else ""
        lines.append(
            f"{box.tasks} submitting to {box.peer}, link {box.link}{why}; "
            f"the first expires {output.moment(box.expires_at)}"
        )
    return "\n".join(lines)


def _contained(view: StatusView) -> str:
    """Say what holds the processes of tasks here; nothing on a machine that runs none."""
    if not view.worker or not view.containment:
        return ""
    kind = view.containment.replace("_", " ")
    return f"{kind}: {view.containment_note}" if view.containment_note else kind


def _sandbox(view: StatusView) -> str:
    """Say what of a sandbox there is for tasks; nothing on a machine that runs none."""
    if not view.worker or not view.enforcement:
        return ""
    return (
        f"{view.enforcement}: {view.enforcement_note}"
        if view.enforcement_note
        else view.enforcement
    )


def _print_status(view: StatusView) -> None:
    expiry = output.moment(view.key_expiry)
    output.pairs(
        [
            ("phase", _PHASES[view.phase]),
            ("node", f"{view.node} ({view.node_id})" if view.node_id else view.node),
            ("user", view.user),
            ("addresses", ", ".join(view.addresses)),
            ("tailnet", f"{view.tailnet}{' (local test tailnet)' if view.testnet else ''}"),
            ("login", _web_address(view.login_url) if view.login_url else ""),
            ("key expires", expiry),
            ("fingerprint", view.fingerprint),
            ("links", str(view.links)),
            ("tasks", f"{view.running} running, {view.waiting} waiting"),
            ("handed out", _handed_out(view)),
            ("worker", "yes" if view.worker else "no"),
            ("profiles", ", ".join(view.profiles)),
            ("runners", ", ".join(view.runners)),
            ("not ready", "\n".join(f"{n}: {why}" for n, why in view.runners_down.items())),
            ("machine", "\n".join(machine_lines(view.machine)) if view.machine else ""),
            ("contained", _contained(view)),
            ("sandbox", _sandbox(view)),
            ("self-tests", "\n".join(view.self_tests)),
            ("manifests", "\n".join(view.manifests)),
            ("keeps", kept_text(view.keeps)),
            ("state", view.state_dir),
            ("config", view.config_file),
            ("process", f"{view.pid}, for {output.duration(view.uptime_s)}"),
            ("version", view.version),
        ]
    )
    for problem in view.problems:
        output.say(f"problem: {problem.what} [{problem.code}]")
        output.hint(problem.next)
