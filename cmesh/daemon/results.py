"""How a task ended on this worker, as a signed value."""

from dataclasses import dataclass
from datetime import datetime

from cmesh.keys import SigningKey
from cmesh.model import NodeId, Result, TaskState
from cmesh.protocol.convert import outcome_from
from cmesh.protocol.receipts import result_bytes
from cmesh.runner.evidence import Look
from cmesh.runner.reader import Outcome
from cmesh.store.records import TaskRecord

__all__ = ["RanWith", "refusal", "run", "signed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RanWith:
    """What ran a task, as known when it started; `unknown` when no record of it is left."""

    runner_version: str = ""
    credential: str = "unknown"


_NEVER_RAN = {
    TaskState.DENIED: "the worker committed the refusal",
    TaskState.CANCELLED: "the worker committed it before anything was started",
    TaskState.EXPIRED: "the worker committed it; its time was over before a start",
}


def refusal(state: str, code: str, reason: str, now: datetime) -> Result:
    """Return the result of a task that was never started."""
    ended = TaskState(state)
    return Result(state=ended, witness=_NEVER_RAN[ended], error=reason, code=code, ended_at=now)


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
            witness="the shim ended without a result; zero processes counted",
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
        profile_enforced="none",
        credential=ran_with.credential,
        processes_left=exit_.processes_left,
        started_at=exit_.started,
        ended_at=exit_.ended,
    )


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
