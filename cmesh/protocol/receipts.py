"""The exact bytes that nodes sign: ends of tasks, and heads of audit chains.

Pure. Each form starts with its own label, so that no signature fits elsewhere.
INVARIANT: these bytes never change for a released protocol version; vectors guard them.
"""

import json

from cmesh.model import NodeId, TaskId
from cmesh.protocol.messages import SUBPROTOCOL
from cmesh.protocol.outcome import Outcome

__all__ = ["canonical", "head_bytes", "result_bytes"]


def result_bytes(
    task_id: TaskId,
    payload_hash: str,
    worker_id: NodeId,
    caller_id: NodeId,
    outcome: Outcome,
    last_seq: int,
) -> bytes:
    """Return what worker and caller both sign for one ended task.

    `output_inline` is left out: `output_sha256` covers it, and it need not be kept. None
    is left out: so a newer minor version may add fields to `Outcome`.
    """
    fields = outcome.model_dump(mode="json", exclude={"output_inline"}, exclude_none=True)
    return canonical(
        "result",
        {
            "task_id": task_id,
            "payload_hash": payload_hash,
            "worker": worker_id,
            "caller": caller_id,
            "outcome": fields,
            "last_seq": last_seq,
        },
    )


def head_bytes(node_id: NodeId, seq: int, hash_hex: str) -> bytes:
    """Return what a node signs to say that its audit chain ends in row `seq` with this hash."""
    return canonical("head", {"node": node_id, "seq": seq, "hash": hash_hex})


def canonical(label: str, fields: dict[str, object]) -> bytes:
    """Return `fields` as JSON with sorted keys, no blanks, ASCII only, under `label`."""
    labelled = {"label": f"{SUBPROTOCOL} {label}", **fields}
    return json.dumps(labelled, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
