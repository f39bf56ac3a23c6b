"""Errors of a task: its id, its state, its patch."""

from cmesh.errors.base import CmeshError

__all__ = [
    "AcceptanceFailed",
    "BranchExists",
    "ChangesRefused",
    "DirtyTree",
    "PatchApplied",
    "PatchConflict",
    "PatchRefused",
    "QueueFull",
    "SecretFound",
    "TaskConflict",
    "TaskError",
    "TaskNotFound",
    "TaskRefused",
    "TaskUnfinished",
    "WrongBase",
]


class TaskError(CmeshError):
    """Raised when a task cannot be handled."""

    code = "task_failed"
    exit_status = 40


class TaskNotFound(TaskError):
    """Raised when no task has the given id, or the asker may not see it."""

    code = "task_not_found"
    exit_status = 41
    default_hint = "run `cmesh tasks`"


class TaskConflict(TaskError):
    """Raised when an id or idempotency key was used before with other content."""

    code = "task_conflict"
    exit_status = 42
    default_hint = "use a new idempotency key"


class TaskRefused(TaskError):
    """Raised when the task's state does not allow the operation."""

    code = "task_refused"
    exit_status = 43


class AcceptanceFailed(TaskError):
    """Raised when the agent succeeded, by its word and exit, and the acceptance command did not."""

    code = "acceptance_failed"
    exit_status = 65
    default_hint = "see what it said: `cmesh result ID --part acceptance`"


class SecretFound(TaskRefused):
    """Raised when a patch or file is withheld because a secret was found in it."""

    code = "secret_found"
    exit_status = 56
    default_hint = "the worker's owner can release it: `cmesh release ID` there"


class ChangesRefused(TaskRefused):
    """Raised when uncommitted changes cannot be sent so that they arrive exactly."""

    code = "changes_refused"
    default_hint = "commit and push, or delegate without them"


class PatchRefused(TaskRefused):
    """Raised when a patch holds what no patch of a task may: paths, links, kinds, sizes."""

    code = "patch_refused"
    exit_status = 57
    default_hint = "look at it with `cmesh result ID --part patch`; do not apply it by other means"


class PatchConflict(TaskRefused):
    """Raised when a patch does not fit the tree; nothing was changed."""

    code = "patch_conflict"
    exit_status = 58
    default_hint = (
        "save it with `cmesh result ID --patch FILE`; `git apply --3way FILE` may merge it"
    )


class WrongBase(PatchConflict):
    """Raised when a tree is not that which a patch was made of: no repository, another commit."""

    code = "wrong_base"
    default_hint = "fetch the task's base commit, or name another clone with -C DIR"


class DirtyTree(PatchConflict):
    """Raised when paths that a patch touches have uncommitted changes."""

    code = "dirty_tree"
    default_hint = "commit or stash these changes, or use `--branch NAME`, then repeat"


class BranchExists(PatchConflict):
    """Raised when a branch that a patch is to make cannot be made."""

    code = "branch_exists"
    default_hint = "name another branch"


class PatchApplied(TaskRefused):
    """Raised when a patch is in the tree already."""

    code = "already_applied"
    exit_status = 59
    default_hint = "look at `git status` and `git log`"


class QueueFull(TaskError):
    """Raised when a limit on waiting or running tasks is reached."""

    code = "busy"
    exit_status = 44
    default_hint = "wait for a running task to end, then retry"


class TaskUnfinished(TaskRefused):
    """Raised when a task must have ended first, as before a follow-up turn."""

    code = "task_unfinished"
    default_hint = "wait for its end (`cmesh wait ID`), then retry"
