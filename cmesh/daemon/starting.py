"""Starting one task on this worker: what it may run with, and the hand-over to a shim."""

import asyncio
import errno
import logging
from collections.abc import Callable
from dataclasses import replace

from cmesh.daemon import followup
from cmesh.daemon.admission import Admission, Grant, as_told
from cmesh.daemon.directories import note_directory
from cmesh.daemon.draft import Draft
from cmesh.daemon.earlier import earlier_of, lay_down
from cmesh.daemon.happening import Happening, Place
from cmesh.daemon.parts import Parts
from cmesh.errors import (
    CmeshError,
    DiskFull,
    NodeError,
    PathRefused,
    RunnerError,
    RunnerUnavailable,
    SandboxUnavailable,
)
from cmesh.model import Profile, TaskId
from cmesh.protocol.happenings import GotCancel
from cmesh.runner.acceptance import Command
from cmesh.runner.confine import Relay
from cmesh.runner.copies import Copy, Start
from cmesh.runner.launch import Launch
from cmesh.runner.meter import note_terms
from cmesh.runner.preface import preface_of
from cmesh.runner.readers import note_parser
from cmesh.runner.runner import Runner
from cmesh.sandbox.profile import MIB
from cmesh.store.records import TaskRecord, TaskSnapshot

__all__ = ["PAUSE_FIRST_S", "PAUSE_MOST_S", "TOO_LATE", "Starting"]

PAUSE_FIRST_S = 0.2
PAUSE_MOST_S = 30.0
"""Between attempts that failed, of a shim that ended unclaimed or of a commit; doubled each."""

ASK_AGAIN_AFTER_S = 1.0

HELD_PAUSE_S = 1.0
"""Between looks at a task that waits for its caller before it is started."""

_DECIDES = {
    "manifest": "manifest",
    "program": "`program`",
    "arguments": "`argv`",
    "model": "`model`",
    "base_url": "`base_url`",
    "env": "`env`",
}
"""What of a runner decides what a task would do, and what its owner calls it."""

TOO_LATE = "its time to start was over"

logger = logging.getLogger(__name__)


class Starting:
    """One task's start; repeated until a shim has claimed it.

    Attributes:
        grant: what it runs with; None until this life of the daemon has decided.
        policy_sha256: of the policy that decided last; empty when nobody knows.
        held: an earlier life committed to start it, and its caller has not followed it since.
            A restored store says the same of a task that has run: see `spawn`.
    """

    def __init__(
        self,
        task_id: TaskId,
        parts: Parts,
        place: Place,
        *,
        tell: Callable[[Happening], object],
        look_later: Callable[[float], None],
    ) -> None:
        self.task_id = task_id
        self.grant: Grant | None = None
        self.policy_sha256 = ""
        self.held = True
        self._parts = parts
        self._place = place
        self._tell = tell
        self._look_later = look_later
        self._spawn_pause_s = PAUSE_FIRST_S
        self._spawn_at = 0.0

    async def spawn(self, draft: Draft) -> None:
        """Hand the task to the idle shim, or end it when that cannot be."""
        assert draft.record is not None
        wait_s = self._spawn_at - self._parts.clock.monotonic()
        if wait_s > 0:  # the last shim ended without a claim, for want of room on the disk
            self._look_later(wait_s)
            return
        grant, supervisor = await self._granted(draft.record), self._parts.supervisor
        if grant is None:
            return
        self._spawn_at = self._parts.clock.monotonic() + self._spawn_pause_s
        self._spawn_pause_s = min(2 * self._spawn_pause_s, PAUSE_MOST_S)
        spec = replace(draft.record.spec, directory=grant.directory, limits=grant.limits)
        try:
            if spec.changes is not None and not await self._place.ready(draft.record):
                # An earlier life had what came with it, and its caller is asked for that again.
                if spec.not_after <= self._parts.clock.now():
                    self._tell(Happening(event=GotCancel("user"), code="expired", reason=TOO_LATE))
                return
            bundle = self._place.bundle(self.task_id)
            grant = await self._as_it_is(grant, spec.profile)
            directory = supervisor.directory(self.task_id)
            grant.runner.check_directory(spec.directory)
            sandboxes = self._parts.sandboxes
            sandboxes.require_parts(grant.directory, grant.judged, grant.profile)
            earlier, patch = await earlier_of(self._parts.store, spec)
            copy = sandboxes.copy(
                directory,
                grant.directory,
                grant.judged,
                grant.profile,
                start=Start(
                    base=spec.base or "head",
                    changes=spec.changes,
                    bundle=bundle is not None,
                    earlier=earlier,
                ),
                binds=grant.bind_ignored,
            )
            spec = replace(spec, directory=copy.place if copy else spec.directory)
            session = followup.place(self._parts, draft.record)
            told = preface_of(spec.profile, draft.record.principal, draft.record.peer)
            launch = grant.runner.launch(spec, directory, directory / "home", session, told)
            launch = replace(launch, judged=grant.judged)
            accept = None
            if spec.accept:
                accept = self._parts.runners().acceptance(spec.accept, grant.directory)
            launch = self._confine(launch, grant, copy, accept)
            if copy is not None:
                await asyncio.to_thread(lay_down, self._parts.store, copy, patch, bundle)
            supervisor.prepare(self.task_id, launch)
            note_parser(directory, grant.runner.manifest.parser)
            note_terms(directory, grant.limits, _own(grant), await self._cost_before(draft.record))
            await note_directory(self._parts, self.task_id, grant)
            await supervisor.spawn(self.task_id)
        except (CmeshError, OSError) as error:
            code = error.code if isinstance(error, CmeshError) else _code_of(error)
            data = {"task": self.task_id, "why": str(error)}
            logger.warning("spawn_failed", extra={"data": data})
            reason = str(as_told(error, spec.runner) if isinstance(error, PathRefused) else error)
            self._tell(Happening(event=GotCancel("user"), code=code, reason=reason))

    async def _as_it_is(self, grant: Grant, profile: Profile) -> Grant:
        """Look at the runner anew: it may have changed while the task waited.

        A key is taken as it lies there now, in whatever file: who renews it ends no task by that.

        Raises:
            RunnerUnavailable: it is gone, or another, or nothing speaks for it as it is now.
        """
        self._parts.rules.policy()  # a change of a manifest counts from here on
        runner = await asyncio.to_thread(self._parts.runners().resolve, grant.runner.name)
        # INVARIANT: what was admitted, and shown to who approved it, is what speaks for a start.
        if what := _changed(grant.runner, runner):
            raise RunnerUnavailable(
                f"the {what} of runner `{runner.name}` was changed while the task waited",
                hint="delegate it again",
            )
        if profile is not Profile.FULL and (untested := runner.untested()) is not None:
            raise untested
        return replace(grant, runner=runner)

    def _confine(
        self, launch: Launch, grant: Grant, copy: Copy | None, accept: Command | None
    ) -> Launch:
        """Put the sandbox of a profile round a launch, with its one way out. Blocks on the disk."""
        confined, delegates = grant.profile.base is not Profile.FULL, grant.delegates
        if delegates and confined:
            try:  # where it can have no network of its own it runs without that way
                self._parts.sandboxes.require_network()
            except SandboxUnavailable as error:
                delegates = False
                data = {"task": self.task_id, "why": error.message}
                logger.warning("no_endpoint", extra={"data": data})
        way = self._parts.networks.grant(
            self.task_id,
            grant.runner,
            grant.profile.hosts,
            delegates=delegates,
            confined=confined,
        )
        relay = None
        if way is not None:
            relay = Relay(port=way.port, socket=way.socket)
            again = (*launch.again, *way.argv) if launch.again else ()
            argv, env = (*launch.argv, *way.argv), {**launch.env, **way.env}
            launch = replace(launch, argv=argv, again=again, env=env)
        if not confined:
            return replace(launch, port=way.port if way else 0)
        needs, config = grant.runner.needs(), self._parts.rules.config()
        launch = self._parts.sandboxes.confine(
            launch,
            grant.profile,
            replace(needs, read=(*needs.read, *config.sandbox.read)),
            relay,
            copy=copy,
            accept=accept,
        )
        floor_bytes = config.store.disk_floor_mib * MIB
        return replace(launch, disk=launch.disk and replace(launch.disk, floor_bytes=floor_bytes))

    async def _cost_before(self, record: TaskRecord) -> float:
        session = self._parts.runners().session(record.spec.runner)
        if session is None or not session.adds_up_cost:
            return 0.0
        before = await followup.spent_before(self._parts.store, record)
        return before.cost_usd or 0.0

    async def _granted(self, record: TaskRecord) -> Grant | None:
        """Return what the task may run with; None when it may not, and then it is ended."""
        if self.grant is not None:
            return self.grant
        # An earlier life committed to start it, and no shim has, as far as this store knows.
        if record.spec.not_after <= self._parts.clock.now():
            self._tell(Happening(event=GotCancel("user"), code="expired", reason=TOO_LATE))
            return None
        if self.held:
            # INVARIANT: a caller follows a task only in the store that it was sent to, and from
            # an event that is there; so who follows it has not seen it run. One that a restored
            # backup brought back is never started again.
            self._look_later(HELD_PAUSE_S)  # a shim of the earlier life may claim it meanwhile
            return None
        stored = await self._parts.store.task(self.task_id)
        admission = await self.readmitted(stored) if stored else None
        if admission is None:
            return None
        self.admitted(admission)
        if self.grant is None:
            why = Happening(event=GotCancel("user"), code=admission.code, reason=admission.reason)
            self._tell(why)
        return self.grant

    def admitted(self, admission: Admission) -> None:
        """Take note of what was decided."""
        self.grant, self.policy_sha256 = admission.grant, admission.record.policy_sha256

    async def readmitted(self, task: TaskSnapshot) -> Admission | None:
        """Decide anew; None when nobody can say yet who asked, as right after a start."""
        try:
            return await self._place.readmit(task)
        except NodeError:
            self._look_later(ASK_AGAIN_AFTER_S)
            return None


def _changed(before: Runner, now: Runner) -> str:
    """Return the first thing that a start would do otherwise; empty = none."""
    for name, what in _DECIDES.items():
        if getattr(before, name) != getattr(now, name):
            return what
    return ""


def _own(grant: Grant) -> frozenset[str]:
    """Return the limits that the program keeps to by itself."""
    options = grant.runner.manifest.options
    return frozenset(name for name in ("turns", "cost_usd") if getattr(options, name))


def _code_of(error: OSError) -> str:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return DiskFull.code if full else RunnerError.code
