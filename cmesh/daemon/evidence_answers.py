"""What the daemon answers about the evidence of a run, and what all answers share."""

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AcceptanceView", "BeforeView", "ChangedView", "CommandView", "EvidenceView", "View"]


class View(BaseModel):
    """An answer; fields are stable, new ones may be added."""

    model_config = ConfigDict(frozen=True)


class AcceptanceView(View):
    """How the acceptance command ended, which the worker ran after the agent; its word on a caller.

    `end`: `exited`, or `timed_out`, `disk_limit`, `cancelled`, `spawn_failed`, `not_run`,
    `unknown`, with why in `reason`. `output`: the end of what it wrote, remote text.
    """

    argv: list[str] = Field(default_factory=list[str])
    passed: bool = False
    end: str = ""
    exit_code: int | None = None
    reason: str = ""
    runtime_s: float = 0
    output: str = ""
    output_bytes: int = 0
    truncated: bool = False


class CommandView(View):
    """A command that the agent says it ran; `failed` is None while it has not said how it ended."""

    command: str
    exit_code: int | None = None
    failed: bool | None = None


class BeforeView(View):
    """The repository in the directory before the agent began; remote text.

    `branch` is empty where none was checked out; `dirty` is None where nobody looked.
    """

    commit: str = ""
    branch: str = ""
    dirty: bool | None = None
    reason: str = ""


class ChangedView(View):
    """What lies otherwise in a directory without a copy than before; remote text.

    `names` has some of `files` paths, after a letter A, D, M or T. Where it is not `complete`,
    `reason` says what was not looked at.
    """

    files: int = 0
    names: list[str] = Field(default_factory=list[str])
    complete: bool = True
    reason: str = ""


class EvidenceView(View):
    """What its worker found out about a run; remote text.

    `tool_calls` to `model` are the agent's own word, which the worker counted; `tool_calls` is
    None for what is no agent. `commands` has the last of `commands_count`. `before` is of a
    repository; `changed` of a directory that is none, in profile `full`.
    """

    acceptance: AcceptanceView | None = None
    tool_calls: int | None = None
    commands: list[CommandView] = Field(default_factory=list[CommandView])
    commands_count: int = 0
    denials: list[str] = Field(default_factory=list[str])
    model: str = ""
    before: BeforeView | None = None
    changed: ChangedView | None = None
