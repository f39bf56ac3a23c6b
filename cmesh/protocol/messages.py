"""The messages of link protocol `cmesh.v1`, one class a type; here those about tasks.

Pure: what a message may hold and nothing about when it may come; that is
`cmesh.protocol.session` (links) and `cmesh.protocol.state` (tasks). Unknown
fields are ignored, so that peers one minor version apart understand each other.
"""

import json
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from cmesh.model import Profile, TaskState
from cmesh.protocol.evidence import Evidence
from cmesh.protocol.fields import (
    Code,
    CodeOrNone,
    Data,
    FollowUp,
    Hex256,
    HexOrNone,
    Id,
    Instant,
    Name,
    Names,
    ObjectOrNone,
    RetryAfter,
    Rows,
    Sentence,
    Seq,
    Signature,
    WireMessage,
    is_unset,
    storable,
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

__all__ = [
    "BUNDLE_BYTES",
    "CHANGES_BYTES",
    "FRAME_BYTES",
    "MINOR",
    "MINOR_MINIMUM",
    "PATCH_CHARACTERS",
    "SUBPROTOCOL",
    "Accepted",
    "Artifact",
    "ArtifactFile",
    "Artifacts",
    "Basis",
    "Bundle",
    "Cancel",
    "Cancelled",
    "Denied",
    "End",
    "EventMessage",
    "Gap",
    "Lacks",
    "Message",
    "Outcome",
    "Patch",
    "ResultAck",
    "ResultMessage",
    "SentChanges",
    "Spec",
    "Sql",
    "SqlAnswer",
    "StillWanted",
    "Submit",
    "Subscribe",
    "Wanted",
]

EXTRA_CHARACTERS = 16 * 1024
"""What an outcome may hold as JSON in fields that this version does not know: all is kept."""

PATCH_CHARACTERS = 12 * 1024
"""What an outcome's `patch` may be as JSON: a peer that does not know it keeps no more."""

CHANGES_BYTES = 16 * 1024 * 1024
"""The longest patch that a caller may send with a task."""

BUNDLE_BYTES = 64 * 1024 * 1024
"""The longest git bundle that a caller sends where a worker lacks a commit."""

SUBPROTOCOL = "cmesh.v1"
"""The websocket subprotocol; another major version has another name."""

MINOR = 0
"""The newest minor version this code speaks."""

MINOR_MINIMUM = 0
"""The oldest one it accepts; never lowered silently."""

FRAME_BYTES = 1024 * 1024
"""The largest frame either side sends or takes (close code 1009 above it)."""


CommitId = Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]


class SentChanges(WireMessage):
    """Uncommitted changes of the caller; the worker fetches the bytes by `artifact`.

    Attributes:
        commit: what they are made on.
        sha256, bytes: of a binary patch, for `git apply`.
        bundle: a worker without the commit may say so by `lacks`. Not part of the payload's hash,
            so that a worker that does not know it takes the task as before.
    """

    commit: CommitId
    sha256: Hex256
    bytes: Annotated[int, Field(ge=0, le=CHANGES_BYTES)]
    bundle: Annotated[bool, Field(exclude_if=is_unset)] = False


class Spec(WireMessage):
    """What is to be done; the wire form of `cmesh.model.TaskSpec` without its id.

    Attributes:
        turns, tokens: limits, as `cmesh.model.Limits`; an older worker refuses the task, because
            its hash is not the one of what it understands.
        follows: makes it a follow-up turn of that task, with a life of its own.
        artifacts: globs of files to hand over. A worker that does not know it refuses the task:
            the payload's hash is another one without.
        changes: what the copy holds instead; as with `base`, an older worker refuses the task.
        base: what the copy holds, as `cmesh.model.TaskSpec`; a worker that does not know it finds
            another hash and refuses the task.
        answer_schema: JSON Schema, as JSON text, of the answer it must end with; as `artifacts`.
    """

    runner: Annotated[str, Field(min_length=1, max_length=80)]
    profile: Profile
    directory: Annotated[str, Field(min_length=1, max_length=4096)]
    prompt: Annotated[str, Field(max_length=200_000)]
    runtime_s: Annotated[int, Field(ge=1, le=14_400)]
    output_bytes: Annotated[int, Field(ge=0, le=2**30)]
    cost_usd: Annotated[float, Field(ge=0)] | None = None
    accept: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    origin: Annotated[tuple[Name, ...], Field(max_length=16)] = ()
    not_after: Instant
    traceparent: Annotated[str, Field(max_length=64)] = ""
    # Left out when there is none: such a task is written as before there were these fields.
    turns: Annotated[Annotated[int, Field(ge=1, le=2**53)] | None, Field(exclude_if=is_unset)] = (
        None
    )
    tokens: Annotated[Annotated[int, Field(ge=1, le=2**53)] | None, Field(exclude_if=is_unset)] = (
        None
    )
    follows: Annotated[Id | None, Field(exclude_if=is_unset)] = None
    artifacts: Annotated[
        tuple[Annotated[str, Field(max_length=200)], ...],
        Field(max_length=16, exclude_if=is_unset),
    ] = ()
    base: Annotated[Literal["", "working-tree"], Field(exclude_if=is_unset)] = ""
    changes: Annotated[SentChanges | None, Field(exclude_if=is_unset)] = None
    answer_schema: Annotated[str, Field(max_length=16_384, exclude_if=is_unset)] = ""


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


class Basis(WireMessage):
    """What a worker lets its signature cover beside the outcome: who asked, and by which rules.

    Fields of a newer peer are kept, because the signature covers them.

    Attributes:
        caller: who asked, as whois said: login name or tags.
        profile: that the task was taken under; empty when it was cancelled before it came.
        policy_sha256: the policy that decided; empty when nobody knows any more.
        prompt_sha256: the prompt as the worker keeps it.
        head_seq, head_hash: the worker's audit head just before it signed.
    """

    model_config = ConfigDict(extra="allow")

    caller: Annotated[str, Field(max_length=2_000)] = ""
    profile: Annotated[str, Field(max_length=64)] = ""
    policy_sha256: HexOrNone = ""
    prompt_sha256: HexOrNone = ""
    head_seq: Seq = 0
    head_hash: HexOrNone = ""


CopyBase = Annotated[str, Field(pattern=r"^[a-z-]{1,32}$")]
"""A word; one that a newer peer has made is kept."""


class Patch(WireMessage):
    """What a task changed of its copy of the directory; the bytes come by `artifact`.

    Older peers keep it as fields they do not know, so all of it as JSON fits `PATCH_CHARACTERS`.

    Attributes:
        sha256: of the patch, for `git apply`; empty when nothing changed or there is none.
        bytes: its length.
        files: changed paths.
        changed: some of them, each after a letter and a blank: A, D, M, T as in git's raw format.
        flagged: some of those that run or instruct by being there; `flagged_count` counts all.
        left_out: names that are neither in the copy nor in the patch, likewise.
        base_commit: of the source; empty = it has none, or is no repository of its own.
        base_tree: git's name for the content that was copied.
        dirty: the directory was not as its commit.
        base: what was copied: `head` = the commit, `working-tree` = the directory with its changes,
            `changes` = a commit with those that the caller sent;
            None = an older worker's, always the latter.
        withheld: why the bytes are not given out, or not there: `secret_found`,
            `patch_too_large`, `patch_failed`; empty = they are.
        reason: the same in words.
    """

    model_config = ConfigDict(extra="allow")

    sha256: HexOrNone = ""
    bytes: Seq = 0
    files: Seq = 0
    changed: Names = ()
    flagged: Names = ()
    flagged_count: Seq = 0
    left_out: Names = ()
    left_out_count: Seq = 0
    base_commit: ObjectOrNone = ""
    base_tree: ObjectOrNone = ""
    dirty: bool = False
    withheld: CodeOrNone = ""
    reason: Sentence = ""
    # None where there is none: the signature covers what a worker has said, and no more.
    base: Annotated[CopyBase | None, Field(exclude_if=is_unset)] = None


class ArtifactFile(WireMessage):
    """One file of a task; the bytes come by `artifact`.

    Attributes:
        path: below the task's directory.
        withheld: why the bytes are not given out: `secret_found`, `artifact_too_large`,
            `artifact_unreadable`; empty = they are.
    """

    path: Annotated[str, Field(min_length=1, max_length=320)]
    bytes: Seq = 0
    sha256: HexOrNone = ""
    withheld: CodeOrNone = ""


class Artifacts(WireMessage):
    """The files that a task's globs meant in the end; sent to who asked for some, so it knows it.

    Attributes:
        left_out: files more than these, or with a name that is not told.
        reason: why there are none.
    """

    model_config = ConfigDict(extra="allow")

    files: Annotated[tuple[ArtifactFile, ...], Field(max_length=64)] = ()
    left_out: Seq = 0
    reason: Sentence = ""


class Outcome(WireMessage):
    """How a task ended; the wire form of `cmesh.model.Result`.

    Fields of a newer peer are kept, because the signature covers them; so a field added
    in a later minor version must default to None (`receipts.result_bytes` leaves None out).

    Attributes:
        state: a terminal state.
        turns: answers of the model, as far as the runner tells them.
        follow_up, follow_up_until: whether the task can be followed up, as `cmesh.model.Result`.
        output_inline: the kept output as base64 when it is small; otherwise it is
            fetched by `artifact` with `output_sha256`.
        redacted: secrets that were taken out of texts and kept output; `output_sha256` is of
            what is kept.
        patch: what it changed, for profiles that work on a copy.
        artifacts: files that it was asked to hand over.
        evidence: what the worker found out besides; None = an older worker, or it never ran.
        answer: JSON text that fits the schema it was asked for; sent to who asked by one alone.
    """

    model_config = ConfigDict(extra="allow")

    state: TaskState
    witness: Sentence
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    text: Annotated[str, Field(max_length=64_000)] = ""
    error: Sentence = ""
    code: CodeOrNone = ""
    output_bytes: Seq = 0
    output_sha256: HexOrNone = ""
    output_kept: Seq = 0
    output_inline: Annotated[str, Field(max_length=90_000)] = ""
    truncated: bool = False
    cost_usd: Annotated[float, Field(ge=0)] | None = None
    tokens_in: Seq | None = None
    tokens_out: Seq | None = None
    runner_version: Annotated[str, Field(max_length=200)] = ""
    profile_enforced: Annotated[str, Field(max_length=64)] = "none"
    credential: Annotated[str, Field(max_length=32)] = "none"
    processes_left: Seq = 0
    started_at: Instant | None = None
    ended_at: Instant | None = None
    turns: Annotated[Seq | None, Field(exclude_if=is_unset)] = None
    follow_up: Annotated[FollowUp | None, Field(exclude_if=is_unset)] = None
    follow_up_until: Annotated[Instant | None, Field(exclude_if=is_unset)] = None
    redacted: Annotated[Seq | None, Field(exclude_if=is_unset)] = None
    basis: Annotated[Basis | None, Field(exclude_if=is_unset)] = None
    patch: Annotated[Patch | None, Field(exclude_if=is_unset)] = None
    artifacts: Annotated[Artifacts | None, Field(exclude_if=is_unset)] = None
    evidence: Annotated[Evidence | None, Field(exclude_if=is_unset)] = None
    answer: Annotated[str | None, Field(max_length=16_384, exclude_if=is_unset)] = None

    @model_validator(mode="after")
    def _extra_is_storable(self) -> Self:
        parts = [part for part in (self.basis, self.patch, self.artifacts) if part is not None]
        extra = {
            name: value
            for part in (self, *parts)
            for name, value in (part.model_extra or {}).items()
        }
        if len(json.dumps(storable(extra))) > EXTRA_CHARACTERS:
            raise ValueError(f"unknown fields hold more than {EXTRA_CHARACTERS} characters")
        return self


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
    """Asks the peer to run one SELECT over what its policy lets this node see."""

    type: Literal["sql"] = "sql"
    query_id: Annotated[str, Field(max_length=64)]
    sql: Annotated[str, Field(min_length=1, max_length=65_536)]
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000


class SqlAnswer(WireMessage):
    """Rows of a `sql`, or why there are none."""

    type: Literal["sql_answer"] = "sql_answer"
    query_id: Annotated[str, Field(max_length=64)]
    columns: tuple[str, ...] = ()
    rows: Rows = ()
    truncated: bool = False
    code: CodeOrNone = ""
    reason: Sentence = ""


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
    | Receipt
    | Restarting
    | Ping
    | Pong
    | Failure,
    Field(discriminator="type"),
]
"""Any message; pydantic picks the class by `type`."""
