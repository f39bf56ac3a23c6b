"""What this store holds of another node's log: its signed heads, and the ends it took part in.

As in `cmesh.store.queries`, every function takes a cursor and only reads. Nothing here decides
who may know it: a peer is given what is of its own id, see `cmesh.daemon.proofs`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cmesh.model import Direction, NodeId, TaskId
from cmesh.protocol.convert import outcome_from
from cmesh.protocol.link_messages import Seen
from cmesh.protocol.proof_messages import PAGE_ROWS, HeldEnd, WholeEnd
from cmesh.store.drafts import drafts
from cmesh.store.exchange import Reader
from cmesh.store.rows import read_rows

__all__ = ["Page", "hashes", "last_row", "page", "peers", "whole_end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of what is held, in the order of this store's rows.

    Attributes:
        next: read on after this row; 0 = that was all.
    """

    heads: tuple[Seen, ...] = ()
    ends: tuple[HeldEnd, ...] = ()
    next: int = 0


_PAGE = """
SELECT seq, NULL AS task_id, head_seq, head_hash, signature, NULL AS direction, NULL AS caller,
  false AS forgotten
FROM receipt_row
WHERE receipt_kind = 'head' AND head_seq > 0 AND peer_id = $1 AND seq > $2 AND seq <= $3
UNION ALL
SELECT r.seq, r.task_id::VARCHAR, 0, '', coalesce(r.worker_signature, ''), r.direction,
  coalesce(nullif(r.caller_signature, ''), a.signature, ''), r.worker_signature IS NULL
FROM result_row r JOIN task_row t ON t.task_id = r.task_id
LEFT JOIN receipt_row a ON a.task_id = r.task_id AND a.receipt_kind = 'result_ack'
  AND a.seq <= $3
WHERE t.peer_id = $1 AND r.seq > $2 AND r.seq <= $3
ORDER BY seq LIMIT """


def page(
    cursor: Reader, peer_id: NodeId, after: int, *, through: int = 2**53, limit: int = PAGE_ROWS
) -> Page:
    """Return what follows on row `after` of a peer's, and lies at or before row `through`."""
    rows = read_rows(cursor, f"{_PAGE}{int(limit)}", [peer_id, after, through])
    heads, ends = list[Seen](), list[HeldEnd]()
    for row in rows:
        if row["task_id"] is None:
            head = Seen(
                head_seq=row["head_seq"], head_hash=row["head_hash"], signature=row["signature"]
            )
            heads.append(head)
            continue
        ends.append(
            HeldEnd(
                task_id=row["task_id"],
                worked=row["direction"] == Direction.IN.value,
                worker_signature=row["signature"],
                caller_signature=row["caller"],
                forgotten=row["forgotten"],
            )
        )
    more = rows[-1]["seq"] if len(rows) == limit else 0
    return Page(heads=tuple(heads), ends=tuple(ends), next=more)


def whole_end(cursor: Reader, peer_id: NodeId, task_id: TaskId) -> WholeEnd | None:
    """Return what was signed of a task's end; None = not there, forgotten, or another peer's."""
    task = next((draft.snapshot() for draft in drafts(cursor, [task_id])), None)
    if task is None or task.forgotten or task.record.peer_id != peer_id or task.result is None:
        return None
    return WholeEnd(
        payload_hash=task.record.payload_hash,
        last_seq=task.last_event,
        outcome=outcome_from(task.result),
    )


def hashes(cursor: Reader, seqs: Collection[int]) -> Mapping[int, str]:
    """Return the hashes of those of these rows of the log that there are, in hex."""
    if not seqs:
        return {}
    listed = ", ".join(str(int(seq)) for seq in seqs)
    rows = read_rows(cursor, f"SELECT seq, h FROM log WHERE seq IN ({listed})")  # noqa: S608  # numbers
    return {row["seq"]: bytes(row["h"]).hex() for row in rows}


def last_row(cursor: Reader) -> int:
    """Return the log's last row; 0 = it is empty."""
    [row] = read_rows(cursor, "SELECT max(seq) AS seq FROM log")
    return row["seq"] or 0


def peers(cursor: Reader) -> Sequence[tuple[NodeId, str]]:
    """Return (node id, name) of every node that this one knows by a task, a key or a receipt."""
    rows = read_rows(
        cursor,
        "SELECT peer_id, arg_max(peer, seq) AS peer FROM ("
        "SELECT peer_id, peer, seq FROM receipt_row UNION ALL"
        " SELECT peer_id, peer, seq FROM task_row UNION ALL"
        " SELECT peer_id, peer, seq FROM trust_row"
        ") GROUP BY peer_id ORDER BY peer_id",
    )
    return [(NodeId(row["peer_id"]), row["peer"]) for row in rows]
