"""Errors of runners, and of what holds them."""

from cmesh.errors.base import CmeshError

__all__ = [
    "AnswerInvalid",
    "LoginExpired",
    "PathRefused",
    "RootRefused",
    "RunnerCannot",
    "RunnerError",
    "RunnerUnavailable",
    "SandboxUnavailable",
    "SessionGone",
]


class RunnerError(CmeshError):
    """Raised when a runner cannot do its work."""

    code = "runner_failed"
    exit_status = 50


class AnswerInvalid(RunnerError):
    """Raised when a task ended without an answer that fits the JSON Schema it was asked for."""

    code = "answer_invalid"
    exit_status = 68
    default_hint = "`cmesh reply ID --same-schema PROMPT` asks the same agent again"


class RunnerUnavailable(RunnerError):
    """Raised when a runner's program or login is missing on the worker."""

    code = "runner_unavailable"
    exit_status = 51
    default_hint = "install the agent CLI on the worker, or name another runner"


class LoginExpired(RunnerUnavailable):
    """Raised when the account's login of a runner has expired, or was refused by its provider."""

    code = "login_expired"
    default_hint = "its owner runs `cmesh runners login NAME` on the worker"


class SandboxUnavailable(RunnerError):
    """Raised when a profile needs a sandbox, or a part of one, that this machine lacks."""

    code = "sandbox_unavailable"
    exit_status = 52
    default_hint = "use `query`, or `full` with its own rule on the worker"


class RootRefused(RunnerError):
    """Raised when a worker would run a task as uid 0 without being told to."""

    code = "root_refused"
    exit_status = 53
    default_hint = "run the worker's daemon as an ordinary user"


class RunnerCannot(RunnerError):
    """Raised when a runner keeps no conversation that a follow-up turn could continue."""

    code = "runner_cannot"
    exit_status = 54
    default_hint = "delegate a new task that says all it needs"


class SessionGone(RunnerError):
    """Raised when the worker no longer has the conversation a follow-up turn would continue."""

    code = "session_gone"
    exit_status = 55
    default_hint = "delegate a new task that says all it needs"


class PathRefused(RunnerError):
    """Raised when a path of a directory that a profile narrows to cannot be shown to a task."""

    code = "path_refused"
    exit_status = 52
    default_hint = "the worker's owner sees which path it is in the view `decisions` there"
