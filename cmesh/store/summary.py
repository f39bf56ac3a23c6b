"""What the index is filled with at the start, as one answer of the database process.

Ids and keys come as marks, eight bytes each: a daemon that once knew a million tasks must
not unpack a million texts. Only reads.
"""

import hashlib
from array import array
from dataclasses import dataclass
from datetime import datetime

from cmesh.model import DayUse, NodeId, TaskId
from cmesh.store import proofs, queries
from cmesh.store.drafts import drafts
from cmesh.store.exchange import Reader
from cmesh.store.fold import Draft
from cmesh.store.records import ReceiptRecord, TrustRecord

__all__ = ["Summary", "mark", "summary"]

_MARK_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The rows' sum, as far as memory holds it.

    Attributes:
        unfinished: tasks somebody must still act on, oldest first.
        finished: of the latest tasks, those that ended, oldest first.
        whole_after: every task whose own row comes after this one is in one of the two.
        ids: marks of all task ids.
        keys: marks of all idempotency keys.
        lately: inbound tasks stored since the asked time, without denied ones.
        used: what inbound tasks that ended since then have used, by peer and hour.
        followers: tasks with a task that follows them, oldest first.
        questions: tasks that may wait for input, with the time until which they can.
        groups: groups with each of their tasks, oldest first.
    """

    unfinished: list[Draft]
    finished: list[Draft]
    whole_after: int
    ids: "array[int]"
    keys: "array[int]"
    lately: list[tuple[NodeId, TaskId, datetime]]
    used: list[tuple[NodeId, int, DayUse]]
    followers: list[tuple[TaskId, TaskId]]
    questions: list[tuple[TaskId, datetime]]
    groups: list[tuple[str, TaskId]]
    trust: list[TrustRecord]
    heads: list[ReceiptRecord]


def mark(text: str) -> int:
    """Return a number that stands for a text: the same one in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_MARK_BYTES).digest())


def summary(cursor: Reader, since: datetime, latest: int) -> Summary:
    """Return what the index needs, with inbound tasks since a time and the `latest` tasks."""
    ids, keys = array("Q"), array("Q")
    for task_id, key in queries.keys(cursor):
        ids.append(mark(task_id))
        if key:
            keys.append(mark(key))
    open_ids = queries.unfinished(cursor)
    newest = drafts(cursor, queries.listed(cursor, limit=latest))
    going_on = set(open_ids)
    return Summary(
        unfinished=drafts(cursor, open_ids),
        finished=[d for d in reversed(newest) if d.record.task_id not in going_on],
        whole_after=newest[-1].seq - 1 if len(newest) == latest else 0,
        ids=ids,
        keys=keys,
        lately=queries.accepted_since(cursor, since),
        used=queries.used_since(cursor, since),
        followers=queries.followers(cursor),
        questions=queries.questions(cursor),
        groups=queries.groups(cursor),
        trust=proofs.trusts(cursor),
        heads=proofs.heads(cursor),
    )
