"""The messages of link protocol `cmesh.v1`, one class a type.

Pure: what a message may hold and nothing about when it may come; that is
`cmesh.protocol.session` (links) and `cmesh.protocol.state` (tasks). Unknown
fields are ignored, so that peers one minor version apart understand each other.
"""

import json
from datetime import UTC
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic.config import JsonDict

from cmesh.model import Profile, TaskState

__all__ = [
    "FRAME_BYTES",
    "MINOR",
    "MINOR_MINIMUM",
    "SUBPROTOCOL",
    "Accepted",
    "Artifact",
    "Cancel",
    "Cancelled",
    "Challenge",
    "Denied",
    "End",
    "EventMessage",
    "Failure",
    "Followup",
    "Gap",
    "Grants",
    "Hello",
    "May",
    "Message",
    "Outcome",
    "Ping",
    "Pong",
    "Receipt",
    "Restarting",
    "ResultAck",
    "ResultMessage",
    "Spec",
    "Sql",
    "SqlAnswer",
    "StillWanted",
    "Submit",
    "Subscribe",
    "Wanted",
    "Welcome",
]

SUBPROTOCOL = "cmesh.v1"
"""The websocket subprotocol; another major version has another name."""

MINOR = 0
"""The newest minor version this code speaks."""

MINOR_MINIMUM = 0
"""The oldest one it accepts; never lowered silently."""

FRAME_BYTES = 1024 * 1024
"""The largest frame either side sends or takes (close code 1009 above it)."""


def _storable(data: dict[str, object]) -> dict[str, object]:
    """Refuse what JSON has no form for (NaN, infinities): it could be neither stored nor signed."""
    json.dumps(data, allow_nan=False)
    return data


Id = Annotated[
    str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$")
]
Hex256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Key = Annotated[str, Field(min_length=43, max_length=43)]
Signature = Annotated[str, Field(max_length=86)]
Nonce = Annotated[str, Field(min_length=22, max_length=64)]
Name = Annotated[str, Field(max_length=253)]
Seq = Annotated[int, Field(ge=0, le=2**53)]
Minor = Annotated[int, Field(ge=0, le=1_000)]
Data = Annotated[dict[str, object], AfterValidator(_storable)]
Instant = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
Sentence = Annotated[str, Field(max_length=2_000)]


def _require_type(schema: JsonDict) -> None:
    """Say in the JSON Schema what the discriminator asks for: a message names its type."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if isinstance(properties, dict) and "type" in properties and isinstance(required, list):
        schema["required"] = ["type", *required]


class _Message(BaseModel):
    # JSON has no NaN (RFC 8259); one in a cost would make every comparison false.
    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, json_schema_extra=_require_type
    )


class May(_Message):
    """What the receiver of this may ask of the sender: the union of the sender's rules.

    Attributes:
        runners: runner names, empty = none; `*` never appears, names are spelt out.
        paths: directories tasks may start in or below.
        keep_text_days: how long the sender keeps prompts and outputs; None = for ever.
        store_prompts: whether it stores a prompt's text or only its digest.
    """

    operations: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    runners: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    runtime_s: int | None = None
    keep_text_days: int | None = None
    store_prompts: Literal["text", "digest"] = "text"


class Challenge(_Message):
    """The accepting side's first frame: who it says it is, and what is to be signed."""

    type: Literal["challenge"] = "challenge"
    minor: Minor
    minor_minimum: Minor
    node: Name
    nonce: Nonce


class Hello(_Message):
    """The dialling side proves its key: signature over `session.hello_bytes`."""

    type: Literal["hello"] = "hello"
    minor: Minor
    minor_minimum: Minor
    software: Annotated[str, Field(max_length=64)] = ""
    node: Name
    incarnation: Annotated[str, Field(max_length=64)]
    key: Key
    nonce: Nonce
    signature: Signature


class Welcome(_Message):
    """The accepting side proves its key; the dialler's `grants` then opens the link.

    Attributes:
        minor: the version both speak from now on.
        unacknowledged: tasks whose result the receiver has not acknowledged yet.
    """

    type: Literal["welcome"] = "welcome"
    minor: Minor
    software: Annotated[str, Field(max_length=64)] = ""
    incarnation: Annotated[str, Field(max_length=64)]
    key: Key
    signature: Signature
    may: May
    unacknowledged: Annotated[tuple[Id, ...], Field(max_length=10_000)] = ()


class Grants(_Message):
    """What the receiver may ask of the sender, after the handshake and at each change.

    The dialling side sends one right after `welcome`, with its unacknowledged results.
    """

    type: Literal["grants"] = "grants"
    may: May
    unacknowledged: Annotated[tuple[Id, ...], Field(max_length=10_000)] = ()


class Spec(_Message):
    """What is to be done; the wire form of `cmesh.model.TaskSpec` without its id."""

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


class Submit(_Message):
    """Asks the worker to take a task. Answered by `accepted` or `denied`, each time anew."""

    type: Literal["submit"] = "submit"
    task_id: Id
    spec: Spec
    payload_hash: Hex256


class Accepted(_Message):
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


class Denied(_Message):
    """The worker has committed a refusal; the task will never run there."""

    type: Literal["denied"] = "denied"
    task_id: Id
    code: Annotated[str, Field(max_length=64)]
    reason: Sentence
    change: Sentence = ""


class Subscribe(_Message):
    """Asks for the task's events after `after_seq`, and its result."""

    type: Literal["subscribe"] = "subscribe"
    task_id: Id
    after_seq: Seq


class EventMessage(_Message):
    """One event; `seq` follows the one before without a hole."""

    type: Literal["event"] = "event"
    task_id: Id
    seq: Annotated[int, Field(ge=1, le=2**53)]
    ts: Instant
    kind: Annotated[str, Field(max_length=64)]
    text: Annotated[str, Field(max_length=64_000)] = ""
    data: Data = Field(default_factory=dict[str, object])


class Gap(_Message):
    """Events up to and with `through_seq` are no longer kept."""

    type: Literal["gap"] = "gap"
    task_id: Id
    through_seq: Seq


class End(_Message):
    """No event follows on this subscription; `result` comes next."""

    type: Literal["end"] = "end"
    task_id: Id
    last_seq: Seq


class Outcome(_Message):
    """How a task ended; the wire form of `cmesh.model.Result`.

    Fields of a newer peer are kept, because the signature covers them; so a field added
    in a later minor version must default to None (`receipts.result_bytes` leaves None out).

    Attributes:
        state: a terminal state.
        output_inline: the kept output as base64 when it is small; otherwise it is
            fetched by `artifact` with `output_sha256`.
    """

    model_config = ConfigDict(extra="allow")

    state: TaskState
    witness: Sentence
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    text: Annotated[str, Field(max_length=64_000)] = ""
    error: Sentence = ""
    code: Annotated[str, Field(max_length=64)] = ""
    output_bytes: Seq = 0
    output_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
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

    @model_validator(mode="after")
    def _extra_is_storable(self) -> Self:
        _storable(self.model_extra or {})
        return self


class ResultMessage(_Message):
    """The end of a task, signed by the worker over `receipts.result_bytes`."""

    type: Literal["result"] = "result"
    task_id: Id
    last_seq: Seq
    outcome: Outcome
    signature: Signature


class ResultAck(_Message):
    """The caller has committed the result; signed over the same bytes as the result."""

    type: Literal["result_ack"] = "result_ack"
    task_id: Id
    signature: Signature


class Cancel(_Message):
    """Ends a task: `user` whatever its state, `expired` only when it has not started.

    Attributes:
        payload_hash: of the submit; a worker that never saw the submit keeps it in the
            tombstone, so that its signed result names what was cancelled.
    """

    type: Literal["cancel"] = "cancel"
    task_id: Id
    reason: Literal["user", "expired"]
    payload_hash: Hex256


class Cancelled(_Message):
    """Progress of a cancel, for display: how many processes are left. Not the end."""

    type: Literal["cancelled"] = "cancelled"
    task_id: Id
    processes_left: Seq


class StillWanted(_Message):
    """The task waited; the worker asks before it starts it."""

    type: Literal["still_wanted"] = "still_wanted"
    task_id: Id


class Wanted(_Message):
    """Answer to `still_wanted`: yes. A no is a `cancel`."""

    type: Literal["wanted"] = "wanted"
    task_id: Id


class Followup(_Message):
    """A follow-up turn of a task that ended `succeeded` or `failed`."""

    type: Literal["message"] = "message"
    task_id: Id
    turn: Annotated[int, Field(ge=1, le=1_000)]
    text: Annotated[str, Field(min_length=1, max_length=200_000)]
    payload_hash: Hex256


class Artifact(_Message):
    """Asks for bytes of a kept output from `offset`; answered by binary frames."""

    type: Literal["artifact"] = "artifact"
    task_id: Id
    sha256: Hex256
    offset: Seq


class Sql(_Message):
    """Asks the peer to run one SELECT over what its policy lets this node see."""

    type: Literal["sql"] = "sql"
    query_id: Annotated[str, Field(max_length=64)]
    sql: Annotated[str, Field(min_length=1, max_length=65_536)]
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000


class SqlAnswer(_Message):
    """Rows of a `sql`, or why there are none."""

    type: Literal["sql_answer"] = "sql_answer"
    query_id: Annotated[str, Field(max_length=64)]
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[object, ...], ...] = ()
    truncated: bool = False
    code: Annotated[str, Field(max_length=64)] = ""
    reason: Sentence = ""


class Receipt(_Message):
    """The sender's audit head, signed over `receipts.head_bytes`."""

    type: Literal["receipt"] = "receipt"
    head_seq: Seq
    head_hash: Hex256
    signature: Signature


class Restarting(_Message):
    """The sender's daemon restarts; the link will be back, tasks run on."""

    type: Literal["restarting"] = "restarting"


class Ping(_Message):
    """Asks for a `pong`; answered at once."""

    type: Literal["ping"] = "ping"
    nonce: Annotated[str, Field(max_length=64)] = ""


class Pong(_Message):
    """Answers a `ping`."""

    type: Literal["pong"] = "pong"
    nonce: Annotated[str, Field(max_length=64)] = ""


class Failure(_Message):
    """Why the sender refuses a message, or closes the link.

    Attributes:
        about: task id, query id or message type it concerns; empty = the link itself.
    """

    type: Literal["failure"] = "failure"
    code: Annotated[str, Field(max_length=64)]
    reason: Sentence
    about: Annotated[str, Field(max_length=64)] = ""


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
    | Followup
    | Artifact
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
