"""Errors of the local daemon, seen by those who call it."""

from cmesh.errors.base import CmeshError

__all__ = [
    "DaemonError",
    "DaemonNotRunning",
    "DaemonRestarted",
    "DaemonRestarting",
    "DaemonTimeout",
    "ReplaceFailed",
    "ServiceFailed",
]


class DaemonError(CmeshError):
    """Raised when the local daemon cannot serve a call."""

    code = "daemon_failed"
    exit_status = 80


class DaemonNotRunning(DaemonError):
    """Raised when no daemon serves this state directory."""

    code = "daemon_not_running"
    exit_status = 81
    default_hint = "run `cmesh up`"


class DaemonRestarted(DaemonError):
    """Raised when the daemon went away during a call; tasks are unaffected."""

    code = "daemon_restarted"
    exit_status = 82
    default_hint = "repeat the call"


class DaemonTimeout(DaemonError):
    """Raised when the daemon does not answer within the call's limit."""

    code = "daemon_timeout"
    exit_status = 83


class DaemonRestarting(DaemonError):
    """Raised when the daemon takes no call any more because another takes its place."""

    code = "daemon_restarting"
    exit_status = 84
    default_hint = "repeat the call in a moment"


class ReplaceFailed(DaemonError):
    """Raised when `cmesh up --replace` did not bring up the new daemon; says which one runs."""

    code = "replace_failed"
    exit_status = 85


class ServiceFailed(DaemonError):
    """Raised when the service manager cannot keep the daemon, or there is none."""

    code = "service_failed"
    exit_status = 86
    default_hint = "cmesh service status"
