"""What the commands of `cmesh service` do."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cmesh.daemon.setup_answers import UnitView
from cmesh.errors import (
    CmeshError,
    DaemonNotRunning,
    DaemonRestarted,
    DaemonTimeout,
    ServiceFailed,
    UsageError,
)
from cmesh.interfaces import start
from cmesh.interfaces.cli import output
from cmesh.interfaces.client import run
from cmesh.interfaces.launch import read_launch
from cmesh.paths import config_dir, control_socket, ensure_private_dir, log_file, state_dir
from cmesh.setup.service import manager
from cmesh.setup.service.here import surroundings, unit_of
from cmesh.setup.service.kept import Kept, read_kept
from cmesh.setup.service.manager import Surroundings
from cmesh.setup.service.unit import Change, Kind, Unit

__all__ = [
    "carry_out",
    "install_service",
    "print_log",
    "remove_service",
    "renew_service",
    "show_service",
]

GONE_LIMIT_S = 30.0
LOG_BYTES = 1024 * 1024
"""The most of the log's end that is looked at for its last lines."""

LINGER_WHY = (
    "without lingering the unit ends when you log out of this machine, and starts at your next"
    " log-in; a machine that works for others wants it on"
)


def install_service(*, linger: bool, dry_run: bool, as_json: bool) -> None:
    """Install the unit and start it through its manager. Blocks.

    Raises:
        ServiceFailed: there is no manager, or it refused.
        CmeshError: the daemon did not come up; the error is its own.
    """
    around = surroundings(state_dir())
    if dry_run:
        kind, unit = manager.require(around), unit_of(state_dir(), config_dir())
        _refuse_another(kind, unit, around.state)
        _show(manager.plan(kind, unit, around, linger=linger), as_json=as_json)
        return
    kept, pid = _install(around, _quiet if as_json else output.say, linger=linger)
    lingers = manager.standing(kept, around).lingers
    if as_json:
        fields = {"manager": kept.manager, "name": kept.name, "file": kept.file}
        output.print_json({**fields, "pid": pid, "lingers": lingers})
        return
    output.data(f"{kept.manager} keeps the daemon, process {pid}: {kept.file}")
    if lingers is False:
        output.say(LINGER_WHY)
        output.hint("cmesh service install --linger")


def renew_service(_file: str) -> None:
    """Bring the unit up to date, for `cmesh doctor --fix`. Blocks.

    Raises:
        CmeshError: as `install_service`.
    """
    _install(surroundings(state_dir()), _quiet, linger=False)


def carry_out(shown: UnitView) -> None:
    """Give the unit that a person was shown to its manager, or take that one away. Blocks.

    INVARIANT: no other unit is written or removed than the one that was shown.

    Raises:
        ServiceFailed: this terminal would write another, another is there, or the manager refused.
        CmeshError: the daemon did not come up; the error is its own.
    """
    around = surroundings(state_dir())
    kept, found = read_kept(around.state), manager.read_unit(Path(shown.file))
    if not shown.text:
        if kept is None or kept.file != shown.file:
            raise ServiceFailed(
                f"`{shown.file}` keeps this daemon no more", hint="cmesh service status"
            )
        manager.remove(kept, manager.removal_plan(kept), around, output.say)
        return
    kind, unit = manager.require(around), unit_of(around.state, config_dir())
    written = [(str(one.path), one.write) for one in manager.plan(kind, unit, around) if one.path]
    if written != [(shown.file, shown.text)]:
        raise ServiceFailed(
            "this terminal would have another unit written than the one that was shown",
            hint="its XDG variables, or its cmesh, are not the daemon's; `cmesh service install`"
            " here writes that one",
        )
    if found not in (None, shown.text):
        raise ServiceFailed(
            f"`{shown.file}` was changed since", hint="look at it; then `cmesh service install`"
        )
    _install(around, output.say, linger=False)


def _install(around: Surroundings, say: Callable[[str], None], *, linger: bool) -> tuple[Kept, int]:
    state, kind = around.state, manager.require(around)
    unit = unit_of(state, config_dir())
    steps = manager.plan(kind, unit, around, linger=linger)
    ensure_private_dir(state)
    _refuse_another(kind, unit, state)
    start.clear_down(state)
    changed = not manager.is_written(steps)
    if not _is_kept(state):
        _hand_over(state)
    manager.apply(kind, unit, steps, around, say)
    if changed and _is_kept(state):
        _hand_over(state)  # its manager starts it again, by the new unit
    running = start.start_daemon(state, config_dir())
    kept = read_kept(state)
    assert kept is not None
    return kept, running.pid or read_launch(state).pid


def show_service(*, as_json: bool) -> int:
    """Print how the unit stands; return the exit status. Blocks."""
    state, around = state_dir(), surroundings(state_dir())
    found = manager.fact(around, unit_of(state, config_dir()))
    kept = read_kept(state)
    stands = manager.standing(kept, around) if kept is not None else None
    if as_json:
        output.print_json(
            {
                "manager": found.manager, "installed": found.installed, "current": found.current,
                "enabled": found.enabled, "active": found.active, "lingers": found.lingers,
                "file": found.file, "name": kept.name if kept else "",
                "pid": stands.pid if stands else 0,
            }
        )  # fmt: skip
    elif kept is None or stands is None:
        output.say("no unit keeps the daemon of this state directory")
        output.hint("cmesh service install")
    else:
        output.pairs(
            [
                ("manager", found.manager),
                ("unit", f"{kept.name}, {found.file}"),
                ("current", "yes" if found.current else "no: this version would write another"),
                ("starts by itself", "yes" if found.enabled else "no"),
                ("runs", f"yes, process {stands.pid}" if found.active else f"no: {stands.detail}"),
                ("lingers", {None: "", True: "yes", False: f"no: {LINGER_WHY}"}[found.lingers]),
                ("log", str(log_file(state))),
            ]
        )
        if not (found.current and found.enabled and found.active):
            output.hint("cmesh service install")
    return 0 if found.installed else ServiceFailed.exit_status


def print_log(lines: int, *, follow: bool, as_json: bool) -> None:
    """Print the end of the daemon's log, and what comes with `follow`. Blocks.

    Raises:
        UsageError: one JSON document was asked for, of a log without an end.
        ServiceFailed: there is no log yet.
    """
    if follow and as_json:
        raise UsageError(
            "a log that is followed is no one JSON document", hint="leave out --follow or --json"
        )
    path = log_file(state_dir())
    try:
        log = path.open("rb")
    except OSError as error:
        raise ServiceFailed(
            f"there is no log at `{path}`: {error.strerror}", hint="cmesh service status"
        ) from error
    with log:
        end = log.seek(0, os.SEEK_END)
        log.seek(max(0, end - LOG_BYTES))
        text = log.read().decode("utf-8", "replace")
        last = text.splitlines()[-lines:]
        if as_json:
            output.print_json({"file": str(path), "lines": last})
            return
        output.data("\n".join(last))
        while follow:
            piece = log.read(LOG_BYTES)
            if piece:
                output.data(piece.decode("utf-8", "replace"))
            start.pause()


def remove_service(*, dry_run: bool, as_json: bool) -> None:
    """Take the unit away; its daemon ends, its tasks do not. Blocks.

    Raises:
        ServiceFailed: there is none.
    """
    state, around = state_dir(), surroundings(state_dir())
    kept = read_kept(state)
    if kept is None:
        raise ServiceFailed(
            "no unit keeps the daemon of this state directory", hint="cmesh service install"
        )
    steps = manager.removal_plan(kept)
    if dry_run:
        _show(steps, as_json=as_json)
        return
    manager.remove(kept, steps, around, _quiet if as_json else output.say)
    if as_json:
        output.print_json({"removed": kept.file})
    else:
        output.data(f"removed {kept.file}; the next command or session starts a daemon by itself")


def _show(steps: Sequence[Change], *, as_json: bool) -> None:
    if as_json:
        shown = [
            {"step": one.label, "write": one.write or "", "argv": list(one.argv)} for one in steps
        ]
        output.print_json({"steps": shown})
        return
    for one in steps:
        output.data(one.label)
        if one.write is not None:
            output.data("".join(f"    {line}\n" for line in one.write.splitlines()))


def _refuse_another(kind: Kind, unit: Unit, state: Path) -> None:
    kept = read_kept(state)
    if kept is not None and (kept.manager, kept.name) != (kind, unit.name):
        raise ServiceFailed(
            f"a {kept.manager} unit keeps this state directory already: {kept.file}",
            hint="cmesh service remove",
        )


def _is_kept(state: Path) -> bool:
    """Say whether the daemon that runs, if any, is one that a manager started."""
    try:
        return read_launch(state).kind == "service"
    except CmeshError:
        return False


def _hand_over(state: Path) -> None:
    """End the daemon that runs, if any, for another to follow; its tasks run on."""
    try:
        pid = run(control_socket(state), lambda client: client.status()).pid
        with contextlib.suppress(DaemonRestarted):
            run(control_socket(state), lambda client: client.hand_over())
    except DaemonNotRunning:
        return
    if not start.wait_gone(pid, GONE_LIMIT_S):
        raise DaemonTimeout(f"the daemon (process {pid}) does not end within {GONE_LIMIT_S:g} s")


def _quiet(_text: str) -> None:
    """Say nothing: with `--json` the answer alone is printed."""
