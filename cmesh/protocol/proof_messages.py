"""What two nodes ask of each other to check the log of either: `proof` and its answer. Pure.

Each item is worth something by its signature alone: a head or an end that the asker signed
itself, and that it cannot take back. So an answer is checked with the asker's own keys, and a
peer that makes something up is found out. Older versions do not know these messages, and would
end the link: they are sent only where `takes` names `PROOF`.
"""

from typing import Annotated, Literal

from pydantic import Field

from cmesh.protocol.fields import Hex256, HexOrNone, Id, Seq, Signature, WireMessage, is_unset
from cmesh.protocol.link_messages import Seen
from cmesh.protocol.outcome import Outcome

__all__ = [
    "ASKED_HEADS_MOST",
    "PAGE_ROWS",
    "PROOF",
    "AskedHead",
    "HeldEnd",
    "Proof",
    "ProofAnswer",
    "RowNow",
    "WholeEnd",
]

PROOF = "proof"
"""In `takes`: the sender answers `proof`."""

PAGE_ROWS = 500
"""Heads and ends in one answer, together."""

ASKED_HEADS_MOST = 100
"""Rows that one message asks for."""


class AskedHead(WireMessage):
    """A head of the receiver's log that the sender holds, without its hash.

    The receiver tells the hash only where its own signature over it is this one. So a sender
    learns nothing that it has not held before, and a receiver that lost the row cannot tell it.
    """

    seq: Annotated[int, Field(ge=1, le=2**53)]
    signature: Signature


class Proof(WireMessage):
    """Asks what the receiver holds of the sender's log, or what its own log says now.

    Attributes:
        about: `held` = a page of heads and ends after the receiver's row `after`; `rows` = the
            hashes that `heads` were of; `end` = all that was signed of `task_id`'s end.
    """

    type: Literal["proof"] = "proof"
    query_id: Annotated[str, Field(max_length=64)]
    about: Literal["held", "rows", "end"]
    after: Seq = 0
    heads: Annotated[tuple[AskedHead, ...], Field(max_length=ASKED_HEADS_MOST)] = ()
    task_id: Id | None = None


class HeldEnd(WireMessage):
    """The end of a task between the two, as the answering side has it.

    Attributes:
        worked: the answering side was the worker.
        worker_signature, caller_signature: over the same bytes; empty = not there (yet).
        forgotten: the answering side has erased its texts, and the signatures with them.
    """

    task_id: Id
    worked: bool
    worker_signature: Signature = ""
    caller_signature: Signature = ""
    forgotten: Annotated[bool, Field(exclude_if=is_unset)] = False


class WholeEnd(WireMessage):
    """What of an end is signed besides the names: with it anyone can check the signatures."""

    payload_hash: Hex256
    last_seq: Seq
    outcome: Outcome


class RowNow(WireMessage):
    """A row that was asked for; an empty hash = the log has not the row that was signed."""

    seq: Seq
    hash: HexOrNone = ""


class ProofAnswer(WireMessage):
    """Answers a `proof`, with the sender's log's end as it is now.

    Attributes:
        now: the sender's head; None = an empty log.
        heads, ends: what the sender holds of the receiver, in the order of its rows.
        next: ask on after this row; 0 = that was all.
        end: None = it is not there, or not whole any more.
    """

    type: Literal["proof_answer"] = "proof_answer"
    query_id: Annotated[str, Field(max_length=64)]
    now: Seen | None = None
    heads: Annotated[tuple[Seen, ...], Field(max_length=PAGE_ROWS)] = ()
    ends: Annotated[tuple[HeldEnd, ...], Field(max_length=PAGE_ROWS)] = ()
    next: Seq = 0
    rows: Annotated[tuple[RowNow, ...], Field(max_length=ASKED_HEADS_MOST)] = ()
    end: WholeEnd | None = None
