"""What this worker found out about a run, for its signature to cover; see `cmesh.protocol.evidence`.

Texts in it are redacted and cut. Nothing here runs a program or reads what a task may write.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cmesh.daemon.directories import seen_directory
from cmesh.daemon.parts import Parts
from cmesh.daemon.verdict import acceptance_words
from cmesh.errors import AcceptanceFailed
from cmesh.model import Result, TaskState
from cmesh.protocol.evidence import Acceptance, AgentCommand, Evidence
from cmesh.protocol.outcome import EXTRA_CHARACTERS
from cmesh.redact import Redactor
from cmesh.runner.evidence import Checked, Exit
from cmesh.runner.reader import Outcome
from cmesh.runner.shim_accept import ACCEPT_TAIL
from cmesh.store.records import TaskRecord
from cmesh.text import cut, one_line, scrub

__all__ = ["MOST_CHARACTERS", "fitted", "with_evidence"]

TAIL_CHARACTERS = 4_000
DENIALS_MOST, DENIAL_CHARACTERS = 20, 300
REASON_CHARACTERS = 500
NAMES_LEAST = 8
"""Changed paths that give way only after what was said."""

MOST_CHARACTERS, LEAST_CHARACTERS = 8 * 1024, 3 * 1024
"""Of the whole as JSON: between these, what the patch leaves of an old peer's room."""

OTHER_CHARACTERS = 1_024
"""Kept free in that room for the other fields that came late, such as the basis."""

_SOURCE = "event_stream"


async def with_evidence(
    parts: Parts, record: TaskRecord, result: Result, exit_: Exit | None, outcome: Outcome | None
) -> Result:
    """Return a result with the evidence of its run; `exit_` None = nobody saw the end.

    The state stays that of the agent. Where it is `succeeded` and the acceptance command did not
    pass, the code says so. May be repeated until the result is stored.
    """
    redactor = parts.redactor()
    acceptance = None
    if record.spec.accept:
        path = parts.supervisor.directory(record.task_id) / ACCEPT_TAIL
        checked = exit_.acceptance if exit_ is not None else None
        acceptance = await asyncio.to_thread(
            _acceptance, record.spec.accept, checked, path, redactor
        )
    evidence = _evidence(acceptance, outcome, redactor)
    before, changed = await seen_directory(parts, record.task_id, result, redactor)
    evidence = evidence.model_copy(update={"before": before, "changed": changed})
    room = EXTRA_CHARACTERS - OTHER_CHARACTERS - len(json.dumps(dict(result.patch)))
    evidence = fitted(evidence, max(LEAST_CHARACTERS, min(MOST_CHARACTERS, room)))
    result = replace(result, evidence=evidence.model_dump(mode="json"))
    if acceptance is None or acceptance.passed or result.state is not TaskState.SUCCEEDED:
        return result
    why = f"the acceptance command {acceptance_words(acceptance)}"
    why = f"{why}: {acceptance.reason}" if acceptance.reason else why
    return replace(result, code=AcceptanceFailed.code, error=result.error or why)


def _acceptance(
    argv: Sequence[str], checked: Checked | None, path: Path, redactor: Redactor
) -> Acceptance:
    """Return what is known of the command's run. Blocks on the disk."""
    asked = tuple(cut(redactor.text(scrub(word))[0], 300) for word in argv)
    if checked is None:
        return Acceptance(argv=asked, end="unknown", reason="nobody saw the end of the task")
    tail, reason = b"", checked.reason
    if checked.output_kept:
        try:
            tail = _read(path, checked.output_kept)
        except OSError as error:
            reason = f"its output is gone: {error.strerror}"
    text = scrub(redactor.text(tail.decode("utf-8", "replace"))[0]).strip()
    kept = text[-TAIL_CHARACTERS:]
    return Acceptance(
        argv=asked,
        end=checked.end,
        exit_code=checked.exit_code,
        passed=checked.end == "exited" and checked.exit_code == 0,
        reason=one_line(redactor.text(reason or checked.output_lost)[0], REASON_CHARACTERS),
        output=kept,
        output_bytes=checked.output_bytes,
        truncated=checked.output_bytes > checked.output_kept or len(kept) < len(text),
        runtime_s=round(checked.runtime_s, 3),
    )


def _evidence(
    acceptance: Acceptance | None, outcome: Outcome | None, redactor: Redactor
) -> Evidence:
    """Return all that there is, which may be more than evidence may be: not validated."""
    claims = outcome.claims if outcome is not None else None
    if outcome is None or claims is None:
        return Evidence.model_construct(acceptance=acceptance)
    denials = [one_line(redactor.text(one)[0], DENIAL_CHARACTERS) for one in outcome.denials]
    return Evidence.model_construct(
        acceptance=acceptance,
        source=_SOURCE,
        tool_calls=claims.calls,
        commands=tuple(
            AgentCommand(
                command=redactor.text(ran.command)[0][:400],
                exit_code=ran.exit_code,
                failed=ran.failed,
            )
            for ran in claims.ran
        ),
        commands_count=claims.commands,
        denials=tuple(denials[:DENIALS_MOST]),
        model=redactor.text(claims.model)[0],
    )


def fitted(evidence: Evidence, limit: int) -> Evidence:
    """Return as much of the evidence as fits: the oldest commands give way first."""
    while len(json.dumps(fields := evidence.model_dump(mode="json"))) > limit:
        update: dict[str, object]
        if evidence.commands:
            update = {"commands": evidence.commands[len(evidence.commands) // 2 + 1 :]}
        elif evidence.changed is not None and len(evidence.changed.names) > NAMES_LEAST:
            names = evidence.changed.names
            less = {"names": names[: max(NAMES_LEAST, len(names) // 2)]}
            update = {"changed": evidence.changed.model_copy(update=less)}
        elif evidence.denials:
            update = {"denials": evidence.denials[: len(evidence.denials) // 2]}
        elif evidence.acceptance is not None and evidence.acceptance.output:
            output = evidence.acceptance.output
            less = {"output": output[len(output) // 2 + 1 :], "truncated": True}
            update = {"acceptance": evidence.acceptance.model_copy(update=less)}
        elif evidence.acceptance is not None and len(evidence.acceptance.argv) > 1:
            less = {"argv": evidence.acceptance.argv[:1]}
            update = {"acceptance": evidence.acceptance.model_copy(update=less)}
        elif evidence.changed is not None and evidence.changed.names:
            update = {"changed": evidence.changed.model_copy(update={"names": ()})}
        else:
            break
        evidence = evidence.model_copy(update=update)
    return Evidence.model_validate(fields)


def _read(path: Path, most: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        return file.read(most)
