"""The queries of peers: apart from the owner's, each asker's in a process of its own.

Where a rule lets a peer see its own tasks, its statements run on a database with these rows alone,
which is kept and grows with the store: DuckDB has no grants, and a view hides nothing of the
tables behind it. The databases of all askers together are no larger than the store, since each
task has one.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from weakref import WeakValueDictionary

from cmesh.errors import QueryRefused
from cmesh.model import NodeId
from cmesh.store.answer import Question
from cmesh.store.kept import KeptPart
from cmesh.store.records import SqlRows
from cmesh.store.sql import Copying, Query, QueryLimits, QueryProcess
from cmesh.store.texts import TEXTS_ERASED

__all__ = ["PROCESSES_MOST", "Askers", "own_part"]

PROCESSES_MOST = 4
"""Askers whose queries run at a time, and processes that are kept warm."""

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
    """Return what an asker's own part of the store is: rows and columns by table.

    `changed` is the kind of the audit rows that tell of rows that were changed.
    """
    me = "'" + asker.replace("'", "''") + "'"
    rows = {table: where.format(me=me) for table, where in _ROWS.items()}
    shown = {table: columns.split() for table, columns in _SHOWN.items()}
    return {"rows": rows, "shown": shown, "changed": TEXTS_ERASED}


class Askers:
    """The query processes of peers; one for each, and for what it may see."""

    def __init__(
        self,
        copying: Copying,
        limits: QueryLimits | None,
    ) -> None:
        self._copying = copying
        self._limits = limits
        self._turns: WeakValueDictionary[NodeId, asyncio.Lock] = WeakValueDictionary()
        self._places = asyncio.Semaphore(PROCESSES_MOST)
        self._processes: OrderedDict[tuple[NodeId, bool], QueryProcess] = OrderedDict()
        self._kept: dict[NodeId, KeptPart] = {}
        self._ending: dict[tuple[NodeId, bool], asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, asker: NodeId) -> AsyncGenerator[None]:
        """Wait for a place to answer an asker; it holds one at a time, and askers take turns.

        INVARIANT: whoever asks however much, so many processes are at work and no more, and who
        has asked nothing yet waits for one query of each of the others at most.

        Raises:
            QueryRefused: it waited longer than `queue_s` of the limits.
        """
        queue_s = (self._limits or QueryLimits()).queue_s
        turn = self._turns.setdefault(asker, asyncio.Lock())
        async with contextlib.AsyncExitStack() as held:
            try:
                async with asyncio.timeout(queue_s):
                    await held.enter_async_context(turn)
                    await held.enter_async_context(self._places)
            except TimeoutError as error:
                raise QueryRefused("other queries are still running", hint="try again") from error
            yield

    async def run(self, question: Question, head_seq: int) -> SqlRows:
        """Run one SELECT over all rows, or the asker's own; raises as `QueryProcess.run`."""
        key = question.asker, question.own
        while key in self._ending:  # what it reads would be changed under it
            await asyncio.wait([self._ending[key]])
        process = self._processes.get(key)
        if process is None:
            copying = self._own(question.asker) if question.own else self._copying
            process = self._processes[key] = QueryProcess(copying, self._limits)
        self._processes.move_to_end(key)
        while len(self._processes) > PROCESSES_MOST:
            self._leave(next(iter(self._processes)))
        query = Query(text=question.text, parameters=question.parameters, limit=question.limit)
        return await process.run(query, head_seq)

    async def forget(self) -> None:
        """End all once their queries are over, and delete what is kept: rows have changed."""
        for key in list(self._processes):
            self._leave(key)
        await asyncio.gather(*self._ending.values())
        await asyncio.gather(*(one.forget() for one in self._kept.values()))

    async def close(self) -> None:
        """End all."""
        processes, kept = list(self._processes.values()), list(self._kept.values())
        self._processes.clear()
        self._kept.clear()
        await asyncio.gather(*(process.close() for process in processes), *self._ending.values())
        await asyncio.gather(*(one.close() for one in kept))

    def _leave(self, key: tuple[NodeId, bool]) -> None:
        task = asyncio.ensure_future(self._finish(self._processes.pop(key), key))
        self._ending[key] = task
        task.add_done_callback(lambda _done: self._ending.pop(key))

    async def _finish(self, process: QueryProcess, key: tuple[NodeId, bool]) -> None:
        await process.finish()
        asker, own = key
        if own and asker in self._kept:
            await self._kept[asker].rest()

    def _own(self, asker: NodeId) -> Copying:
        kept = self._kept.get(asker)
        if kept is None:
            place = self._copying.confinement.directory / f"kept-{len(self._kept) + 1}"
            kept = self._kept[asker] = KeptPart(place, self._copying, own_part(asker))
        return replace(self._copying, fill=kept.fill, rest=kept.rest, alone=True)
