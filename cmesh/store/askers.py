"""The queries of peers: apart from the owner's, each asker's in a process of its own.

Where a rule lets a peer see its own tasks, a database is made of a copy with these rows alone,
before its statement runs: DuckDB has no grants, and a view hides nothing of the tables behind it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

from cmesh.model import NodeId
from cmesh.store.answer import Question
from cmesh.store.records import SqlRows
from cmesh.store.sql import Copying, Query, QueryLimits, QueryProcess

__all__ = ["PROCESSES_MOST", "Askers", "own_part"]

PROCESSES_MOST = 4
"""Processes that are kept warm at a time."""

_OWN = "task_id IN (SELECT task_id FROM whole.task_row WHERE direction = 'in' AND peer_id = {me})"
_ROWS: Mapping[str, str] = {
    "store_row": "true",
    "task_row": "direction = 'in' AND peer_id = {me}",
    "step_row": f"direction = 'in' AND {_OWN}",
    "event_row": f"direction = 'in' AND {_OWN}",
    "result_row": f"direction = 'in' AND {_OWN}",
    "decision_row": "direction = 'in' AND peer_id = {me}",
    "receipt_row": "peer_id = {me}",
}
"""The rows of each table; of a table that is not here none are."""

_SHOWN: Mapping[str, str] = {
    "store_row": "incarnation node created_at",
    "task_row": "seq ts task_id trace direction peer_id peer principal session project payload_hash"
    " runner profile directory prompt prompt_bytes runtime_s limit_bytes limit_usd accept origin"
    " not_after traceparent follows thread turn limit_turns limit_tokens artifacts base changes"
    " answer_schema",
    "step_row": "seq ts task_id direction kind name witness code",
    "event_row": "seq ts task_id direction n event_ts event_kind text data spool_end",
    "result_row": "seq ts task_id direction state witness exit_code text error code output_bytes"
    " output_kept output_sha256 truncated cost_usd tokens_in tokens_out runner_version"
    " profile_enforced credential processes_left started_at ended_at worker_signature"
    " caller_signature follow_up follow_up_until redacted turns answer",
    "decision_row": "seq ts task_id direction peer_id peer operation effect",
    "receipt_row": "seq ts task_id peer_id peer receipt_kind head_seq head_hash signature",
}
"""The columns of each; another one, also of a later schema, is there and empty.

Not shown: names and conditions of rules, salts of digests, what stays on the worker of a task,
and what a secret may withhold.
"""


def own_part(asker: NodeId) -> dict[str, object]:
    """Return what the query process is told to leave of a copy: rows and columns by table."""
    me = "'" + asker.replace("'", "''") + "'"
    rows = {table: where.format(me=me) for table, where in _ROWS.items()}
    shown = {table: columns.split() for table, columns in _SHOWN.items()}
    return {"rows": rows, "shown": shown}


class Askers:
    """The query processes of peers; one for each, and for what it may see."""

    def __init__(
        self,
        copying: Copying,
        limits: QueryLimits | None,
    ) -> None:
        self._copying = copying
        self._limits = limits
        self._processes: OrderedDict[tuple[NodeId, bool], QueryProcess] = OrderedDict()
        self._ending: set[asyncio.Task[None]] = set()

    async def run(self, question: Question, head_seq: int) -> SqlRows:
        """Run one SELECT over all rows, or the asker's own; raises as `QueryProcess.run`."""
        key = question.asker, question.own
        process = self._processes.get(key)
        if process is None:
            part = own_part(question.asker) if question.own else None
            process = QueryProcess(self._copying, self._limits, part=part)
            self._processes[key] = process
        self._processes.move_to_end(key)
        while len(self._processes) > PROCESSES_MOST:
            _, old = self._processes.popitem(last=False)
            ending = asyncio.ensure_future(old.finish())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        query = Query(text=question.text, parameters=question.parameters, limit=question.limit)
        return await process.run(query, head_seq)

    async def forget(self) -> None:
        """End all once their queries are over, and delete their copies."""
        processes = list(self._processes.values())
        await asyncio.gather(*(process.forget() for process in processes), *self._ending)

    async def close(self) -> None:
        """End all."""
        processes = list(self._processes.values())
        self._processes.clear()
        await asyncio.gather(*(process.close() for process in processes), *self._ending)
