"""The wizard of a machine: looks, plans, waits for a person, applies, takes back.

One change waits at a time. It is applied only by a confirmation that a person gives at a terminal
(`cmesh confirm`), bound to the digest of what was shown, once, within a time. What widens nothing
is taken back without one.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path

from cmesh.config import Config, read_config
from cmesh.daemon.approval import require_no_task
from cmesh.daemon.arguments import Context
from cmesh.daemon.core import Daemon
from cmesh.daemon.setup_answers import (
    PlanView,
    SetupChangeView,
    SetupPendingView,
    SetupView,
)
from cmesh.daemon.setup_arguments import (
    SetupCheckArguments,
    SetupConfirmArguments,
    SetupStepArguments,
    SetupUndoArguments,
)
from cmesh.daemon.setup_facts import Look
from cmesh.daemon.setup_views import next_view, pending_view, plan_view, setup_view
from cmesh.daemon.wizard_apply import Applying, TakeBack
from cmesh.errors import PlanGone, SetupBusy, TaskRefused
from cmesh.runner.shim_processes import stat_of
from cmesh.setup import registering
from cmesh.setup.directories import resolved
from cmesh.setup.person import require_person
from cmesh.setup.plan import Plan, Wish
from cmesh.setup.plan_service import require_as_planned
from cmesh.setup.planning import plan_of
from cmesh.setup.records import Pending, Records
from cmesh.setup.service.manager import read_unit
from cmesh.setup.steps import next_of
from cmesh.setup.undo import reverse_of
from cmesh.setup.widening import widenings

__all__ = ["Wizard"]

LOOK_S = 0.5
"""How often what is waited for is looked at."""

LOOKS = 3
"""How often is looked anew where a change came in between; a person makes no more in that time."""

SESSIONS = 64
"""Of how many sessions is kept what they were told last; older ones wait from now on."""

CLI_SESSION = "cli"


class Wizard:
    """One daemon's wizard; `take_back` takes a peer's trusted key back, `again` restarts."""

    def __init__(self, daemon: Daemon, take_back: TakeBack, again: Callable[[], None]) -> None:
        self._daemon = daemon
        self._records = Records(daemon.settings.state_dir)
        self._look = Look(daemon, self._records)
        self._lock = asyncio.Lock()
        self._answered = asyncio.Event()
        self._applying = Applying(
            daemon, self._records, self._look, take_back, again, self._answered
        )
        self._told: dict[str, tuple[object, ...]] = {}
        self._agents: Counter[int] = Counter()

    @contextlib.contextmanager
    def speaking(self, relay: int) -> Generator[None]:
        """Know who speaks MCP through the relay of this pid: its parent, an agent."""
        stat = stat_of(relay) if relay else None
        agent = stat[1] if stat is not None and stat[1] > 1 else 0
        self._agents[agent] += 1
        try:
            yield
        finally:
            self._agents[agent] -= 1

    @property
    def agents(self) -> list[int]:
        """Processes that speak MCP through a relay of theirs."""
        return [pid for pid, count in self._agents.items() if pid and count > 0]

    async def check(self, context: Context, arguments: SetupCheckArguments) -> SetupView:
        """Look; wait first for something to change."""
        if arguments.wait_s:
            await self._changed(context, arguments.wait_s)
        looks = 0
        while True:
            looks += 1
            async with self._lock:  # not in the midst of a change
                await self._applying.settle()
                seen = self._applying.count
            moment = self._moment()
            facts = await self._look.facts(context, meet=True)
            async with self._lock:
                if self._applying.count == seen or looks == LOOKS:
                    self._remember(context, moment)
                    return setup_view(facts, self._pending())

    async def step(self, context: Context, arguments: SetupStepArguments) -> SetupChangeView:
        """Plan a step and let it wait for its person."""
        require_no_task(context.pid, "a task sets nothing up")
        wish = Wish.model_validate(arguments.model_dump(exclude={"dry_run"}, exclude_none=True))
        async with self._lock:
            await self._applying.settle()
            facts = await self._look.facts(context, meet=wish.step == "peer")
            base = self._daemon.settings.config_file.parent
            wish = await asyncio.to_thread(resolved, wish, base)
            plan = await asyncio.to_thread(self._judged, plan_of(facts, wish))
            if arguments.dry_run:
                return await self._shown(context, plan_view(plan, "dry_run"))
            if plan.empty:
                if plan.kept or plan.step == "agents":  # an answer, though nothing changes by it
                    await self._applying.apply(self._new(plan, context), context)
                return await self._shown(context, plan_view(plan, "nothing"))
            pending = self._wait_for_person(plan, context)
            return await self._shown(context, pending_view(pending))

    async def undo(self, context: Context, arguments: SetupUndoArguments) -> SetupChangeView:
        """Take a change back; at once when that widens nothing, else it waits for its person.

        A unit waits too: the daemon that systemd ends cannot be the one that takes it away.
        """
        require_no_task(context.pid, "a task sets nothing up")
        async with self._lock:
            await self._applying.settle()
            applied = await asyncio.to_thread(self._records.applied)
            current = await self._applying.text()
            back = reverse_of(applied, arguments.step or "", current)
            plan = await asyncio.to_thread(self._judged, back)
            if plan.widens or plan.unit is not None:
                return await self._shown(
                    context, pending_view(self._wait_for_person(plan, context))
                )
            pending = self._new(plan, context)
            notes = await self._applying.apply(pending, context)
            return await self._shown(context, plan_view(plan, "applied", notes=notes))

    async def pending(self) -> SetupPendingView:
        """Return the change that waits, for the terminal that shows it."""
        found = self._pending()
        if found is None:
            return SetupPendingView()
        proved = found.plan.by_code
        return SetupPendingView(
            plan=pending_view(found),
            sha256=found.plan.sha256,
            asked_by=found.agent,
            by_code=proved.node_id if proved else "",
        )

    async def confirm(self, context: Context, arguments: SetupConfirmArguments) -> SetupChangeView:
        """Take a person's word on the change that waits.

        Raises:
            TaskRefused: no person can be speaking through the asking process; or it was given in a
                form, and the change widens something or is another session's.
            PlanGone: the change waits no more, is not the one that was shown, or does not fit.
        """
        require_no_task(context.pid, "a task confirms nothing")
        if arguments.accept and not arguments.by_form:
            require_person(context.pid, self.agents)
        async with self._lock:
            pending = self._pending()
            if pending is None or pending.plan_id != arguments.plan_id:
                raise PlanGone("that change waits no more: it was answered, replaced or expired")
            if pending.plan.sha256 != arguments.sha256:
                raise PlanGone("the change is not the one that was shown")
            if arguments.by_form:
                _require_narrow(pending, context)
            if not arguments.accept:
                self._records.keep_pending(None)
                self._daemon.changes.tell()
                if pending.plan.step == "service":
                    await self._applying.keep_declined(pending)
                by_form = arguments.by_form
                await self._applying.audit("setup_declined", pending, context, by_form=by_form)
                view = plan_view(pending.plan, "declined", plan_id=pending.plan_id)
                return await self._shown(context, view)
            notes = await self._applying.apply(pending, context, by_form=arguments.by_form)
            state = "applied" if pending.plan.unit is None else "confirmed"
            view = plan_view(pending.plan, state, plan_id=pending.plan_id, notes=notes)
            return await self._shown(context, view)

    async def _changed(self, context: Context, wait_s: float) -> None:
        """Return when something is other than this session was told last, or the time is over."""
        before = self._told.get(context.session, self._moment())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while self._moment() == before:
                    self._answered.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_S):  # the rest announces nothing
                            await self._answered.wait()

    def _moment(self) -> tuple[object, ...]:
        return (self._pending(), self._look.moment())

    def _remember(self, context: Context, moment: tuple[object, ...]) -> None:
        """Keep what a session is told of, so that it does not wait for what came meanwhile."""
        self._told.pop(context.session, None)
        self._told[context.session] = moment
        while len(self._told) > SESSIONS:
            del self._told[next(iter(self._told))]

    def _wait_for_person(self, plan: Plan, context: Context) -> Pending:
        """Let a change wait; one of the same asker is replaced.

        Raises:
            SetupBusy: another wizard's waits.
        """
        other = self._pending()
        if other is not None and _owner(other.session, other.pid) != _owner(
            context.session, context.pid
        ):
            lives = other.pid and stat_of(other.pid) is not None
            if lives:
                who = other.agent or f"process {other.pid}"
                raise SetupBusy(f"a change that {who} asked for waits for its person")
        pending = self._new(plan, context)
        self._records.keep_pending(pending)
        self._daemon.changes.tell()
        return pending

    def _judged(self, plan: Plan) -> Plan:
        """Return the plan with what it widens and changes beside the file; blocks on the disk.

        Raises:
            ConfigError: the file would not be usable, or an agent's settings cannot be changed.
            PlanGone: the unit that is to be taken back was changed since.
        """
        if plan.unit is not None:
            require_as_planned(plan.unit, read_unit(Path(plan.unit.file)))
        here = self._look.surroundings() if plan.agents or plan.unagents else None
        entries = (
            ()
            if here is None
            else (
                *registering.entries(here, plan.agents, add=True),
                *registering.entries(here, plan.unagents, add=False),
            )
        )
        before, after = self._meaning(plan.before), self._meaning(plan.after)
        widens = widenings(before, after)
        if plan.trust is not None:
            widens += (f"the key of `{plan.trust.name}` is trusted",)
        if plan.by_code is not None:
            widens += (f"the key of `{plan.by_code.name}` is trusted, once a code has proved it",)
        return plan.model_copy(update={"widens": widens, "entries": entries})

    def _meaning(self, text: str | None) -> Config:
        return read_config(self._daemon.settings.config_file, text or "")

    async def _shown(self, context: Context, view: PlanView) -> SetupChangeView:
        moment = self._moment()
        facts = await self._look.facts(context)
        waits = self._pending() is not None
        self._remember(context, moment)
        return SetupChangeView(plan=view, next=next_view(next_of(facts, pending=waits)))

    def _pending(self) -> Pending | None:
        return self._records.pending(self._now())

    def _now(self) -> datetime:
        return self._daemon.settings.clock.now()

    def _new(self, plan: Plan, context: Context) -> Pending:
        return Pending.of(
            plan, self._now(), session=context.session, agent=context.agent, pid=context.pid
        )


def _require_narrow(pending: Pending, context: Context) -> None:
    """Refuse a form's word on what a form is not enough for: its program may have said it alone.

    Raises:
        TaskRefused: the change widens something, is not this daemon's to do, or was planned by
            another session.
    """
    plan = pending.plan
    own = "`cmesh confirm` in a terminal of the user's own, outside of every agent"
    if plan.widens or plan.unit is not None or plan.before != plan.after:
        raise TaskRefused("a form is not enough for this change: it widens something", hint=own)
    if pending.session != context.session:
        raise TaskRefused("another session has planned this change", hint=own)


def _owner(session: str, pid: int) -> str:
    return f"{session}:{pid}" if session == CLI_SESSION else session
