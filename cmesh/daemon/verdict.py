"""The line a person can trust: what the agent says of a task, and what checks say. Pure.

INVARIANT: no text that an agent or another machine chose stands in it; of words that are not
cmesh's there is the acceptance command alone, as this node keeps it with the task.
"""

import shlex

from cmesh.model import NEVER_RAN, Result, TaskSpec, TaskState
from cmesh.protocol.evidence import Acceptance, Evidence
from cmesh.protocol.outcome import Patch
from cmesh.text import one_line

__all__ = ["acceptance_words", "verdict"]

COMMAND_CHARACTERS = 120
"""What is shown of an acceptance command."""

_COMMAND = "command:"

_WAS_ENDED = {
    TaskState.TIMED_OUT: "its time was over",
    TaskState.CANCELLED: "on a wish",
    TaskState.INTERRUPTED: "and nobody saw how",
}

_LIMITS = {
    "budget_spent": "for what it had spent",
    "disk_limit": "for what it took of the disk",
    "idle_limit": "for its silence",
}
"""Codes of a failure by which cmesh ended it."""

_ENDS = {
    "timed_out": "did not end in the task's time",
    "disk_limit": "was ended for what it took of the disk",
    "cancelled": "was ended with the task",
    "spawn_failed": "could not be started",
    "not_run": "was not run",
}


def verdict(spec: TaskSpec, result: Result | None) -> str:
    """Return `agent says X; checks say Y` for an ended task; empty where nothing ran."""
    if result is None or result.state in NEVER_RAN:
        return ""
    if result.state is TaskState.CANCELLED and result.started_at is None:
        return ""
    evidence = Evidence.model_validate(dict(result.evidence))
    checks = [_accepted(spec, evidence), *_changed(result, evidence)]
    if result.processes_left:
        checks.append(f"{result.processes_left} processes still live")
    said = ", ".join(check for check in checks if check) or "nothing, as nothing was to be checked"
    return f"{_said(spec, result, evidence)}; checks say {said}"


def acceptance_words(acceptance: Acceptance) -> str:
    """Say how an acceptance command ended, after its name."""
    code, took = acceptance.exit_code, f"{acceptance.runtime_s:.1f} s"
    if acceptance.end != "exited" or code is None:
        return _ENDS.get(acceptance.end, "was perhaps not run: nobody saw its end")
    how = f"exit {code}" if code >= 0 else f"signal {-code}"
    return f"{'passed' if acceptance.passed and code == 0 else 'failed'} ({how}, {took})"


def _said(spec: TaskSpec, result: Result, evidence: Evidence) -> str:
    who = "command" if spec.runner.startswith(_COMMAND) else "agent"
    code = "" if result.exit_code is None else f" (exit {result.exit_code})"
    if result.state is TaskState.SUCCEEDED:
        nothing = " and called no tool" if evidence.tool_calls == 0 else ""
        return f"{who} says done{nothing}"
    if result.state is TaskState.FAILED and result.code in _LIMITS:
        return f"{who} was ended, {_LIMITS[result.code]}"
    if result.state is TaskState.FAILED and result.exit_code is None:
        return f"{who} could not be run"
    if result.state is TaskState.FAILED:
        return f"{who} says failed{code}"
    return f"{who} was ended, {_WAS_ENDED.get(result.state, result.state.value)}"


def _accepted(spec: TaskSpec, evidence: Evidence) -> str:
    if not spec.accept:
        return ""
    command = f"`{one_line(shlex.join(spec.accept), COMMAND_CHARACTERS)}`"
    if evidence.acceptance is None:
        return f"{command} was perhaps not run: the worker says nothing of it"
    return f"{command} {acceptance_words(evidence.acceptance)}"


def _changed(result: Result, evidence: Evidence) -> list[str]:
    if not result.patch:
        told = evidence.changed
        if told is None:
            return []
        return [_files(told.files) + ("" if told.complete else " of those looked at")]
    patch = Patch.model_validate(dict(result.patch))
    if patch.withheld == "patch_failed":
        return ["what was changed is not known"]
    if not patch.flagged_count:
        return [_files(patch.files)]
    return [_files(patch.files), f"{patch.flagged_count} of them run or instruct by being there"]


def _files(count: int) -> str:
    if not count:
        return "no file was changed"
    return "1 file was changed" if count == 1 else f"{count} files were changed"
