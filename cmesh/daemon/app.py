"""The operations every interface calls, over one `Daemon`.

Shows, never decides, what a task is. Finding and waiting is `lookup`, asking peers `asking`.
"""

import asyncio
import os
from collections.abc import Callable

from typing_extensions import override

from cmesh import __version__
from cmesh.daemon import (
    forgetting,
    history,
    overview,
    releasing,
    runner_files,
    runner_logins,
    runner_views,
)
from cmesh.daemon.answers import (
    CopyView,
    DecisionView,
    GroupView,
    PeersView,
    PeerView,
    ResultView,
    SqlView,
    StatusView,
    TasksView,
    TaskView,
    UntrustView,
)
from cmesh.daemon.approval import answered, answering, require_no_task
from cmesh.daemon.arguments import (
    ApproveArguments,
    ArtifactArguments,
    CancelArguments,
    CancelGroupArguments,
    CheckPatchArguments,
    Context,
    CopyArguments,
    DelegateArguments,
    ExplainArguments,
    FanOutArguments,
    GroupArguments,
    LiveRunArguments,
    LoginArguments,
    NewRunnerArguments,
    NoArguments,
    PatchArguments,
    ReleaseArguments,
    ReplyArguments,
    ResultArguments,
    RunnerArguments,
    SqlArguments,
    TaskArguments,
    TasksArguments,
    TrustArguments,
    UntrustArguments,
)
from cmesh.daemon.asking import Asking
from cmesh.daemon.background import guarded
from cmesh.daemon.changes import ChangesArguments, ChangesView
from cmesh.daemon.core import Daemon
from cmesh.daemon.diagnosis import diagnose
from cmesh.daemon.diagnosis_answers import DiagnosisView
from cmesh.daemon.fanning import FanOut
from cmesh.daemon.file_answers import ArtifactPiece, PatchFile, ReleaseView
from cmesh.daemon.fleet import Fleet
from cmesh.daemon.followup import standing
from cmesh.daemon.forget_calls import CompactView, ForgetArguments, ForgetView
from cmesh.daemon.groups import Groups
from cmesh.daemon.history import OPEN_STATES
from cmesh.daemon.history_calls import (
    FiguresArguments,
    FiguresView,
    FindArguments,
    FoundTasksView,
    RecordArguments,
    RecordView,
)
from cmesh.daemon.live_tests import LiveTests
from cmesh.daemon.lookup import Lookup
from cmesh.daemon.operations import Operations
from cmesh.daemon.pair_calls import (
    PairArguments,
    PairRulesArguments,
    PairRulesView,
    PairView,
    UnpairArguments,
)
from cmesh.daemon.pair_rules import PairRules
from cmesh.daemon.patch_answers import CheckPatchView
from cmesh.daemon.patch_check import check_patch
from cmesh.daemon.proof_calls import ProofArguments, ProofView
from cmesh.daemon.proving import ask_proof
from cmesh.daemon.release import program_of
from cmesh.daemon.releasing import with_released
from cmesh.daemon.results_text import read_artifact, read_patch, read_result
from cmesh.daemon.review import review
from cmesh.daemon.review_calls import PolicyReview, ReviewArguments
from cmesh.daemon.runner_answers import (
    CheckView,
    LiveRunView,
    LoginView,
    NewRunnerView,
    RunnersView,
)
from cmesh.daemon.setup_answers import SetupChangeView, SetupPendingView, SetupView
from cmesh.daemon.setup_arguments import (
    SetupCheckArguments,
    SetupConfirmArguments,
    SetupStepArguments,
    SetupUndoArguments,
)
from cmesh.daemon.tracing import traced
from cmesh.daemon.trust import BY_OWNER, taken_back
from cmesh.daemon.views import event_view, state_of
from cmesh.daemon.wizard import Wizard
from cmesh.errors import ConfigError, LocalProtocolError, TaskRefused
from cmesh.keys import fingerprint
from cmesh.model import Direction, TaskState, host_label
from cmesh.setup.person import require_person
from cmesh.store.records import TaskSnapshot

__all__ = ["App"]


class App(Operations):
    """One daemon's operations.

    Attributes:
        wizard: sets this machine up; told of each agent that speaks MCP.
    """

    def __init__(
        self,
        daemon: Daemon,
        stop: Callable[[], None],
        hand_over: Callable[[], None],
        *,
        agents: Callable[[], bool],
    ) -> None:
        """Serve `daemon`; `stop` asks the process to end, `hand_over` for another's sake.

        `agents` says whether any has spoken MCP to it.
        """
        self._daemon = daemon
        self._stop = stop
        self._hand_over = hand_over
        self._checking = asyncio.Lock()
        self._agents = agents
        self._lookup = Lookup(daemon)
        self._asking = Asking(daemon, self._lookup)
        self._groups = Groups(daemon, self._lookup)
        self._fan_out = FanOut(daemon, self._asking, self._groups)
        self._fleet = Fleet(daemon)
        self._live_tests = LiveTests(daemon)
        self.wizard = Wizard(daemon, self._take_back, hand_over)
        self._pair_rules = PairRules(daemon)

    @override
    async def status(self, context: Context, arguments: NoArguments) -> StatusView:
        return await overview.status(self._daemon)

    @override
    async def list_peers(self, context: Context, arguments: NoArguments) -> PeersView:
        await self._daemon.presence.rising()
        return await overview.peers(self._daemon)

    @override
    async def trust_peer(self, context: Context, arguments: TrustArguments) -> PeerView:
        await self._daemon.presence.rising()
        peer = await self._daemon.presence.peer(arguments.peer)
        node_id = peer.identity.node_id
        await self._daemon.trust.pin(node_id, by=BY_OWNER, expected=arguments.fingerprint)
        self._daemon.links.want(node_id, unasked=True)
        return overview.peer_view(self._daemon, peer)

    @override
    async def untrust_peer(self, context: Context, arguments: UntrustArguments) -> UntrustView:
        return await self._take_back(arguments.peer)

    async def _take_back(self, peer: str) -> UntrustView:
        daemon = self._daemon
        pin = await daemon.trust.take_back(peer)
        name = host_label(pin.peer)
        why = taken_back(name)
        daemon.machines.forget(pin.peer_id)
        await daemon.links.drop(pin.peer_id, why)
        ended = await daemon.worker.revoke(pin.peer_id, why.code, "the owner took its trust back")
        return UntrustView(
            name=name,
            node_id=pin.peer_id,
            fingerprint=fingerprint(pin.key),
            ended=list(ended),
        )

    @override
    async def setup_check(self, context: Context, arguments: SetupCheckArguments) -> SetupView:
        return await self.wizard.check(context, arguments)

    @override
    async def setup_step(self, context: Context, arguments: SetupStepArguments) -> SetupChangeView:
        return await self.wizard.step(context, arguments)

    @override
    async def setup_undo(self, context: Context, arguments: SetupUndoArguments) -> SetupChangeView:
        return await self.wizard.undo(context, arguments)

    @override
    async def setup_pending(self, context: Context, arguments: NoArguments) -> SetupPendingView:
        return await self.wizard.pending()

    @override
    async def setup_confirm(
        self, context: Context, arguments: SetupConfirmArguments
    ) -> SetupChangeView:
        return await self.wizard.confirm(context, arguments)

    @override
    async def pair(self, context: Context, arguments: PairArguments) -> PairView:
        require_no_task(context.pid, "a task cannot pair machines")
        if arguments.step != "stop":
            self._require_person(context.pid, arguments.peer)
        if arguments.step == "begin":
            await self._pair_rules.require(arguments.directory, arguments.runners)
        view = await self._daemon.pairings.step(context.pid, arguments)
        return view.model_copy(update={"cannot_work": self._pair_rules.cannot_work()})

    @override
    async def pair_rules(self, context: Context, arguments: PairRulesArguments) -> PairRulesView:
        require_no_task(context.pid, "a task cannot write rules")
        if arguments.write:
            self._require_person(context.pid, arguments.peer)
        view = await self._pair_rules.add(context.pid, arguments)
        if arguments.write:
            self._daemon.pairings.answered(view.node_id, gives=bool(arguments.directory))
        return view

    @override
    async def unpair(self, context: Context, arguments: UnpairArguments) -> PairRulesView:
        require_no_task(context.pid, "a task cannot change rules")
        return await self._pair_rules.remove(context.pid, arguments)

    @override
    async def delegate(self, context: Context, arguments: DelegateArguments) -> TaskView:
        asked = self._asking.delegate(context, arguments)
        return await traced(self._daemon, context, "delegate", asked)

    @override
    async def fan_out(self, context: Context, arguments: FanOutArguments) -> GroupView:
        asked = self._fan_out.ask(context, arguments)
        return await traced(self._daemon, context, "fan_out", asked)

    @override
    async def get_group(self, context: Context, arguments: GroupArguments) -> GroupView:
        return await self._groups.get(context, arguments)

    @override
    async def cancel_group(self, context: Context, arguments: CancelGroupArguments) -> GroupView:
        return await self._groups.cancel(context, arguments.group, arguments.reason)

    @override
    async def reply_task(self, context: Context, arguments: ReplyArguments) -> TaskView:
        asked = self._asking.reply(context, arguments)
        return await traced(self._daemon, context, "reply_task", asked)

    @override
    async def get_task(self, context: Context, arguments: TaskArguments) -> TaskView:
        task = await self._lookup.task(arguments.task_id)
        task_id = task.record.task_id
        follows = arguments.known_state is not None or arguments.after_event > 0
        known = arguments.known_state or self._lookup.state(task)

        def has_news(now: TaskSnapshot) -> bool:
            if self._lookup.state(now) != known or now.terminal:
                return True
            return follows and now.last_event > arguments.after_event

        task = await self._lookup.until(task_id, has_news, arguments.wait_s)
        if follows:
            events = await self._daemon.store.events(
                task_id, after=arguments.after_event, limit=arguments.events
            )
        else:
            events = await self._daemon.store.last_events(task_id, arguments.events)
        self._daemon.twins.told(context.session, [task])
        view = await self._lookup.view(task)
        more: dict[str, object] = {"events": [event_view(event) for event in events]}
        if task.record.direction is Direction.IN and view.state is TaskState.WAITING_APPROVAL:
            more["will_run"] = await self._daemon.worker.will_run(task)
        return view.model_copy(update=more)

    @override
    async def list_tasks(self, context: Context, arguments: TasksArguments) -> TasksView:
        if arguments.group:
            return await self._groups.listed(context, arguments)
        states: tuple[TaskState, ...] | None = None
        if arguments.state == "open":
            states = OPEN_STATES
        elif arguments.state != "any":
            states = (arguments.state,)
        found = await self._daemon.store.tasks(
            direction=None if arguments.direction == "any" else arguments.direction,
            states=states,
            session=context.session if arguments.mine else None,
            limit=arguments.limit + 1,
        )
        self._daemon.twins.told(context.session, found[: arguments.limit])
        views = [await self._lookup.view(task) for task in found[: arguments.limit]]
        return TasksView(tasks=views, more=len(found) > arguments.limit)

    @override
    async def changes(self, context: Context, arguments: ChangesArguments) -> ChangesView:
        return ChangesView(mark=await self._daemon.changes.after(arguments.since, arguments.wait_s))

    @override
    async def find_tasks(self, context: Context, arguments: FindArguments) -> FoundTasksView:
        return await history.find(self._daemon, self._lookup, arguments)

    @override
    async def get_record(self, context: Context, arguments: RecordArguments) -> RecordView:
        return await history.record(self._daemon, self._lookup, arguments)

    @override
    async def figures(self, context: Context, arguments: FiguresArguments) -> FiguresView:
        return await history.figures(self._daemon, arguments)

    @override
    async def get_result(self, context: Context, arguments: ResultArguments) -> ResultView:
        task, store = await self._lookup.task(arguments.task_id), self._daemon.store
        self._daemon.twins.told(context.session, [task])
        if arguments.part == "patch":
            task = await with_released(self._daemon, self._lookup, task, "patch")
        follow_up = await standing(store, task, self._daemon.settings.clock.now())
        return await read_result(store, task, arguments, follow_up, self._daemon.secrets.redactor())

    @override
    async def get_patch(self, context: Context, arguments: PatchArguments) -> PatchFile:
        task = await self._lookup.task(arguments.task_id)
        if task.record.direction is Direction.IN:
            require_no_task(context.pid)  # it may be withheld from whoever asked for it
        task = await with_released(self._daemon, self._lookup, task, "patch")
        return await read_patch(self._daemon.store, task, arguments.offset)

    @override
    async def get_artifact(self, context: Context, arguments: ArtifactArguments) -> ArtifactPiece:
        task = await self._lookup.task(arguments.task_id)
        if task.record.direction is Direction.IN:
            require_no_task(context.pid)
        task = await with_released(self._daemon, self._lookup, task, "artifact", arguments.path)
        return await read_artifact(self._daemon.store, task, arguments)

    @override
    async def check_patch(self, context: Context, arguments: CheckPatchArguments) -> CheckPatchView:
        found = await self.get_patch(context, PatchArguments(task_id=arguments.task_id))
        store = self._daemon.store

        async def whole() -> bytes:
            return await store.read_blob(found.sha256, 0, found.patch.bytes)

        async with self._checking:  # a long one is in memory while it is looked at
            return await check_patch(found, whole, context.project, arguments.directory)

    @override
    async def cancel_task(self, context: Context, arguments: CancelArguments) -> TaskView:
        task = await self._lookup.task(arguments.task_id)
        if task.terminal:
            return await self._lookup.view(task)
        reason = arguments.reason or "cancelled by this machine's owner"
        if task.record.direction is Direction.OUT:
            await self._daemon.caller.cancel(task, reason)
        else:
            await self._daemon.worker.cancel(task, reason)
        return await self._lookup.view(await self._lookup.task(task.record.task_id))

    @override
    async def approve_task(self, context: Context, arguments: ApproveArguments) -> TaskView:
        task = await self._lookup.task(arguments.task_id)
        if state_of(task) is not TaskState.WAITING_APPROVAL or (
            task.record.direction is not Direction.IN
        ):
            raise TaskRefused("the task does not wait for approval here", hint="run `cmesh tasks`")
        approved = arguments.approve
        if approved:
            require_no_task(context.pid)
        program = answering(context.pid)  # now: it may be gone before the answer is committed
        try:
            await self._daemon.worker.approve(task, yes=approved, reason=arguments.reason)
        except LocalProtocolError as error:
            raise TaskRefused("the task does not wait for approval any more") from error
        row = answered(task.record.task_id, context.pid, program, yes=approved)
        await guarded(self._daemon.store.commit([row]))  # the answer stands without it
        # Its caller is asked whether it still wants it, so it is called if it is away.
        self._daemon.links.want(task.record.peer_id)
        return await self._lookup.view(await self._lookup.task(task.record.task_id))

    @override
    async def release(self, context: Context, arguments: ReleaseArguments) -> ReleaseView:
        require_no_task(context.pid, "a task cannot release what is withheld")
        return await releasing.release(self._daemon, self._lookup, context.pid, arguments)

    @override
    async def forget(self, context: Context, arguments: ForgetArguments) -> ForgetView:
        require_no_task(context.pid, "a task cannot have anything forgotten")
        return await forgetting.forget(self._daemon, self._lookup, context.pid, arguments)

    @override
    async def compact_store(self, context: Context, arguments: NoArguments) -> CompactView:
        require_no_task(context.pid, "a task cannot compact the store")
        return await forgetting.compact(self._daemon)

    @override
    async def sql(self, context: Context, arguments: SqlArguments) -> SqlView:
        if arguments.peers:
            return await self._fleet.ask(arguments)
        rows = await self._daemon.store.sql(arguments.sql, arguments.parameters, arguments.limit)
        return SqlView.of(rows)

    @override
    async def explain(self, context: Context, arguments: ExplainArguments) -> DecisionView:
        await self._daemon.presence.rising()
        project = arguments.project or context.project
        return await overview.explain(self._daemon, arguments, project)

    @override
    async def review_policy(self, context: Context, arguments: ReviewArguments) -> PolicyReview:
        await self._daemon.presence.rising()
        return await review(self._daemon, arguments)

    @override
    async def list_runners(self, context: Context, arguments: NoArguments) -> RunnersView:
        return await runner_views.runners(self._daemon)

    @override
    async def check_runner(self, context: Context, arguments: RunnerArguments) -> CheckView:
        return await runner_views.check(self._daemon, arguments.name)

    @override
    async def new_runner(self, context: Context, arguments: NewRunnerArguments) -> NewRunnerView:
        require_no_task(context.pid, "a task cannot write a runner's manifest")
        return await runner_files.new(self._daemon, context, arguments)

    @override
    async def keep_login(self, context: Context, arguments: LoginArguments) -> LoginView:
        require_no_task(context.pid, "a task cannot log a runner in")
        return await runner_logins.keep(self._daemon, arguments.name)

    @override
    async def drop_login(self, context: Context, arguments: LoginArguments) -> LoginView:
        require_no_task(context.pid, "a task cannot log a runner out")
        return await runner_logins.drop(self._daemon, arguments.name)

    @override
    async def test_runner(self, context: Context, arguments: LiveRunArguments) -> LiveRunView:
        require_no_task(context.pid, "a task cannot test a runner")
        return await self._live_tests.run(context, arguments)

    @override
    async def diagnose(self, context: Context, arguments: NoArguments) -> DiagnosisView:
        return await diagnose(self._daemon)

    @override
    async def login(self, context: Context, arguments: NoArguments) -> StatusView:
        if not self._daemon.configured:
            file = self._daemon.settings.config_file
            raise ConfigError(f"there is no configuration at `{file}`", hint="run `cmesh up`")
        await self._daemon.presence.login()
        return await overview.status(self._daemon)

    @override
    async def down(self, context: Context, arguments: NoArguments) -> StatusView:
        view = await overview.status(self._daemon)
        self._stop()
        return view

    @override
    async def copy_store(self, context: Context, arguments: CopyArguments) -> CopyView:
        if arguments.export_to:
            by = {"pid": context.pid, "program": program_of(context.pid)}
            await self._daemon.store.export_begun(arguments.export_to, by)
        directory = await self._daemon.store.copy()
        return CopyView(
            directory=str(directory),
            version=__version__,
            pid=os.getpid(),
            agents=self._agents(),
        )

    @override
    async def ask_proof(self, context: Context, arguments: ProofArguments) -> ProofView:
        await self._daemon.presence.rising()
        return await ask_proof(self._daemon, arguments)

    @override
    async def hand_over(self, context: Context, arguments: NoArguments) -> StatusView:
        view = await overview.status(self._daemon)
        self._hand_over()
        return view

    def _require_person(self, pid: int, peer: str) -> None:
        """Refuse a step of a pairing that no person takes; it shows on stderr, for `--json`."""
        command = f"cmesh pair {peer}".rstrip()
        require_person(pid, self.wizard.agents, command=command, terminals=(0, 2))
