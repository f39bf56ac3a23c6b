"""What both nodes wrote down, compared: the audit rows of each, and each one's chain.

Asks with the same SQL anybody has; recomputes the chains itself. Raises `DemoFailed` when
the two sides do not say the same.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import cast

from cmesh.daemon.arguments import SqlArguments
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.demo.report import require

__all__ = ["AGREED", "Row", "agreement", "decisions", "head_at", "rows", "states", "verify_chain"]

Row = Mapping[str, object]

RECEIPT_LIMIT_S = 10.0
POLL_S = 0.05
AUDIT_ROWS = 10_000

AGREED = (
    "payload_hash",
    "state",
    "runner",
    "directory",
    "output_sha256",
    "worker_signature",
    "caller_signature",
)
"""What both sides must have stored alike for a task."""

_TASKS = """
SELECT t.task_id::VARCHAR AS task_id, t.payload_hash, t.state, t.runner, t.directory, t.receipt,
  t.principal, t.rule, r.exit_code, r.output_sha256, r.worker_signature,
  coalesce(nullif(r.caller_signature, ''), s.signature, '') AS caller_signature
FROM tasks t LEFT JOIN results r ON r.task_id = t.task_id
LEFT JOIN receipts s ON s.task_id = t.task_id AND s.kind = 'result_ack'
ORDER BY t.created_at
"""
_STATES = """
SELECT state, witness, (epoch_ms(ts) - min(epoch_ms(ts)) OVER ())::INTEGER AS after_ms
FROM steps WHERE task_id = ?::UUID ORDER BY seq
"""
_DECISIONS = """
SELECT direction, peer, peer_id, principal, effect, rule, reason, failed::VARCHAR AS failed
FROM decisions WHERE task_id = ?::UUID ORDER BY seq
"""
_CHAIN = "SELECT seq, canon, h FROM audit ORDER BY seq"
_HEADS = "SELECT head_seq, head_hash FROM receipts WHERE kind = 'head' ORDER BY seq"


async def rows(client: ControlClient, sql: str, *parameters: str) -> list[Row]:
    """Return a query's rows by column name."""
    arguments = SqlArguments(sql=sql, parameters=list(parameters), limit=AUDIT_ROWS)
    view = await client.sql(arguments)
    return [dict(zip(view.columns, row, strict=True)) for row in view.rows]


async def decisions(client: ControlClient, task_id: str) -> list[Row]:
    """Return a node's decisions about a task, oldest first."""
    return await rows(client, _DECISIONS, task_id)


async def states(client: ControlClient, task_id: str) -> list[Row]:
    """Return a task's states as a node recorded them: state, witness, after_ms."""
    return await rows(client, _STATES, task_id)


async def agreement(caller: ControlClient, worker: ControlClient) -> list[Row]:
    """Return the worker's tasks once both sides have each other's signature.

    Raises:
        DemoFailed: the two sides do not say the same about every task.
    """
    theirs, ours = await _signed(worker), await _signed(caller)
    require(
        [row["task_id"] for row in ours] == [row["task_id"] for row in theirs],
        "the two nodes do not know the same tasks",
        len(ours),
        len(theirs),
    )
    for mine, other in zip(ours, theirs, strict=True):
        for name in AGREED:
            require(
                mine[name] == other[name],
                f"the nodes disagree about `{name}` of task {mine['task_id']}",
                mine[name],
                other[name],
            )
        for name in ("payload_hash", "worker_signature", "caller_signature"):
            require(mine[name], f"task {mine['task_id']} has no {name}")
    return theirs


async def verify_chain(client: ControlClient, name: str) -> Sequence[str]:
    """Recompute a node's audit chain and return its hashes, the first row's first.

    Raises:
        DemoFailed: a row is missing or does not fit the one before it.
    """
    previous = bytes(32)
    hashes: list[str] = []
    for number, row in enumerate(await rows(client, _CHAIN), start=1):
        require(row["seq"] == number, f"{name}'s audit has no row {number}")
        previous = hashlib.sha256(previous + str(row["canon"]).encode()).digest()
        require(row["h"] == previous.hex(), f"row {number} of {name}'s audit breaks the chain")
        hashes.append(previous.hex())
    require(hashes, f"{name} has written no audit rows")
    return hashes


async def head_at(client: ControlClient, name: str, hashes: Sequence[str]) -> int:
    """Return the latest row of the other node's chain that `name` holds a signed receipt for.

    Raises:
        DemoFailed: there is no receipt, or one is not of that chain.
    """
    receipts = await rows(client, _HEADS)
    require(receipts, f"{name} holds no receipt of the other node's log")
    for row in receipts:
        at = cast("int", row["head_seq"])
        require(
            0 < at <= len(hashes) and hashes[at - 1] == row["head_hash"],
            f"a receipt that {name} holds is not of the other node's log",
            at,
        )
    return max(cast("int", row["head_seq"]) for row in receipts)


async def _signed(client: ControlClient) -> list[Row]:
    """Return a node's tasks once every one has both signatures, or as they are in the end."""
    found: list[Row] = []
    try:
        async with asyncio.timeout(RECEIPT_LIMIT_S):
            while True:
                found = await rows(client, _TASKS)
                if found and all(
                    row["worker_signature"] and row["caller_signature"] for row in found
                ):
                    return found
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return found
