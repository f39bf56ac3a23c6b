"""What the looks at one task's run have shown: its output as events, its end as a signed result."""

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from cmesh.daemon import followup, results
from cmesh.daemon.admission import Grant
from cmesh.daemon.artifacts import with_artifacts
from cmesh.daemon.draft import Draft
from cmesh.daemon.evidence import with_evidence
from cmesh.daemon.parts import Parts
from cmesh.daemon.patches import with_patch
from cmesh.daemon.refusals import RESTORED_CODE
from cmesh.daemon.repairing import judged, tell_shim
from cmesh.daemon.results import RanWith
from cmesh.daemon.spool import Spool, copy_clean
from cmesh.errors import DiskFull
from cmesh.model import Result, TaskId, TaskState
from cmesh.protocol.facts import RUNNING
from cmesh.protocol.state import Step
from cmesh.protocol.witness import WITNESS
from cmesh.runner.evidence import Look
from cmesh.runner.meter import WARN_AT, Spent
from cmesh.runner.readers import noted_reader
from cmesh.sandbox.tier import warning

__all__ = ["Findings"]

FIRST_EVENTS = 64
"""The event that a task runs is among the first ones."""


TIME_WARNED = "time_warned"
"""Fact: its caller was told that most of its time is over."""

LOST = "this worker's store was restored from a backup; whether the task ran is not known"
RESTORED = "the worker committed it: its store was restored, and may lack that the task ran"


class Findings:
    """One task's run, as the shim's files tell it."""

    def __init__(self, task_id: TaskId, parts: Parts) -> None:
        self.task_id = task_id
        self._parts = parts
        self._spool: Spool | None = None
        self._judged = self._told = False

    @property
    def reported(self) -> "Reported | None":
        """How the whole output says that it ended; None until its end was read."""
        outcome = self._spool.outcome if self._spool else None
        return _REPORTED[outcome.state] if outcome else None

    async def warn_of_time(self, draft: Draft) -> float | None:
        """Put the warning into `draft` that most of the time is over; return when it is due.

        None = it is said, or there is nothing to say.
        """
        terms = self._spool.terms if self._spool else None
        stored = await self._parts.store.task(self.task_id)
        if terms is None or not terms.runtime_s or draft.state != RUNNING:
            return None
        if TIME_WARNED in draft.facts:
            return None
        now = self._parts.clock.now()
        began = (stored and stored.started_at) or now  # a start of just now is in no row yet
        passed_s = (now - began).total_seconds()
        due_s = WARN_AT * terms.runtime_s - passed_s
        if due_s > 0:
            return due_s
        spent = Spent(limit="runtime_s", used=round(passed_s, 1), most=terms.runtime_s)
        draft.add_fact(TIME_WARNED)
        draft.next_event(now, "warning", spent.words, spent.data())
        return None

    @property
    def spent(self) -> Spent | None:
        """The limit that the output so far says is spent, so that the run must be stopped."""
        return self._spool.spent if self._spool else None

    def forget(self) -> None:
        """Read the output from its start again: what was read is not stored."""
        self._spool = None
        self._judged = self._told = False

    async def take(self, draft: Draft, look: Look) -> bool:
        """Put the next events of the output into `draft`; True when all of it is in."""
        spool = await self._open_spool(draft)
        schema = draft.record.spec.answer_schema if draft.record else ""
        if not schema:
            return spool.take(draft, look, self._parts.clock.now())
        turn = look.exit.turn if look.exit else self._parts.supervisor.turn(self.task_id)
        whole = spool.take(draft, look, self._parts.clock.now(), turn)
        if spool.outcome is not None and not self._judged:
            spool.outcome = await asyncio.to_thread(judged, spool, schema, self._parts)
            self._judged = True
        elif spool.first is not None and look.exit is None and not self._told:
            await tell_shim(self._parts, draft, spool, schema)
            self._told = True
        return whole

    async def write(
        self, step: Step, draft: Draft, why: tuple[str, str], grant: Grant | None, policy: str
    ) -> None:
        """Write what a look has shown: that it runs, or how it ended.

        `why` is code and reason, when the worker has ended it; `grant` what it runs with,
        when this life of the daemon has decided, by `policy`, as its SHA-256.
        """
        now, ran = self._parts.clock.now(), await self._ran_with(grant, policy)
        if not any(write.kind == "result" for write in step.writes):
            draft.add_state(step.next, WITNESS["worker", step.next])
            look = self._parts.supervisor.look(self.task_id)
            ran = replace(
                ran,
                containment=look.containment,
                containment_note=look.containment_note,
                enforcement=look.enforcement,
            )
            weak = look.containment == "best_effort"
            text = f"contained by best effort: {look.containment_note}" if weak else ""
            text = "; ".join(filter(None, (text, warning(look.enforcement))))
            draft.next_event(now, step.next, text, asdict(ran))
            return
        look = self._parts.supervisor.look(self.task_id)
        if self._spool is not None and self._spool.exit is not None:
            # INVARIANT: state and witness are of one reading; the file may be another by now.
            look = replace(look, exit=self._spool.exit)
        code, reason = why
        if look.claim == "burnt":
            result = results.refusal(step.next, code, reason, now)
            if result.state is TaskState.INTERRUPTED:
                result = replace(result, witness=RESTORED, code=RESTORED_CODE, error=LOST)
        else:
            outcome = self._spool.outcome if self._spool else None
            result = results.run(step.next, look, outcome, ran, now)
            assert draft.record is not None
            named = outcome.session if outcome else ""
            result = await followup.settle(self._parts, draft.record, result, named)
            if result.state is TaskState.CANCELLED:
                # Why it was ended is known here alone; the shim only did as it was told.
                result = replace(result, code=code, error=reason or result.error)
        if result.output_sha256:
            result = await self._keep_output(result)
        if look.claim != "burnt":
            result = await self._with_files(result, look, draft)
            outcome = self._spool.outcome if self._spool else None
            assert draft.record is not None
            result = await with_evidence(self._parts, draft.record, result, look.exit, outcome)
        if self._spool is not None:
            result = replace(result, redacted=self._spool.hits)
        draft.add_state(step.next, result.witness, result.code, result.error)
        results.add_signed(self._parts, draft, result, policy or ran.policy_sha256)

    async def _with_files(self, result: Result, look: Look, draft: Draft) -> Result:
        """Return a result with what the task changed and hands over, of those that have a place."""
        if look.exit is None:
            return result
        if look.exit.compared:
            result = await with_patch(self._parts, self.task_id, result, look.exit.compared)
        if draft.record is not None and draft.record.spec.artifacts:
            result = await with_artifacts(self._parts, draft.record.spec, result)
        return result

    async def _keep_output(self, result: Result) -> Result:
        """Store the output; one that somebody changed or deleted is told and not kept."""
        path = self._parts.supervisor.spool_path(self.task_id)
        if not path.is_file():
            return results.without_output(result, "the output was deleted before it was stored")
        found, kept = await self._stored(path)
        if found != result.output_sha256:
            why = "the output was changed after the shim recorded it"
            return results.without_output(result, why)
        return replace(result, output_sha256=kept)

    async def _stored(self, path: Path) -> tuple[str, str]:
        """Store an output without its secrets; return the SHA-256 of the file and of the copy."""
        store = self._parts.store
        if self._spool is None or not self._spool.output_hits:
            sha256 = await store.blob(path)
            return sha256, sha256
        clean = store.incoming / f"incoming-{self.task_id}"
        redactor = self._parts.redactor()
        try:
            found = await asyncio.to_thread(copy_clean, path, clean, redactor)
            return found, await store.blob(clean)
        except OSError as error:
            raise DiskFull(f"no room for an output: {error.strerror}") from error
        finally:
            clean.unlink(missing_ok=True)

    async def _ran_with(self, grant: Grant | None, policy: str) -> RanWith:
        """Return what runs the task: as admitted, else as noted when it began to run."""
        if grant is not None:
            runner = grant.runner
            return RanWith(
                runner_version=runner.version,
                credential=runner.credential(grant.profile.base),
                policy_sha256=policy,
            )
        for event in await self._parts.store.events(self.task_id, after=0, limit=FIRST_EVENTS):
            if event.kind == RUNNING and "credential" in event.data:
                return RanWith(
                    runner_version=str(event.data.get("runner_version", "")),
                    credential=str(event.data["credential"]),
                    policy_sha256=str(event.data.get("policy_sha256", "")),
                )
        return RanWith()

    async def _open_spool(self, draft: Draft) -> Spool:
        if self._spool is None:
            assert draft.record is not None
            stored = await self._parts.store.task(self.task_id)
            self._spool = Spool(
                self.task_id,
                self._parts.supervisor,
                noted_reader(self._parts.supervisor.directory(self.task_id))
                or self._parts.runners().reader(draft.record.spec.runner),
                self._parts.redactor(),
                seen_end=stored.spool_end if stored else 0,
                session=self._parts.runners().session(draft.record.spec.runner),
            )
        return self._spool


Reported = Literal["succeeded", "failed", "cancelled", "timed_out"]

_REPORTED: dict[str, Reported] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "timed_out": "timed_out",
}
