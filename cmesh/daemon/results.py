"""How a task ended on this worker, as a signed value."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime

from cmesh.daemon.draft import Draft
from cmesh.daemon.parts import Parts
from cmesh.keys import SigningKey
from cmesh.model import NodeId, Result, TaskState
from cmesh.protocol.convert import outcome_from
from cmesh.protocol.receipts import result_bytes
from cmesh.protocol.witness import WITNESS
from cmesh.runner.evidence import Look
from cmesh.runner.reader import Outcome
from cmesh.sandbox.tier import NO_SANDBOX
from cmesh.store.records import TaskRecord

__all__ = ["RanWith", "add_signed", "refusal", "run", "signed", "with_basis", "without_output"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RanWith:
    """What ran a task, as known when it started; `unknown` when no record of it is left.

    Attributes:
        policy_sha256: of the policy that let it run.
    """

    runner_version: str = ""
    credential: str = "unknown"
    containment: str = ""
    containment_note: str = ""
    enforcement: str = ""
    policy_sha256: str = ""


def refusal(state: str, code: str, reason: str, now: datetime) -> Result:
    """Return the result of a task that was never started."""
    ended = TaskState(state)
    return Result(
        state=ended, witness=WITNESS["worker", ended], error=reason, code=code, ended_at=now
    )


def run(
    state: str, look: Look, outcome: Outcome | None, ran_with: RanWith, now: datetime
) -> Result:
    """Return the result of a task that was started, or may have been.

    Without the shim's result nobody saw the end: the state says so, and the
    count of processes is its witness.
    """
    exit_ = look.exit
    if exit_ is None or outcome is None:
        return Result(
            state=TaskState(state),
            witness=WITNESS["worker", TaskState.INTERRUPTED],
            error="the end of the task was not seen; it may have had effects",
            code="interrupted" if state == TaskState.INTERRUPTED else "",
            runner_version=ran_with.runner_version,
            credential=ran_with.credential,
            ended_at=now,
        )
    return Result(
        state=TaskState(state),
        witness=exit_.witness,
        exit_code=exit_.exit_code,
        text=outcome.text,
        error=outcome.error,
        code=outcome.code,
        output_bytes=exit_.stdout_bytes,
        output_kept=exit_.stdout_kept,
        output_sha256=exit_.stdout_sha256 if exit_.stdout_kept else "",
        truncated=exit_.stdout_bytes > exit_.stdout_kept,
        usage=outcome.usage,
        runner_version=ran_with.runner_version,
        profile_enforced=exit_.enforcement or NO_SANDBOX,
        credential=ran_with.credential,
        answer=outcome.answer,
        processes_left=exit_.processes_left,
        started_at=exit_.started,
        ended_at=exit_.ended,
    )


def without_output(result: Result, why: str) -> Result:
    """Return a result whose kept output is not what the shim recorded; the end stands."""
    return replace(
        result,
        witness=f"{result.witness}; {why}",
        error=f"{result.error}; {why}" if result.error else why,
        output_kept=0,
        output_sha256="",
        truncated=result.output_bytes > 0,
    )


def add_signed(parts: Parts, draft: Draft, result: Result, policy_sha256: str) -> None:
    """Put an end into `draft`, signed by this node; the task is known."""
    assert draft.record is not None
    worker = parts.self_id()
    result = with_basis(result, draft.record, policy_sha256, parts.store.head)
    signature = signed(parts.key, draft.record, worker, result, draft.last_event)
    draft.add_result(result, signature)


def with_basis(
    result: Result, record: TaskRecord, policy_sha256: str, head: tuple[int, str]
) -> Result:
    """Return a result that also says who asked and by which rules, for the signature to cover.

    `head` is the audit head before the result: a peer that keeps the result holds it too.
    """
    basis = {
        "caller": record.principal,
        # A task that was cancelled before it came has no runner, and no profile was asked for.
        "profile": record.spec.profile.value if record.spec.runner else "",
        "policy_sha256": policy_sha256,
        "prompt_sha256": hashlib.sha256(record.spec.prompt.encode("utf-8", "replace")).hexdigest(),
        "head_seq": head[0],
        "head_hash": head[1],
    }
    return replace(result, basis=basis)


def signed(
    key: SigningKey, record: TaskRecord, worker: NodeId, result: Result, last_seq: int
) -> str:
    """Return this worker's signature over the end of a task."""
    message = result_bytes(
        record.task_id,
        record.payload_hash,
        worker,
        record.peer_id,
        outcome_from(result),
        last_seq,
    )
    return key.sign(message)
