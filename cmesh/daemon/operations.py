"""The operations every interface calls; `arguments` and `answers` are what goes in and out.

The CLI, the MCP server and the control socket know the daemon only through
`Operations`.
"""

from typing import Protocol

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
from cmesh.daemon.changes import ChangesArguments, ChangesView
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

__all__ = [
    "Operations",
]


class Operations(Protocol):
    """The daemon's operations. All raise `CmeshError`; none blocks the event loop.

    A cancelled call never cancels a task.
    """

    async def status(self, context: Context, arguments: NoArguments) -> StatusView:
        """Return what this daemon is and does; never fails because the node is down."""
        ...

    async def list_peers(self, context: Context, arguments: NoArguments) -> PeersView:
        """Return the tailnet's nodes with link, trust and what may be asked of them."""
        ...

    async def trust_peer(self, context: Context, arguments: TrustArguments) -> PeerView:
        """Pin the cmesh key a peer has shown; audited."""
        ...

    async def untrust_peer(self, context: Context, arguments: UntrustArguments) -> UntrustView:
        """Take a trusted key back: audited, its link dropped, its tasks treated as revoked."""
        ...

    async def setup_check(self, context: Context, arguments: SetupCheckArguments) -> SetupView:
        """Return what this machine is, which steps of the wizard are done, and the next call."""
        ...

    async def setup_step(self, context: Context, arguments: SetupStepArguments) -> SetupChangeView:
        """Plan a step; nothing is changed before a person confirms it. Never for a task."""
        ...

    async def setup_undo(self, context: Context, arguments: SetupUndoArguments) -> SetupChangeView:
        """Take an applied step back; what would widen anything waits for a person."""
        ...

    async def setup_pending(self, context: Context, arguments: NoArguments) -> SetupPendingView:
        """Return the change that waits for a person, whole, for the terminal that shows it."""
        ...

    async def setup_confirm(
        self, context: Context, arguments: SetupConfirmArguments
    ) -> SetupChangeView:
        """Apply or drop the change that was shown, by a person at a terminal; audited."""
        ...

    async def pair(self, context: Context, arguments: PairArguments) -> PairView:
        """Take one step of a pairing; for a person at a terminal, never for a task.

        The answer may hold a code: no MCP tool leads here.
        """
        ...

    async def pair_rules(self, context: Context, arguments: PairRulesArguments) -> PairRulesView:
        """Show the narrow rules that a paired peer would get, and write them; audited."""
        ...

    async def unpair(self, context: Context, arguments: UnpairArguments) -> PairRulesView:
        """Take out the rules that pairings with a peer have written, and nothing else; audited."""
        ...

    async def delegate(self, context: Context, arguments: DelegateArguments) -> TaskView:
        """Decide outbound, store the task, then submit it; waits up to `wait_s` for its end."""
        ...

    async def fan_out(self, context: Context, arguments: FanOutArguments) -> GroupView:
        """Ask several peers for a task each, as `delegate` asks one; waits for all their ends."""
        ...

    async def get_group(self, context: Context, arguments: GroupArguments) -> GroupView:
        """Return the tasks of a group, waiting up to `wait_s` for one more end."""
        ...

    async def cancel_group(self, context: Context, arguments: CancelGroupArguments) -> GroupView:
        """Store the wish to cancel each task of a group that goes on; as `cancel_task`."""
        ...

    async def reply_task(self, context: Context, arguments: ReplyArguments) -> TaskView:
        """Ask for another turn of an ended task's conversation, as `delegate` asks for a task."""
        ...

    async def get_task(self, context: Context, arguments: TaskArguments) -> TaskView:
        """Return a task, waiting up to `wait_s` for a change of state or a new event."""
        ...

    async def list_tasks(self, context: Context, arguments: TasksArguments) -> TasksView:
        """Return tasks, newest first."""
        ...

    async def changes(self, context: Context, arguments: ChangesArguments) -> ChangesView:
        """Return a mark once anything that is shown has changed, waiting up to `wait_s`."""
        ...

    async def find_tasks(self, context: Context, arguments: FindArguments) -> FoundTasksView:
        """Return tasks of any age by what is asked of them, newest first, in pages."""
        ...

    async def get_record(self, context: Context, arguments: RecordArguments) -> RecordView:
        """Return a task's states, facts and decisions, and check the signatures on its end."""
        ...

    async def figures(self, context: Context, arguments: FiguresArguments) -> FiguresView:
        """Return how many tasks were asked for, taken and ended since a moment, and their bill."""
        ...

    async def get_result(self, context: Context, arguments: ResultArguments) -> ResultView:
        """Return a slice of a finished task's result."""
        ...

    async def get_patch(self, context: Context, arguments: PatchArguments) -> PatchFile:
        """Return the bytes of a finished task's patch, for this machine's owner to apply."""
        ...

    async def get_artifact(self, context: Context, arguments: ArtifactArguments) -> ArtifactPiece:
        """Return bytes of a file that a finished task handed over; none = its end."""
        ...

    async def check_patch(self, context: Context, arguments: CheckPatchArguments) -> CheckPatchView:
        """Say whether a finished task's patch would apply in the asking project; changes nothing."""
        ...

    async def cancel_task(self, context: Context, arguments: CancelArguments) -> TaskView:
        """Store the wish to cancel, then pass it on; the answer is the task, not the end."""
        ...

    async def approve_task(self, context: Context, arguments: ApproveArguments) -> TaskView:
        """Let a waiting inbound task run, or refuse it."""
        ...

    async def release(self, context: Context, arguments: ReleaseArguments) -> ReleaseView:
        """Return what of a task worked on here is withheld, and release what is named of it.

        For this machine's owner alone, never for a task; audited.
        """
        ...

    async def forget(self, context: Context, arguments: ForgetArguments) -> ForgetView:
        """Return tasks whose texts can be erased, and erase them when that is confirmed.

        Raises:
            UsageError: nothing is named, or what matches is not what was shown.
            TaskRefused: the caller is a task, or the one named is open or forgotten.
            UnknownPeer: no task is of that peer.
            StoreError: nothing was written down.
        """
        ...

    async def compact_store(self, context: Context, arguments: NoArguments) -> CompactView:
        """Write the database anew, without what was erased.

        Raises:
            TaskRefused: the caller is a task.
            DiskFull: there is no room for a second copy.
            StoreError: it failed; the store is as it was.
        """
        ...

    async def sql(self, context: Context, arguments: SqlArguments) -> SqlView:
        """Run one SELECT in the confined query process; sees everything committed before."""
        ...

    async def explain(self, context: Context, arguments: ExplainArguments) -> DecisionView:
        """Decide a hypothetical request with today's rules; nothing is stored or sent."""
        ...

    async def review_policy(self, context: Context, arguments: ReviewArguments) -> PolicyReview:
        """Return the rules in words, and who may do what in one directory here by them."""
        ...

    async def list_runners(self, context: Context, arguments: NoArguments) -> RunnersView:
        """Return every runner as it acts here."""
        ...

    async def check_runner(self, context: Context, arguments: RunnerArguments) -> CheckView:
        """Look at one runner and run its self-test, which takes up to a minute."""
        ...

    async def new_runner(self, context: Context, arguments: NewRunnerArguments) -> NewRunnerView:
        """Write a manifest for the owner to edit; for the owner alone, never for a task."""
        ...

    async def keep_login(self, context: Context, arguments: LoginArguments) -> LoginView:
        """Take what a runner's own login has left in its home; for the owner alone."""
        ...

    async def drop_login(self, context: Context, arguments: LoginArguments) -> LoginView:
        """Delete the login of a runner's account; for the owner alone."""
        ...

    async def test_runner(self, context: Context, arguments: LiveRunArguments) -> LiveRunView:
        """Ask a runner's own model for one word; costs money, and takes up to 75 seconds."""
        ...

    async def diagnose(self, context: Context, arguments: NoArguments) -> DiagnosisView:
        """Return the node's own warnings, and how each near peer is reached; takes some seconds."""
        ...

    async def login(self, context: Context, arguments: NoArguments) -> StatusView:
        """Start a login and return as soon as a URL is known or the node is up."""
        ...

    async def down(self, context: Context, arguments: NoArguments) -> StatusView:
        """Stop the daemon after this answer; running tasks go on under their shims."""
        ...

    async def copy_store(self, context: Context, arguments: CopyArguments) -> CopyView:
        """Copy the store's database, as it is now; that it is exported is written down first."""
        ...

    async def ask_proof(self, context: Context, arguments: ProofArguments) -> ProofView:
        """Ask a peer what it holds of this log, or what its own says; one page, some seconds."""
        ...

    async def hand_over(self, context: Context, arguments: NoArguments) -> StatusView:
        """Stop after this answer, as `down` does, for another daemon to follow at once.

        Peers are told so, and keep trying.
        """
        ...
