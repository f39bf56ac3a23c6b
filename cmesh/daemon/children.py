"""The operations of a running task that may delegate: its own children, and nothing else.

What it asks for is narrowed and judged like everything else; what it may see of this node is
what it needs for that. Nothing here reads a task that another one has asked for.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from typing_extensions import override

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
from cmesh.daemon.chains import CHILDREN_MOST, Parent, children_of, parent, session_of
from cmesh.daemon.changes import ChangesArguments, ChangesView
from cmesh.daemon.core import Daemon
from cmesh.daemon.diagnosis_answers import DiagnosisView
from cmesh.daemon.file_answers import ArtifactPiece, PatchFile, ReleaseView
from cmesh.daemon.forget_calls import CompactView, ForgetArguments, ForgetView
from cmesh.daemon.history_calls import (
    FiguresArguments,
    FiguresView,
    FindArguments,
    FoundTasksView,
    RecordArguments,
    RecordView,
)
from cmesh.daemon.lookup import Lookup
from cmesh.daemon.operations import Operations
from cmesh.daemon.pair_calls import (
    PairArguments,
    PairRulesArguments,
    PairRulesView,
    PairView,
    UnpairArguments,
)
from cmesh.daemon.patch_answers import CheckPatchView
from cmesh.daemon.proof_calls import ProofArguments, ProofView
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
from cmesh.errors import QueueFull, TaskNotFound, TaskRefused, UsageError
from cmesh.model import Direction, Profile, TaskId
from cmesh.policy.chain import at_most

__all__ = ["Children"]


class Children(Operations):
    """What one task may ask of its daemon. The context of a call says nothing: the task's counts."""

    def __init__(self, daemon: Daemon, operations: Operations, task_id: TaskId) -> None:
        """Serve `task_id`; `operations` are those of the whole daemon."""
        self._daemon = daemon
        self._whole = operations
        self._task_id = task_id
        self._asking = Asking(daemon, Lookup(daemon))
        self._handing_on = asyncio.Lock()

    @override
    async def list_peers(self, context: Context, arguments: NoArguments) -> PeersView:
        asker = await self._parent()
        view = await self._whole.list_peers(self._context(asker), arguments)
        peers = [_narrowed(peer, asker) for peer in view.peers if peer.node_id not in asker.chain]
        return PeersView(peers=[peer for peer in peers if peer.trust == "trusted"])

    @override
    async def setup_check(self, context: Context, arguments: SetupCheckArguments) -> SetupView:
        raise _refused()

    @override
    async def setup_step(self, context: Context, arguments: SetupStepArguments) -> SetupChangeView:
        raise _refused()

    @override
    async def setup_undo(self, context: Context, arguments: SetupUndoArguments) -> SetupChangeView:
        raise _refused()

    @override
    async def setup_pending(self, context: Context, arguments: NoArguments) -> SetupPendingView:
        raise _refused()

    @override
    async def setup_confirm(
        self, context: Context, arguments: SetupConfirmArguments
    ) -> SetupChangeView:
        raise _refused()

    @override
    async def delegate(self, context: Context, arguments: DelegateArguments) -> TaskView:
        if arguments.where:
            raise UsageError(
                "a task names the peer it asks", hint="list_peers() has those it may ask"
            )
        asker = await self._parent()
        return await self._asking.delegate(self._context(asker), arguments, self._turn)

    @override
    async def get_task(self, context: Context, arguments: TaskArguments) -> TaskView:
        own = arguments.model_copy(update={"task_id": await self._own(arguments.task_id)})
        return await self._whole.get_task(self._context(), own)

    @override
    async def list_tasks(self, context: Context, arguments: TasksArguments) -> TasksView:
        own = arguments.model_copy(update={"mine": True, "direction": Direction.OUT})
        view = await self._whole.list_tasks(self._context(), own)
        children = await children_of(self._daemon.store, self._task_id)
        ids = {child.record.task_id for child in children}
        return TasksView(tasks=[task for task in view.tasks if task.task_id in ids], more=view.more)

    @override
    async def get_result(self, context: Context, arguments: ResultArguments) -> ResultView:
        own = arguments.model_copy(update={"task_id": await self._own(arguments.task_id)})
        return await self._whole.get_result(self._context(), own)

    @override
    async def cancel_task(self, context: Context, arguments: CancelArguments) -> TaskView:
        reason = arguments.reason or "cancelled by the task that asked for it"
        own = {"task_id": await self._own(arguments.task_id), "reason": reason}
        return await self._whole.cancel_task(self._context(), arguments.model_copy(update=own))

    @override
    async def changes(self, context: Context, arguments: ChangesArguments) -> ChangesView:
        raise _refused()

    @override
    async def find_tasks(self, context: Context, arguments: FindArguments) -> FoundTasksView:
        raise _refused()

    @override
    async def get_record(self, context: Context, arguments: RecordArguments) -> RecordView:
        raise _refused()

    @override
    async def figures(self, context: Context, arguments: FiguresArguments) -> FiguresView:
        raise _refused()

    @override
    async def get_patch(self, context: Context, arguments: PatchArguments) -> PatchFile:
        raise _refused()  # a task reads a patch as text, by `get_result`

    @override
    async def get_artifact(self, context: Context, arguments: ArtifactArguments) -> ArtifactPiece:
        raise _refused()  # its sandbox has no place where this machine's owner would look for it

    @override
    async def check_patch(self, context: Context, arguments: CheckPatchArguments) -> CheckPatchView:
        raise _refused()  # it has a copy of its own, and no tree of this machine's owner

    @override
    async def status(self, context: Context, arguments: NoArguments) -> StatusView:
        raise _refused()

    @override
    async def trust_peer(self, context: Context, arguments: TrustArguments) -> PeerView:
        raise _refused()

    @override
    async def untrust_peer(self, context: Context, arguments: UntrustArguments) -> UntrustView:
        raise _refused()

    @override
    async def pair(self, context: Context, arguments: PairArguments) -> PairView:
        raise _refused()

    @override
    async def pair_rules(self, context: Context, arguments: PairRulesArguments) -> PairRulesView:
        raise _refused()

    @override
    async def unpair(self, context: Context, arguments: UnpairArguments) -> PairRulesView:
        raise _refused()

    @override
    async def fan_out(self, context: Context, arguments: FanOutArguments) -> GroupView:
        raise UsageError("a task asks one peer at a time", hint="call delegate for each peer")

    @override
    async def get_group(self, context: Context, arguments: GroupArguments) -> GroupView:
        raise _refused()

    @override
    async def cancel_group(self, context: Context, arguments: CancelGroupArguments) -> GroupView:
        raise _refused()

    @override
    async def reply_task(self, context: Context, arguments: ReplyArguments) -> TaskView:
        raise _refused()

    @override
    async def approve_task(self, context: Context, arguments: ApproveArguments) -> TaskView:
        raise _refused()

    @override
    async def release(self, context: Context, arguments: ReleaseArguments) -> ReleaseView:
        raise _refused()  # what a secret withholds is the owner's to give away

    @override
    async def forget(self, context: Context, arguments: ForgetArguments) -> ForgetView:
        raise _refused()

    @override
    async def compact_store(self, context: Context, arguments: NoArguments) -> CompactView:
        raise _refused()

    @override
    async def sql(self, context: Context, arguments: SqlArguments) -> SqlView:
        raise _refused()

    @override
    async def explain(self, context: Context, arguments: ExplainArguments) -> DecisionView:
        raise _refused()

    @override
    async def review_policy(self, context: Context, arguments: ReviewArguments) -> PolicyReview:
        raise _refused()

    @override
    async def list_runners(self, context: Context, arguments: NoArguments) -> RunnersView:
        raise _refused()

    @override
    async def check_runner(self, context: Context, arguments: RunnerArguments) -> CheckView:
        raise _refused()

    @override
    async def new_runner(self, context: Context, arguments: NewRunnerArguments) -> NewRunnerView:
        raise _refused()

    @override
    async def keep_login(self, context: Context, arguments: LoginArguments) -> LoginView:
        raise _refused()

    @override
    async def drop_login(self, context: Context, arguments: LoginArguments) -> LoginView:
        raise _refused()

    @override
    async def test_runner(self, context: Context, arguments: LiveRunArguments) -> LiveRunView:
        raise _refused()

    @override
    async def diagnose(self, context: Context, arguments: NoArguments) -> DiagnosisView:
        raise _refused()

    @override
    async def login(self, context: Context, arguments: NoArguments) -> StatusView:
        raise _refused()

    @override
    async def down(self, context: Context, arguments: NoArguments) -> StatusView:
        raise _refused()

    @override
    async def copy_store(self, context: Context, arguments: CopyArguments) -> CopyView:
        raise _refused()

    @override
    async def ask_proof(self, context: Context, arguments: ProofArguments) -> ProofView:
        raise _refused()

    @override
    async def hand_over(self, context: Context, arguments: NoArguments) -> StatusView:
        raise _refused()

    async def _parent(self) -> Parent:
        return await parent(self._daemon.parts, self._task_id)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncGenerator[Parent]:
        """Hold everything that this task may have left, until one more task is asked for.

        Raises:
            QueueFull: it has asked for as many as it may.
        """
        async with self._handing_on:
            asker = await self._parent()
            asked = len(await children_of(self._daemon.store, self._task_id))
            if asked >= CHILDREN_MOST:
                why = f"this task has asked for {asked} tasks, which is the most"
                raise QueueFull(why, hint="")
            yield asker

    def _context(self, asker: Parent | None = None) -> Context:
        project = asker.directory if asker is not None else ""
        return Context(session=session_of(self._task_id), project=project, agent="task")

    async def _own(self, reference: str) -> TaskId:
        """Return the id of the child that a reference stands for.

        Raises:
            TaskNotFound: none, or several; the same for a task of somebody else.
        """
        children = [
            child.record.task_id for child in await children_of(self._daemon.store, self._task_id)
        ]
        found = [one for one in children if one.startswith(reference) or one.endswith(reference)]
        if len(found) != 1:
            raise TaskNotFound(f"this task has asked for no task `{reference}`")
        return found[0]


def _narrowed(peer: PeerView, asker: Parent) -> PeerView:
    """Return a peer with what both it and the task's own rights leave; no addresses, no keys."""
    held = asker.held
    return PeerView(
        name=peer.name,
        node_id=peer.node_id,
        online=peer.online,
        link=peer.link,
        trust=peer.trust,
        may_ask=[name for name in peer.may_ask if at_most(Profile(name), held.profile)],
        runners=[name for name in peer.runners if name in held.runners],
        paths=peer.paths,
    )


def _refused() -> TaskRefused:
    return TaskRefused("a task may not ask for this", hint="")
