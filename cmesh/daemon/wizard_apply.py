"""The wizard's changes done: the file, keys, agents, each once, and a row of the audit.

A change is written down before it is made, so that the next daemon can say whether it came to be.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

from cmesh.daemon.arguments import Context
from cmesh.daemon.core import Daemon
from cmesh.daemon.setup_facts import Look
from cmesh.daemon.trust import BY_CODE
from cmesh.errors import CmeshError, ConfigError, PeerUntrusted, PlanGone
from cmesh.model import NodeId
from cmesh.setup import configwrite, registering
from cmesh.setup.directories import require_in_place
from cmesh.setup.plan import Plan
from cmesh.setup.plan_service import require_as_planned
from cmesh.setup.records import (
    EXPIRES_AFTER,
    Applied,
    Pending,
    Records,
    digest,
    read_text,
)
from cmesh.setup.service.manager import read_unit
from cmesh.store.records import AuditRecord

__all__ = ["Applying", "TakeBack"]

TakeBack = Callable[[str], Awaitable[object]]


class Applying:
    """Applies changes for one wizard, which lets one at a time come here.

    Attributes:
        count: how many were begun.
    """

    def __init__(
        self,
        daemon: Daemon,
        records: Records,
        look: Look,
        take_back: TakeBack,
        again: Callable[[], None],
        answered: asyncio.Event,
    ) -> None:
        self.count = 0
        self._daemon = daemon
        self._records = records
        self._look = look
        self._take_back = take_back
        self._again = again
        self._answered = answered

    async def apply(
        self, pending: Pending, context: Context, *, by_form: bool = False
    ) -> list[str]:
        """Do what a plan says; what it did not come to is in the notes.

        A unit is for the terminal that gave the word: whether it came to be is settled later.

        INVARIANT: the file, and what its paths lead to, is as the plan has seen it, or nothing is done.
        """
        plan = pending.plan
        self._require_proved(plan)
        self.count += 1
        self._records.keep_pending(None)  # single use, whatever comes of it
        self._answered.set()
        self._daemon.changes.tell()
        if digest(await self.text()) != digest(plan.before):
            raise PlanGone(f"`{plan.file}` has changed since the change was planned")
        await asyncio.to_thread(require_in_place, plan)
        if plan.unit is not None:
            found = await asyncio.to_thread(read_unit, Path(plan.unit.file))
            require_as_planned(plan.unit, found)
        applied = Applied(plan_id=pending.plan_id, plan=plan, at=self._daemon.settings.clock.now())
        await asyncio.to_thread(self._records.keep, applied)
        if plan.trust is not None:
            node_id = NodeId(plan.trust.node_id)
            await self._daemon.trust.pin(node_id, by="owner", expected=plan.trust.fingerprint)
        if plan.before != plan.after:
            await asyncio.to_thread(_write, plan)
        self._daemon.rules.config()  # it counts from now on
        notes = await self._beside(plan)
        if plan.unit is None:
            await asyncio.to_thread(self._finish, applied)
        await self.audit("setup_applied", pending, context, by_form=by_form)
        return notes

    async def keep_declined(self, pending: Pending) -> None:
        """Remember that a person was asked and said no, so that nobody asks again."""
        now = self._daemon.settings.clock.now()
        declined = Applied(
            plan_id=pending.plan_id, plan=pending.plan, at=now, done=True, undone=True
        )
        await asyncio.to_thread(self._records.keep, declined)

    async def settle(self) -> None:
        """Say of a change in the midst of which a daemon ended whether it came to be."""
        current = await self.text()
        for one in await asyncio.to_thread(self._records.applied):
            if one.plan.unit is not None:
                await asyncio.to_thread(self._settle_unit, one)
                continue
            if one.done or one.undone:
                continue
            if current == one.plan.after and not (one.plan.agents or one.plan.unagents):
                await asyncio.to_thread(self._finish, one)
            else:
                undone = one.model_copy(update={"done": True, "undone": True})
                await asyncio.to_thread(self._records.keep, undone)

    async def text(self) -> str | None:
        """Return the text of `config.toml`; None = there is none.

        Raises:
            ConfigError: it cannot be read.
        """
        file = self._daemon.settings.config_file
        try:
            return await asyncio.to_thread(read_text, file)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"`{file}` cannot be read: {error}") from error

    async def audit(
        self,
        kind: Literal["setup_applied", "setup_declined"],
        pending: Pending,
        context: Context,
        *,
        by_form: bool = False,
    ) -> None:
        """Write a row about what became of a change."""
        plan = pending.plan
        data: dict[str, object] = {
            "plan_id": pending.plan_id,
            "plan_sha256": plan.sha256,
            "step": plan.step,
            "undoes": plan.undoes,
            "widens": list(plan.widens),
            "unit": plan.unit.file if plan.unit else "",
            "config_before": digest(plan.before),
            "config_after": digest(plan.after),
            "asked_by": {"agent": pending.agent, "session": pending.session, "pid": pending.pid},
            "by": {"agent": context.agent, "session": context.session, "pid": context.pid},
            "by_form": by_form,
        }
        await self._daemon.store.commit([AuditRecord(kind=kind, data=data)])

    def _require_proved(self, plan: Plan) -> None:
        """Check that a code has proved the key of a plan's peer.

        Raises:
            PeerUntrusted: none has; the change waits on.
        """
        peer = plan.by_code
        if peer is not None and self._daemon.trust.confirmed_by(NodeId(peer.node_id)) != BY_CODE:
            raise PeerUntrusted(
                f"no code has proved the key of `{peer.name}` yet",
                hint="`cmesh confirm` at a terminal of both machines, and one's code typed at the other",
            )

    async def _beside(self, plan: Plan) -> list[str]:
        """Do what a plan does beside the file."""
        notes: list[str] = []
        if plan.untrust is not None:
            try:
                await self._take_back(plan.untrust.node_id)
            except CmeshError as error:  # taken back already
                notes.append(error.message)
        if plan.entries:
            here = await asyncio.to_thread(self._look.surroundings)
            notes += await asyncio.to_thread(registering.carry_out, here, plan.entries)
        if plan.trust is not None:
            self._daemon.links.want(NodeId(plan.trust.node_id), unasked=True)
        if plan.by_code is not None:  # who is at `cmesh pair` over there waits for this
            gives = any(block.direction == "inbound" for block in plan.blocks)
            self._daemon.pairings.answered(plan.by_code.node_id, gives=gives)
        if plan.after is None and plan.before is not None:
            notes.append("the daemon starts again, without a node")
            self._again()
        return notes

    def _settle_unit(self, applied: Applied) -> None:
        """Say of a unit whether its file is as it was to be; one that is gone is taken back."""
        unit = applied.plan.unit
        if unit is None or applied.undone or (applied.done and applied.plan.undoes):
            return
        there = read_unit(Path(unit.file))
        if applied.done:
            if there is None:
                self._records.keep(applied.model_copy(update={"undone": True}))
        elif there == unit.after:
            self._finish(applied)
        elif self._daemon.settings.clock.now() > _given_up(applied.at):
            self._records.keep(applied.model_copy(update={"done": True, "undone": True}))

    def _finish(self, applied: Applied) -> None:
        self._records.keep(applied.model_copy(update={"done": True}))
        if applied.plan.undoes:
            for old in self._records.applied():
                if old.plan_id == applied.plan.undoes:
                    self._records.keep(old.model_copy(update={"undone": True}))


def _given_up(confirmed: datetime) -> datetime:
    """Return when a terminal that was to do something is not waited for any more."""
    return confirmed + EXPIRES_AFTER


def _write(plan: Plan) -> None:
    """Write the file, if it still is what the plan was made of."""
    if not configwrite.put(Path(plan.file), plan.before, plan.after):
        raise PlanGone(f"`{plan.file}` has changed since the change was planned")
