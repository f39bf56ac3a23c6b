"""The rows of tasks that peers ask for, as they are first written down."""

from dataclasses import replace

from cmesh.daemon.admission import Admission, principal
from cmesh.daemon.parts import Parts
from cmesh.model import Direction, Identity, Limits, NodeId, Profile, TaskId, TaskSpec
from cmesh.protocol.messages import Cancel
from cmesh.redact import Redactor
from cmesh.store.records import TaskRecord, TaskSnapshot
from cmesh.text import cut

__all__ = ["is_of", "submitted_record", "tombstone"]

DENIED_PROMPT_CHARACTERS = 500
"""What is kept of a prompt that was refused: a peer without rights must not fill the disk."""


def is_of(task: TaskSnapshot, peer_id: NodeId) -> bool:
    """Say whether a task here is one that this peer asked for."""
    return task.record.direction is Direction.IN and task.record.peer_id == peer_id


def submitted_record(
    spec: TaskSpec,
    peer: Identity,
    admission: Admission,
    before: TaskSnapshot | None,
    redactor: Redactor,
) -> TaskRecord:
    """Return a submit's row; of a denied one the hash tells the prompt, and little is kept.

    Secrets are taken out of the prompt; the hash still is of what came.
    """
    record = _task_record(spec, peer, admission.rule)
    spec = replace(spec, prompt=redactor.text(spec.prompt)[0])
    record = replace(record, spec=spec)
    if before is not None:
        turn = before.record.turn + 1
        record = replace(record, thread=before.record.first, turn=turn)
    if admission.effect != "deny":
        return record
    return replace(record, spec=replace(spec, prompt=cut(spec.prompt, DENIED_PROMPT_CHARACTERS)))


def tombstone(message: Cancel, peer: Identity, parts: Parts) -> TaskRecord:
    """Return the row of a task that was cancelled before it came: its id and its hash."""
    spec = TaskSpec(
        task_id=TaskId(message.task_id),
        runner="",
        profile=Profile.QUERY,
        directory="",
        prompt="",
        limits=Limits(),
        not_after=parts.clock.now(),
    )
    return replace(_task_record(spec, peer, None), payload_hash=message.payload_hash)


def _task_record(spec: TaskSpec, peer: Identity, rule: str | None) -> TaskRecord:
    return TaskRecord(
        task_id=spec.task_id,
        direction=Direction.IN,
        peer_id=peer.node_id,
        peer=peer.name,
        principal=principal(peer),
        session="",
        project="",
        idempotency_key="",
        spec=spec,
        payload_hash=spec.payload_hash(),
        worker_incarnation="",
        rule=rule,
    )
