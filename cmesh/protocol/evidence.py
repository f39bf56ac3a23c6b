"""What a worker found out about a run, apart from the agent's own words; part of an outcome. Pure.

Fields of a newer peer are kept at every depth, because the signature covers them. All of it as
JSON is small: older peers keep it as a field that they do not know.
"""

import json
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from cmesh.protocol.fields import Names, ObjectOrNone, Sentence, Seq, WireMessage, is_unset

__all__ = ["EVIDENCE_CHARACTERS", "Acceptance", "AgentCommand", "Before", "Changed", "Evidence"]

EVIDENCE_CHARACTERS = 16 * 1024
"""What evidence may be as JSON. A worker of this version sends less, see `cmesh.daemon.evidence`."""


class _Part(WireMessage):
    model_config = ConfigDict(extra="allow")


class Acceptance(_Part):
    """The acceptance command's own run, by the worker, after the agent had ended.

    Attributes:
        argv: what the worker ran, as it was asked for.
        end: `exited` by itself; ended, for the task's time (`timed_out`), for what it took of the
            disk (`disk_limit`), or with the task (`cancelled`); `spawn_failed`, `not_run`;
            `unknown` = nobody saw its end.
        exit_code: negative = ended by that signal.
        passed: it exited with 0.
        reason: why it did not exit by itself, or was not run.
        output: the end of what it wrote, standard output and error as they came.
        output_bytes: all that it wrote.
        truncated: `output` is not all of it.
        runtime_s: from its start to its end.
    """

    argv: Annotated[tuple[str, ...], Field(max_length=64)]
    end: Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    passed: bool = False
    reason: Sentence = ""
    output: Annotated[str, Field(max_length=8_000)] = ""
    output_bytes: Seq = 0
    truncated: bool = False
    runtime_s: Annotated[float, Field(ge=0)] = 0


class AgentCommand(_Part):
    """A command that the agent says it ran.

    Attributes:
        exit_code: None = its program tells none.
        failed: it says that it failed; None = it has not said how it ended.
    """

    command: Annotated[str, Field(max_length=400)]
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    failed: bool | None = None


class Before(_Part):
    """The repository in the task's directory, as it was before the agent began.

    Attributes:
        commit: empty = its branch has none yet, or `reason` says why it is not known.
        branch: its short name; empty = none was checked out.
        dirty: files were not those of the commit; None = nobody looked.
    """

    commit: ObjectOrNone = ""
    branch: Annotated[str, Field(max_length=200)] = ""
    dirty: bool | None = None
    reason: Sentence = ""


class Changed(_Part):
    """What lies otherwise in the directory of a task without a copy than before it.

    Attributes:
        files: changed paths.
        names: some of them, each after a letter and a blank: A, D, M, T as in git's raw format.
        complete: that is all; else `reason` says what was not looked at.
    """

    files: Seq = 0
    names: Names = ()
    complete: bool = True
    reason: Sentence = ""


class Evidence(_Part):
    """What there is to judge a run by.

    Attributes:
        acceptance: None = no command was asked for.
        source: whose word `tool_calls` to `model` are: `event_stream` = of the agent's program,
            which cmesh only counted.
        tool_calls: None = the runner is no agent, or tells none.
        commands: some of those that it ran, the last ones; `commands_count` counts all.
        denials: tool calls that it says were refused.
        model: that it says it asks.
        before: None = the directory is no repository of its own, or an older worker.
        changed: None = the task had a copy, could not write, or its directory is a repository.
    """

    acceptance: Acceptance | None = None
    source: Annotated[str, Field(max_length=32)] = ""
    tool_calls: Seq | None = None
    commands: Annotated[tuple[AgentCommand, ...], Field(max_length=100)] = ()
    commands_count: Seq = 0
    denials: Annotated[tuple[Annotated[str, Field(max_length=400)], ...], Field(max_length=50)] = ()
    model: Annotated[str, Field(max_length=200)] = ""
    before: Annotated[Before | None, Field(exclude_if=is_unset)] = None
    changed: Annotated[Changed | None, Field(exclude_if=is_unset)] = None

    @model_validator(mode="after")
    def _is_small(self) -> Self:
        # It is stored and signed as JSON, so it must have that form.
        if len(json.dumps(self.model_dump(mode="json"), allow_nan=False)) > EVIDENCE_CHARACTERS:
            raise ValueError(f"evidence holds more than {EVIDENCE_CHARACTERS} characters")
        return self
