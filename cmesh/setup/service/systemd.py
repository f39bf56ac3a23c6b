"""The daemon as a systemd user unit (systemd.service(5), systemd.exec(5), loginctl(1)).

Nothing here hardens the unit: a namespace or filter that systemd put around the daemon would
be around the sandboxes of its tasks too, and make them weaker.
"""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from cmesh.setup.service.unit import HANDED_OVER, Change, Standing, Unit

__all__ = [
    "LINGER",
    "changes",
    "enabling",
    "lingers",
    "removal",
    "standing",
    "start",
    "status",
    "unit_file",
    "unit_text",
]

LINGER = Path("/var/lib/systemd/linger")
"""Has a file for each user whose units run without a log-in."""

_SYSTEMCTL = ("systemctl", "--user")

_TEXT = """\
# Written by `cmesh service install`, removed by `cmesh service remove`.
[Unit]
Description=cmesh daemon
# `cmesh down` leaves this mark, and only `cmesh up` takes it away.
ConditionPathExists=!{mark}
StartLimitIntervalSec=60
StartLimitBurst=10

[Service]
Type=exec
# A clean environment: what the manager's own holds does not reach the daemon or its tasks.
ExecStart=/usr/bin/env -i XDG_RUNTIME_DIR=%t {environment} {argv}
WorkingDirectory=/
UMask=0077
StandardOutput=append:{log}
StandardError=append:{log}
# Tasks run under shims of their own: they outlive the daemon, and the next one adopts them.
KillMode=process
# Each of these shims has a group of its own below the unit's.
Delegate=yes
# A task that the kernel ends for want of memory must not end the daemon with it.
OOMPolicy=continue
Restart=on-failure
RestartSec=100ms
# What `cmesh up --replace` makes a daemon exit with, to be started again at once.
RestartForceExitStatus={again}
SuccessExitStatus={again}
TimeoutStopSec=30

[Install]
WantedBy=default.target
"""


def unit_file(name: str, home: Path, config_home: str = "") -> Path:
    """Return where the unit of a name belongs; `config_home` is `XDG_CONFIG_HOME`."""
    base = Path(config_home) if config_home else home / ".config"
    return base / "systemd" / "user" / f"{name}.service"


def unit_text(unit: Unit) -> str:
    """Return the unit file's content."""
    pairs = [_command_word(f"{name}={value}") for name, value in sorted(unit.environment.items())]
    return _TEXT.format(
        mark=_specifier(unit.down_mark),
        environment=" ".join(pairs),
        argv=" ".join(_command_word(word) for word in unit.argv),
        log=_specifier(unit.log),
        again=HANDED_OVER,
    )


def changes(unit: Unit, file: Path, *, linger: bool) -> list[Change]:
    """Return what makes the manager keep the unit, and start it now."""
    steps = [Change(path=file, write=unit_text(unit)), *enabling(unit.name)]
    return [*steps, Change(argv=("loginctl", "enable-linger"))] if linger else steps


def enabling(name: str) -> list[Change]:
    """Return what makes the manager read the unit's file, start it at log-in, and start it now."""
    return [
        Change(argv=(*_SYSTEMCTL, "daemon-reload")),
        Change(argv=(*_SYSTEMCTL, "enable", f"{name}.service")),
        *(Change(argv=argv) for argv in start(name)),
    ]


def removal(name: str, file: Path) -> list[Change]:
    """Return what ends the daemon and makes the manager forget it; its tasks run on."""
    return [
        Change(argv=(*_SYSTEMCTL, "disable", "--now", f"{name}.service"), may_fail=True),
        Change(path=file),
        Change(argv=(*_SYSTEMCTL, "daemon-reload"), may_fail=True),
    ]


def start(name: str) -> list[tuple[str, ...]]:
    """Return the commands that start the unit, whatever went wrong before."""
    return [
        (*_SYSTEMCTL, "reset-failed", f"{name}.service"),
        (*_SYSTEMCTL, "start", f"{name}.service"),
    ]


def status(name: str) -> tuple[str, ...]:
    """Return the command whose output `standing` reads."""
    wanted = "UnitFileState,ActiveState,SubState,MainPID,Result"
    return (*_SYSTEMCTL, "show", f"{name}.service", f"--property={wanted}")


def standing(shown: str, linger: Path = LINGER) -> Standing:
    """Read what `status` printed, and whether this user's units linger."""
    parted = [line.partition("=") for line in shown.splitlines()]
    fields = {name: value for name, _equals, value in parted}
    pid = fields.get("MainPID", "0")
    return Standing(
        enabled=fields.get("UnitFileState") == "enabled",
        active=fields.get("ActiveState") in ("active", "reloading", "activating"),
        pid=int(pid) if pid.isdigit() else 0,
        lingers=lingers(linger),
        detail=f"{fields.get('ActiveState', '')} ({fields.get('SubState', '')})",
    )


def lingers(linger: Path = LINGER) -> bool:
    """Say whether this user's units run without a log-in."""
    return (linger / pwd.getpwuid(os.getuid()).pw_name).exists()


def environment(own: Mapping[str, str], uid: int) -> dict[str, str]:
    """Return what `systemctl --user` needs to find its manager; an agent's shell may lack it."""
    runtime = own.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    return {"PATH": own.get("PATH", os.defpath), "XDG_RUNTIME_DIR": runtime, "LANG": "C.UTF-8"}


def _specifier(text: str) -> str:
    return text.replace("%", "%%")


def _command_word(text: str) -> str:
    """Quote a word of a command line (systemd.service(5), "Command lines")."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{_specifier(escaped)}"'
