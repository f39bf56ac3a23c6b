"""What a call asks for, compared with what was asked before; pure helpers of `asking`."""

from datetime import timedelta

from cmesh.daemon import overview
from cmesh.daemon.arguments import DelegateArguments, ReplyArguments
from cmesh.model import Direction, Operation, TaskSpec
from cmesh.node.whois import Peer
from cmesh.policy.decide import Decision
from cmesh.protocol.answer import schema_text
from cmesh.store.records import DecisionRecord, TaskRecord

__all__ = ["decision_record", "same_as", "same_task", "start_within"]

START_WITHIN = {"fail": timedelta(hours=1), "queue": timedelta(days=1)}
"""A task that could not be started by then never is, by what is done when its peer is away."""


def start_within(arguments: DelegateArguments | ReplyArguments) -> timedelta:
    """Return how long a task may wait to be started."""
    if arguments.start_within_s:
        return timedelta(seconds=arguments.start_within_s)
    return START_WITHIN[arguments.if_offline]


def same_as(record: TaskRecord, arguments: DelegateArguments, peer: Peer | None) -> bool:
    """Say whether a task is what a call asks for; without a peer, of one chosen in the same way."""
    spec, chosen = record.spec, record.selection
    if peer is None:
        to_it = chosen is not None and chosen.where == tuple(arguments.where)
    else:
        to_it = record.peer_id == peer.identity.node_id
    same = to_it and spec.follows is None and spec.directory == arguments.directory
    return same and same_task(spec, arguments)


def same_task(spec: TaskSpec, arguments: DelegateArguments) -> bool:
    """Say whether a task is what a call asks for, wherever that is."""
    return (
        spec.prompt == arguments.prompt
        and spec.runner == arguments.runner
        and spec.profile == arguments.profile
        and spec.accept == tuple(arguments.accept)
        and spec.artifacts == tuple(arguments.artifacts)
        and (spec.base or "head") == arguments.base
        and (spec.changes is not None) == arguments.with_changes
        and spec.answer_schema == schema_text(arguments.answer_schema)
    )


def decision_record(record: TaskRecord, decision: Decision, policy_sha256: str) -> DecisionRecord:
    """Return the row of what outbound policy said to a task."""
    return DecisionRecord(
        task_id=record.task_id if decision.effect == "allow" else None,
        direction=Direction.OUT,
        peer_id=record.peer_id,
        peer=record.peer,
        principal=record.principal,
        operation=(Operation.FOLLOW_UP if record.spec.follows else Operation.TASK).value,
        effect=decision.effect,
        rule=decision.rule,
        reason=decision.reason,
        failed=tuple(overview.failed_fields(decision)),
        policy_sha256=policy_sha256,
    )
