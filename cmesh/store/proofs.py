"""Reading back what proves the rest: trusted keys, signed heads and ends, this node's own names.

As in `cmesh.store.queries`, every function takes a cursor and only reads.
"""

from cmesh.model import NodeId, TaskId
from cmesh.store.exchange import Reader
from cmesh.store.records import ReceiptRecord, TrustRecord
from cmesh.store.rows import read_rows

__all__ = [
    "heads",
    "heads_after",
    "identities",
    "peer_keys",
    "results_after",
    "signed_count",
    "trusts",
]


def trusts(cursor: Reader) -> list[TrustRecord]:
    """Return the latest decision about each peer's key."""
    rows = read_rows(
        cursor,
        "SELECT peer_id, arg_max(peer, seq) AS peer, arg_max(key, seq) AS key,"
        " arg_max(trusted, seq) AS trusted, arg_max(decided_by, seq) AS by"
        " FROM trust_row GROUP BY peer_id ORDER BY max(seq)",
    )
    return [TrustRecord(**row) for row in rows]


def heads(cursor: Reader) -> list[ReceiptRecord]:
    """Return the latest audit head that each peer has signed."""
    rows = read_rows(
        cursor,
        "SELECT peer_id, arg_max(peer, seq) AS peer, arg_max(head_seq, seq) AS head_seq,"
        " arg_max(head_hash, seq) AS head_hash, arg_max(signature, seq) AS signature"
        " FROM receipt_row WHERE receipt_kind = 'head' GROUP BY peer_id",
    )
    return [ReceiptRecord(kind="head", task_id=None, **row) for row in rows]


def heads_after(cursor: Reader, after: int, limit: int) -> list[tuple[int, ReceiptRecord]]:
    """Return the heads that peers signed, each with its row, in their order."""
    rows = read_rows(
        cursor,
        "SELECT seq, peer_id, peer, head_seq, head_hash, signature FROM receipt_row"  # noqa: S608  # limit is a number
        f" WHERE receipt_kind = 'head' AND seq > $1 ORDER BY seq LIMIT {int(limit)}",
        [after],
    )
    return [(row.pop("seq"), ReceiptRecord(kind="head", task_id=None, **row)) for row in rows]


def results_after(cursor: Reader, after: int, limit: int) -> list[tuple[int, TaskId]]:
    """Return the ends of tasks by their rows, in their order; those that have signatures still."""
    rows = read_rows(
        cursor,
        "SELECT seq, task_id::VARCHAR AS task_id FROM result_row"  # noqa: S608  # limit is a number
        f" WHERE seq > $1 AND worker_signature IS NOT NULL ORDER BY seq LIMIT {int(limit)}",
        [after],
    )
    return [(row["seq"], TaskId(row["task_id"])) for row in rows]


def signed_count(cursor: Reader) -> int:
    """Return about how many signatures there are: two an end, one a head."""
    [row] = read_rows(
        cursor,
        "SELECT 2 * (SELECT count(worker_signature) FROM result_row) + count(*) AS n FROM receipt_row"
        " WHERE receipt_kind = 'head'",
    )
    return row["n"]


def identities(cursor: Reader, kind: str) -> list[tuple[NodeId, str]]:
    """Return (node id, public key) of every name and key this node had, the present one last."""
    rows = read_rows(
        cursor,
        "SELECT data->>'node_id' AS node_id, data->>'key' AS key FROM audit_row"
        " WHERE kind = $1 GROUP BY ALL ORDER BY max(seq)",
        [kind],
    )
    return [(NodeId(row["node_id"]), row["key"]) for row in rows]


def peer_keys(cursor: Reader) -> list[tuple[NodeId, str]]:
    """Return (peer, public key) of every key that was ever decided about."""
    rows = read_rows(cursor, "SELECT DISTINCT peer_id, key FROM trust_row ORDER BY peer_id, key")
    return [(NodeId(row["peer_id"]), row["key"]) for row in rows]
