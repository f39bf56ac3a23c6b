"""The messages of link protocol `cmesh.v1`, one class a type; here those about tasks.

Pure: what a message may hold and nothing about when it may come; that is
`cmesh.protocol.session` (links) and `cmesh.protocol.state` (tasks). Unknown
fields are ignored, so that peers one minor version apart understand each other.
"""

from typing import Annotated, Literal

from pydantic import Field

from cmesh.protocol.fields import (
    Code,
    CodeOrNone,
    Data,
    Hex256,
    Id,
    Instant,
    ParameterName,
    RetryAfter,
    Rows,
    Sentence,
    Seq,
    Signature,
    SqlValue,
    WireMessage,
    is_unset,
)
from cmesh.protocol.link_messages import (
    Challenge,
    Failure,
    Grants,
    Hello,
    Ping,
    Pong,
    Receipt,
    Restarting,
    Welcome,
)
from cmesh.protocol.outcome import Outcome
from cmesh.protocol.proof_messages import Proof, ProofAnswer
from cmesh.protocol.spec import CommitId, Spec

__all__ = [
    "BUNDLE_BYTES",
    "FRAME_BYTES",
    "MINOR",
    "MINOR_MINIMUM",
    "SQL_BYTES",
    "SQL_ROWS",
    "SUBPROTOCOL",
    "Accepted",
    "Artifact",
    "Bundle",
    "Cancel",
    "Cancelled",
    "Denied",
    "End",
    "EventMessage",
    "Gap",
    "Lacks",
    "Message",
    "ResultAck",
    "ResultMessage",
    "Sql",
    "SqlAnswer",
    "SqlCancel",
    "SqlFile",
    "StillWanted",
    "Submit",
    "Subscribe",
    "Wanted",
]

BUNDLE_BYTES = 64 * 1024 * 1024
"""The longest git bundle that a caller sends where a worker lacks a commit."""

SQL_BYTES = 16 * 1024 * 1024
"""The longest Parquet file that answers a query of a peer."""

SQL_ROWS = 100_000
"""The most rows in it."""

SUBPROTOCOL = "cmesh.v1"
"""The websocket subprotocol; another major version has another name."""

MINOR = 0
"""The newest minor version this code speaks."""

MINOR_MINIMUM = 0
"""The oldest one it accepts; never lowered silently."""

FRAME_BYTES = 1024 * 1024
"""The largest frame either side sends or takes (close code 1009 above it)."""


class Submit(WireMessage):
    """Asks the worker to take a task. Answered by `accepted` or `denied`, each time anew.

    Attributes:
        waited: it lay in the caller's outbox, so the worker asks `still_wanted` before it
            starts it.
    """

    type: Literal["submit"] = "submit"
    task_id: Id
    spec: Spec
    payload_hash: Hex256
    waited: Annotated[bool, Field(exclude_if=is_unset)] = False


class Accepted(WireMessage):
    """The worker has committed the task's row.

    Attributes:
        waiting: the row waits for approval by the worker's owner.
        rule: name of the rule that allowed it, as far as the caller may know.
    """

    type: Literal["accepted"] = "accepted"
    task_id: Id
    payload_hash: Hex256
    waiting: bool = False
    rule: Annotated[str, Field(max_length=200)] = ""


class Denied(WireMessage):
    """The worker has committed a refusal; the task will never run there.

    Attributes:
        retry_after_s: seconds after which a new task like it may be taken; None = time
            alone does not help.
    """

    type: Literal["denied"] = "denied"
    task_id: Id
    code: Code
    reason: Sentence
    change: Sentence = ""
    retry_after_s: RetryAfter = None


class Subscribe(WireMessage):
    """Asks for the task's events after `after_seq`, and its result."""

    type: Literal["subscribe"] = "subscribe"
    task_id: Id
    after_seq: Seq


class EventMessage(WireMessage):
    """One event; `seq` follows the one before without a hole."""

    type: Literal["event"] = "event"
    task_id: Id
    seq: Annotated[int, Field(ge=1, le=2**53)]
    ts: Instant
    kind: Annotated[str, Field(max_length=64)]
    text: Annotated[str, Field(max_length=64_000)] = ""
    data: Data = Field(default_factory=dict[str, object])


class Gap(WireMessage):
    """Events up to and with `through_seq` are no longer kept."""

    type: Literal["gap"] = "gap"
    task_id: Id
    through_seq: Seq


class End(WireMessage):
    """No event follows on this subscription; `result` comes next."""

    type: Literal["end"] = "end"
    task_id: Id
    last_seq: Seq


class ResultMessage(WireMessage):
    """The end of a task, signed by the worker over `receipts.result_bytes`."""

    type: Literal["result"] = "result"
    task_id: Id
    last_seq: Seq
    outcome: Outcome
    signature: Signature


class ResultAck(WireMessage):
    """The caller has committed the result; signed over the same bytes as the result."""

    type: Literal["result_ack"] = "result_ack"
    task_id: Id
    signature: Signature


class Cancel(WireMessage):
    """Ends a task: `user` whatever its state, `expired` only when it has not started.

    Attributes:
        payload_hash: of the submit; a worker that never saw the submit keeps it in the
            tombstone, so that its signed result names what was cancelled.
    """

    type: Literal["cancel"] = "cancel"
    task_id: Id
    reason: Literal["user", "expired"]
    payload_hash: Hex256


class Cancelled(WireMessage):
    """Progress of a cancel, for display: how many processes are left. Not the end."""

    type: Literal["cancelled"] = "cancelled"
    task_id: Id
    processes_left: Seq


class StillWanted(WireMessage):
    """The task waited; the worker asks before it starts it."""

    type: Literal["still_wanted"] = "still_wanted"
    task_id: Id


class Wanted(WireMessage):
    """Answer to `still_wanted`: yes. A no is a `cancel`."""

    type: Literal["wanted"] = "wanted"
    task_id: Id


class Artifact(WireMessage):
    """Asks for bytes of a kept output or patch from `offset`; answered by binary frames.

    A worker asks so for the changes that a caller's `submit` has announced.
    """

    type: Literal["artifact"] = "artifact"
    task_id: Id
    sha256: Hex256
    offset: Seq


class Lacks(WireMessage):
    """A worker has not the commit that a task's changes are made on, and asks for it.

    Sent only where the task's `changes` say `bundle`. Answered by `bundle`, or `failure` about the
    task.

    Attributes:
        have: commits that its repository names, so that less has to be sent.
    """

    type: Literal["lacks"] = "lacks"
    task_id: Id
    have: Annotated[tuple[CommitId, ...], Field(max_length=32)] = ()


class Bundle(WireMessage):
    """Announces a git bundle with the commit that was asked for; fetched by `artifact`."""

    type: Literal["bundle"] = "bundle"
    task_id: Id
    sha256: Hex256
    bytes: Annotated[int, Field(ge=1, le=BUNDLE_BYTES)]


class Sql(WireMessage):
    """Asks the peer to run one SELECT over what its policy lets this node see.

    Sent only to a peer that takes `sql`. Answered by `sql_answer`, or `failure` about the query.

    Attributes:
        query_id: a UUIDv7; the chunks of the answer carry it where others carry a task's id.
        parameters, named: what is bound to `?` in order, or to `$name`; one of them at most.
            `named` is sent only to a peer that takes `sql_named`.
        bytes: of the answer's Parquet that the sender takes; 0 = as many as the peer gives.
    """

    type: Literal["sql"] = "sql"
    query_id: Annotated[str, Field(max_length=64)]
    sql: Annotated[str, Field(min_length=1, max_length=65_536)]
    limit: Annotated[int, Field(ge=1, le=SQL_ROWS)] = 1_000
    parameters: Annotated[tuple[SqlValue, ...], Field(max_length=100, exclude_if=is_unset)] = ()
    named: Annotated[dict[ParameterName, SqlValue], Field(max_length=100, exclude_if=is_unset)] = {}  # noqa: RUF012 - pydantic copies it
    bytes: Annotated[int, Field(ge=0, le=SQL_BYTES, exclude_if=is_unset)] = 0


class SqlFile(WireMessage):
    """The Parquet of an answer, sent as chunks after it; and the log it was made of.

    Attributes:
        rows: in the file.
        scope: `own` has only what belongs to tasks that the asker sent, `all` has everything.
        head_seq, head_hash, signature: a `receipt` of the peer's log as it was when the query
            came; the answer covers at least that.
    """

    sha256: Hex256
    bytes: Annotated[int, Field(ge=1, le=SQL_BYTES)]
    rows: Annotated[int, Field(ge=0, le=SQL_ROWS)]
    scope: Literal["own", "all"]
    elapsed_ms: Annotated[float, Field(ge=0, le=1e9)] = 0
    head_seq: Seq
    head_hash: Hex256
    signature: Signature


class SqlAnswer(WireMessage):
    """What came of a `sql`: a file that follows, or why there is none.

    Attributes:
        columns, rows: never used; `file` has them.
        truncated: the query has more rows than were asked for, or fit.
        change: what would make it an answer, as far as the asker may know.
    """

    type: Literal["sql_answer"] = "sql_answer"
    query_id: Annotated[str, Field(max_length=64)]
    columns: tuple[str, ...] = ()
    rows: Rows = ()
    truncated: bool = False
    code: CodeOrNone = ""
    reason: Sentence = ""
    change: Annotated[Sentence, Field(exclude_if=is_unset)] = ""
    file: Annotated[SqlFile | None, Field(exclude_if=is_unset)] = None


class SqlCancel(WireMessage):
    """Nobody waits for a query's answer any more; it is ended, and never answered."""

    type: Literal["sql_cancel"] = "sql_cancel"
    query_id: Annotated[str, Field(max_length=64)]


Message = Annotated[
    Challenge
    | Hello
    | Welcome
    | Grants
    | Submit
    | Accepted
    | Denied
    | Subscribe
    | EventMessage
    | Gap
    | End
    | ResultMessage
    | ResultAck
    | Cancel
    | Cancelled
    | StillWanted
    | Wanted
    | Artifact
    | Lacks
    | Bundle
    | Sql
    | SqlAnswer
    | SqlCancel
    | Proof
    | ProofAnswer
    | Receipt
    | Restarting
    | Ping
    | Pong
    | Failure,
    Field(discriminator="type"),
]
"""Any message; pydantic picks the class by `type`."""
