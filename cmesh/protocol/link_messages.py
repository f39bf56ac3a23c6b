"""The messages about a link itself: who is there, what may be asked, whether it still lives.

Pure: what they may hold; when they may come is `cmesh.protocol.session`.
"""

from typing import Annotated, Literal

from pydantic import Field

from cmesh.model import Profile
from cmesh.protocol.fields import (
    Code,
    Hex256,
    Id,
    Key,
    Minor,
    Name,
    Nonce,
    RetryAfter,
    Sentence,
    Seq,
    Signature,
    Unacknowledged,
    WireMessage,
    is_unset,
)
from cmesh.protocol.machine import Machine

__all__ = [
    "Challenge",
    "Failure",
    "Grants",
    "Hello",
    "May",
    "Ping",
    "Pong",
    "Receipt",
    "Restarting",
    "Seen",
    "Welcome",
]


Takes = Annotated[
    tuple[Annotated[str, Field(max_length=40)], ...], Field(max_length=64, exclude_if=is_unset)
]


class May(WireMessage):
    """What the receiver of this may ask of the sender: the union of the sender's rules.

    Attributes:
        runners: runner names, empty = none; `*` never appears, names are spelt out.
        paths: directories tasks may start in or below.
        keep_text_days: how long the sender keeps a task's texts after its end; None = for ever.
        keep_output_days: how long it keeps outputs, patches and artifacts, where that is less.
        store_prompts: whether it stores a prompt's text or only its digest.
        machine: what the sender's machine is like; None = an older sender, or not looked at yet.
    """

    operations: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    runners: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    runtime_s: int | None = None
    keep_text_days: int | None = None
    keep_output_days: Annotated[int | None, Field(exclude_if=is_unset)] = None
    store_prompts: Literal["text", "digest"] = "text"
    # Left out when there is none: an older peer leaves it unread, and frames stay as recorded.
    machine: Annotated[Machine | None, Field(exclude_if=is_unset)] = None


class Challenge(WireMessage):
    """The accepting side's first frame: who it says it is, and what is to be signed."""

    type: Literal["challenge"] = "challenge"
    minor: Minor
    minor_minimum: Minor
    node: Name
    nonce: Nonce


class Seen(WireMessage):
    """The newest audit head of the receiver that the sender holds, signed by the receiver.

    A store that ends before it, or has another row there, was restored from a backup.
    """

    head_seq: Annotated[int, Field(ge=1, le=2**53)]
    head_hash: Hex256
    signature: Signature


class Hello(WireMessage):
    """The dialling side proves its key: signature over `session.hello_bytes`.

    Attributes:
        takes: fields of a task that came later and that the sender knows; none = an older one.
    """

    type: Literal["hello"] = "hello"
    minor: Minor
    minor_minimum: Minor
    software: Annotated[str, Field(max_length=64)] = ""
    node: Name
    incarnation: Annotated[str, Field(max_length=64)]
    key: Key
    nonce: Nonce
    signature: Signature
    seen: Annotated[Seen | None, Field(exclude_if=is_unset)] = None
    takes: Takes = ()


class Welcome(WireMessage):
    """The accepting side proves its key; the dialler's `grants` then opens the link.

    Attributes:
        minor: the version both speak from now on.
        unacknowledged: tasks whose result the receiver has not acknowledged yet.
        takes: as in `hello`.
    """

    type: Literal["welcome"] = "welcome"
    minor: Minor
    software: Annotated[str, Field(max_length=64)] = ""
    incarnation: Annotated[str, Field(max_length=64)]
    key: Key
    signature: Signature
    may: May
    unacknowledged: Unacknowledged = ()
    seen: Annotated[Seen | None, Field(exclude_if=is_unset)] = None
    takes: Takes = ()


class Grants(WireMessage):
    """What the receiver may ask of the sender, after the handshake and at each change.

    The dialling side sends one right after `welcome`, with its unacknowledged results.

    Attributes:
        released: the receiver's tasks of which the sender's owner has just released what was
            withheld; a peer that does not know the member asks for none of it.
    """

    type: Literal["grants"] = "grants"
    may: May
    unacknowledged: Unacknowledged = ()
    released: Annotated[tuple[Id, ...], Field(max_length=16, exclude_if=is_unset)] = ()


class Receipt(WireMessage):
    """The sender's audit head, signed over `receipts.head_bytes`."""

    type: Literal["receipt"] = "receipt"
    head_seq: Seq
    head_hash: Hex256
    signature: Signature


class Restarting(WireMessage):
    """The sender's daemon restarts; the link will be back, tasks run on."""

    type: Literal["restarting"] = "restarting"


class Ping(WireMessage):
    """Asks for a `pong`; answered at once."""

    type: Literal["ping"] = "ping"
    nonce: Annotated[str, Field(max_length=64)] = ""


class Pong(WireMessage):
    """Answers a `ping`."""

    type: Literal["pong"] = "pong"
    nonce: Annotated[str, Field(max_length=64)] = ""


class Failure(WireMessage):
    """Why the sender refuses a message, or closes the link.

    Attributes:
        about: task id, query id or message type it concerns; empty = the link itself.
        retry_after_s: seconds after which the same message may be sent again.
    """

    type: Literal["failure"] = "failure"
    code: Code
    reason: Sentence
    about: Annotated[str, Field(max_length=64)] = ""
    retry_after_s: RetryAfter = None
