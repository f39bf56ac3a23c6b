"""Exit statuses of commands that wait for a task; errors have theirs in `cmesh.errors`.

A task that did not succeed is no error of the command, so these are no error
classes; their numbers are free in the tree of errors.
"""

from collections.abc import Mapping
from types import MappingProxyType

from cmesh.daemon.answers import TaskView
from cmesh.errors import AcceptanceFailed, AuditBroken, AuditUnproven, PolicyDenied, TaskError
from cmesh.model import TaskState

__all__ = [
    "AUDIT_BROKEN_EXIT",
    "AUDIT_UNPROVEN_EXIT",
    "CUT_EXIT",
    "DENIED_EXIT",
    "DETACHED_EXIT",
    "TASK_EXITS",
    "exit_of",
]

DETACHED_EXIT = 130
"""Ctrl-C while waiting (128 + SIGINT): the command ends, the task goes on."""

DENIED_EXIT = PolicyDenied.exit_status

AUDIT_BROKEN_EXIT = AuditBroken.exit_status

AUDIT_UNPROVEN_EXIT = AuditUnproven.exit_status

CUT_EXIT = 78
"""The rows of a query are not all there are: a limit cut them, and stderr says which."""

TASK_EXITS: Mapping[TaskState, int] = MappingProxyType(
    {
        TaskState.SUCCEEDED: 0,
        TaskState.FAILED: 45,
        TaskState.CANCELLED: 46,
        TaskState.TIMED_OUT: 47,
        TaskState.INTERRUPTED: 48,
        TaskState.DENIED: DENIED_EXIT,
        TaskState.EXPIRED: 49,
        TaskState.WAITING_INPUT: 66,
        TaskState.UNKNOWN: TaskError.exit_status,
    }
)
"""What `delegate` and `wait` exit with, by the state they ended on."""


def exit_of(view: TaskView) -> int:
    """Return what a command that waited for a task's end exits with.

    A task that succeeded is not done while its acceptance command says otherwise.
    """
    if view.state == TaskState.SUCCEEDED and view.code == AcceptanceFailed.code:
        return AcceptanceFailed.exit_status
    return TASK_EXITS[view.state]
