"""An in-memory daemon for interface tests: two peers, tasks that the test drives.

`worker` takes tasks below `/srv`; `gone` is known but never answers. Ids and
times are the same in every run. Only waits use the loop's real time.
"""

import asyncio
import base64
import difflib
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from typing_extensions import override

from cmesh.daemon.answers import (
    ConditionView,
    CopyView,
    DecisionView,
    EventView,
    GroupView,
    PeersView,
    PeerView,
    RefusedView,
    ResultView,
    SqlView,
    StatusView,
    TasksView,
    TaskView,
    UntrustView,
    WillRunView,
)
from cmesh.daemon.arguments import (
    ApproveArguments,
    Arguments,
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
from cmesh.daemon.asking import DERIVED_KEY
from cmesh.daemon.changes import ChangesArguments, ChangesView
from cmesh.daemon.diagnosis_answers import DiagnosisView, PathView
from cmesh.daemon.file_answers import (
    ArtifactPiece,
    PatchFile,
    PatchView,
    ReleaseView,
)
from cmesh.daemon.forget_calls import CompactView, ForgetArguments, ForgetView
from cmesh.daemon.history_calls import (
    DecidedView,
    FiguresArguments,
    FiguresView,
    FindArguments,
    FoundTasksView,
    RecordArguments,
    RecordView,
    SignatureView,
    StepView,
)
from cmesh.daemon.operations import Operations
from cmesh.daemon.pair_calls import (
    PairArguments,
    PairRulesArguments,
    PairRulesView,
    PairRuleView,
    PairView,
    UnpairArguments,
)
from cmesh.daemon.patch_answers import CheckPatchView
from cmesh.daemon.proof_calls import ProofArguments, ProofView
from cmesh.daemon.review_calls import (
    CellView,
    MayView,
    PolicyReview,
    ReviewArguments,
    RuleView,
)
from cmesh.daemon.runner_answers import (
    CheckItem,
    CheckView,
    LiveRunView,
    LoginView,
    NewRunnerView,
    RunnersView,
    RunnerView,
    SelfTestView,
)
from cmesh.daemon.setup_answers import (
    NextView,
    PlanView,
    SetupChangeView,
    SetupPendingView,
    SetupStepView,
    SetupView,
)
from cmesh.daemon.setup_arguments import (
    SetupCheckArguments,
    SetupConfirmArguments,
    SetupStepArguments,
    SetupUndoArguments,
)
from cmesh.errors import (
    PeerUnreachable,
    TaskConflict,
    TaskNotFound,
    TaskRefused,
    TaskUnfinished,
    UnknownPeer,
)
from cmesh.model import ENDED, TERMINAL, Direction, Profile, TaskState
from cmesh.protocol.proof_messages import ProofAnswer
from cmesh.question import question_in

__all__ = ["FIRST_TASK", "GROUP", "FakeOperations"]

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
GROUP = "g-0123456789abcdef"
FIRST_TASK = "01900000-0000-7000-8000-000000000001"
RULE = "ask the build box"
WITNESSES = {
    TaskState.QUEUED: "the worker committed the row",
    TaskState.RUNNING: "the shim recorded the child",
    TaskState.CANCELLED: "zero processes counted",
    TaskState.DENIED: "the worker's answer",
}
VIEWS: list[list[object]] = [
    ["tasks", "", "", "one row per task"],
    ["tasks", "task_id", "VARCHAR", "made by the caller"],
    ["tasks", "state", "VARCHAR", "the state"],
    ["decisions", "", "", "every policy decision"],
    ["decisions", "effect", "VARCHAR", "allow, ask or deny"],
]


ARTIFACT_PIECE = 4
"""Bytes of a file that one answer holds here."""


class FakeOperations(Operations):
    """Implements `Operations`; drive tasks with `hold`, `start`, `emit`, `finish`.

    Attributes:
        calls: every call so far: name, context, arguments.
        check: what `check_patch` answers; None = that it would apply.
        failures: name of an operation -> the error its next calls raise.
        pending: what `setup_pending` answers.
        rows: what `sql` answers; None = ids and states of its tasks.
        stopped: set by `down`.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Context, Arguments]] = []
        self.check: CheckPatchView | None = None
        self.failures: dict[str, Exception] = {}
        self.rows: SqlView | None = None
        self.pending = SetupPendingView()
        self.stopped = asyncio.Event()
        self.status_view = StatusView(
            version="0.1.0", phase="up", node="laptop", node_id="nLAPTOP", user="me@example.com",
            addresses=["100.64.0.1"], tailnet="example.com", fingerprint="ab12", links=1,
            profiles=["full"], runners=["command:check"], pid=1, store_seq=1,
        )  # fmt: skip
        self.peers = {
            "worker": PeerView(
                name="worker", node_id="nWORKER", user="me@example.com", addresses=["100.64.0.2"],
                online=True, link="connected", trust="trusted", fingerprint="cd34",
                version="0.1.0", may_ask=["query", "full"], runners=["command:check", "claude"],
                paths=["/srv"], operations=["task"], last_contact_s=0.5,
            ),
            "gone": PeerView(name="gone", node_id="nGONE", user="me@example.com", link="down"),
        }  # fmt: skip
        self.runners = RunnersView(
            runners=[
                RunnerView(
                    name="claude", wanted=True, available=True, program="/usr/bin/claude",
                    version="2.1.330", tried="2.1.330 to below 2.2", credential="exposed", takes_key=True,
                    profiles=["query", "full"], argv={"query": ["/usr/bin/claude", "-p"]},
                    hosts=["api.anthropic.com"], env=["ANTHROPIC_API_KEY"], follow_up=True,
                    self_test=SelfTestView(state="passed", at="2026-01-01T00:00:00+00:00"),
                ),
                RunnerView(name="codex", reason="it is not on this machine", hint="install it"),
            ]
        )  # fmt: skip
        self.checks = {
            "claude": CheckView(name="claude", ok=True, items=[CheckItem(what="program", ok=True)]),
            "codex": CheckView(
                name="codex", ok=False,
                items=[CheckItem(what="program", ok=False, found="not here", next="install it")],
            ),
        }  # fmt: skip
        self._tasks: dict[str, TaskView] = {}
        self._events: dict[str, list[EventView]] = {}
        self._sessions: dict[str, str] = {}
        self._keys: dict[str, tuple[str, DelegateArguments]] = {}
        self._texts: dict[str, dict[str, str]] = {}
        self._ticks = 0
        self._changed = asyncio.Event()
        self._moves = 0

    # What a test does to a task.

    def start(self, task_id: str) -> TaskView:
        """Let a queued task run."""
        return self._move(task_id, TaskState.RUNNING, {"started_at": self._now()})

    def hold(self, task_id: str) -> TaskView:
        """Let a task wait for its worker's owner."""
        return self._move(task_id, TaskState.WAITING_APPROVAL, {})

    def ask(self, view: TaskView) -> TaskView:
        """Let another machine have asked for a task here."""
        self._tasks[view.task_id], self._events[view.task_id] = view, []
        self._wake()
        return view

    def knock(self, will_run: WillRunView, prompt: str = "look") -> TaskView:
        """Take in a task of the peer `worker` that waits for this machine's owner."""
        task_id = f"{FIRST_TASK[:-12]}{len(self._tasks) + 1:012d}"
        asked = DelegateArguments(peer="worker", prompt=prompt, directory="/srv/app")
        made = self._new_task(task_id, self.peers["worker"], asked)
        inbound = {"direction": Direction.IN, "will_run": will_run, "known_at": None}
        self.ask(made.model_copy(update=inbound))
        return self._move(
            task_id, TaskState.WAITING_APPROVAL, {"expires_at": EPOCH + timedelta(days=1)}
        )

    def emit(
        self, task_id: str, kind: str, text: str, data: Mapping[str, object] | None = None
    ) -> EventView:
        """Add an event; wakes those who wait for it."""
        events = self._events[task_id]
        event = EventView(
            seq=len(events) + 1, ts=self._now(), kind=kind, text=text, data=dict(data or {})
        )
        events.append(event)
        self._update(task_id, {"last_event": event.seq})
        return event

    def finish(
        self,
        task_id: str,
        state: TaskState = TaskState.SUCCEEDED,
        *,
        text: str = "",
        output: str = "",
        errors: str = "",
    ) -> TaskView:
        """End a task; `text` becomes its summary, the rest the other parts of its result."""
        self._texts[task_id] = {"summary": text, "output": output or text, "errors": errors}
        exit_code = {TaskState.SUCCEEDED: 0, TaskState.FAILED: 1}.get(state)
        fields = {"summary": text, "exit_code": exit_code, "ended_at": self._now()}
        well = state in (TaskState.SUCCEEDED, TaskState.FAILED)
        fields |= {"follow_up": "possible" if well else "", "question": question_in(text)}
        if fields["question"] and state is TaskState.SUCCEEDED:
            state = TaskState.WAITING_INPUT
        ended = {"profile_enforced": "none", "credential": "none", "receipt": "complete"}
        return self._move(task_id, state, {**fields, **ended})

    # What an interface calls.

    @override
    async def status(self, context: Context, arguments: NoArguments) -> StatusView:
        self._called("status", context, arguments)
        return self.status_view

    @override
    async def list_peers(self, context: Context, arguments: NoArguments) -> PeersView:
        self._called("list_peers", context, arguments)
        return PeersView(peers=list(self.peers.values()))

    @override
    async def trust_peer(self, context: Context, arguments: TrustArguments) -> PeerView:
        self._called("trust_peer", context, arguments)
        peer = self._peer(arguments.peer)
        self.peers[peer.name] = peer.model_copy(update={"trust": "trusted"})
        return self.peers[peer.name]

    @override
    async def untrust_peer(self, context: Context, arguments: UntrustArguments) -> UntrustView:
        self._called("untrust_peer", context, arguments)
        peer = self._peer(arguments.peer)
        self.peers[peer.name] = peer.model_copy(update={"trust": "unknown"})
        return UntrustView(
            name=peer.name, node_id=peer.node_id, fingerprint=peer.fingerprint, ended=[]
        )

    @override
    async def setup_check(self, context: Context, arguments: SetupCheckArguments) -> SetupView:
        self._called("setup_check", context, arguments)
        return SetupView(
            os="linux", arch="x86_64", host="laptop", phase="setup", config_file="/c/config.toml",
            steps=[SetupStepView(name="machine", done=False, what="no configuration yet")],
            next=NextView(tool="setup_step", arguments={"step": "machine", "name": "laptop"}),
        )  # fmt: skip

    @override
    async def setup_step(self, context: Context, arguments: SetupStepArguments) -> SetupChangeView:
        self._called("setup_step", context, arguments)
        plan = PlanView(
            plan_id="s-00000001", step=arguments.step, title="set this machine up",
            state="waiting", file="/c/config.toml", diff="+[node]\n", effects=["starts a node"],
            widens=[] if arguments.step == "agents" else ["[node] changes"], expires_at=EPOCH,
        )  # fmt: skip
        self.pending = SetupPendingView(plan=plan, sha256="0" * 64)
        waits = NextView(tool="setup_check", arguments={"wait_s": 20}, user="run `cmesh confirm`")
        return SetupChangeView(plan=plan, next=waits)

    @override
    async def setup_undo(self, context: Context, arguments: SetupUndoArguments) -> SetupChangeView:
        self._called("setup_undo", context, arguments)
        plan = PlanView(step="peer", title="take back: ask `worker`", state="applied")
        return SetupChangeView(plan=plan, next=NextView(tool="setup_check"))

    @override
    async def setup_pending(self, context: Context, arguments: NoArguments) -> SetupPendingView:
        self._called("setup_pending", context, arguments)
        return self.pending

    @override
    async def setup_confirm(
        self, context: Context, arguments: SetupConfirmArguments
    ) -> SetupChangeView:
        self._called("setup_confirm", context, arguments)
        self.pending = SetupPendingView()
        state = "applied" if arguments.accept else "declined"
        plan = PlanView(step="machine", title="set this machine up", state=state)
        return SetupChangeView(plan=plan, next=NextView(tool="setup_check"))

    @override
    async def pair(self, context: Context, arguments: PairArguments) -> PairView:
        self._called("pair", context, arguments)
        peer = self._peer(arguments.peer)
        return PairView(peer=peer.name, node_id=peer.node_id, phase="showing", code="012345")

    @override
    async def pair_rules(self, context: Context, arguments: PairRulesArguments) -> PairRulesView:
        self._called("pair_rules", context, arguments)
        peer = self._peer(arguments.peer)
        rules = [PairRuleView(direction="outbound", name=f"pair: ask {peer.name}")]
        return PairRulesView(peer=peer.name, node_id=peer.node_id, file="/config", rules=rules)

    @override
    async def unpair(self, context: Context, arguments: UnpairArguments) -> PairRulesView:
        self._called("unpair", context, arguments)
        peer = self._peer(arguments.peer)
        return PairRulesView(peer=peer.name, node_id=peer.node_id, file="/config")

    @override
    async def delegate(self, context: Context, arguments: DelegateArguments) -> TaskView:
        self._called("delegate", context, arguments)
        peer = self._peer(arguments.peer)
        known = self._duplicate(context, arguments)
        if known:
            view = self._tasks[known]
            return view.model_copy(update={"duplicate_of": known, "events": []})
        if not peer.online:
            raise PeerUnreachable(f"peer `{peer.name}` does not answer")
        task_id = f"{FIRST_TASK[:-12]}{len(self._tasks) + 1:012d}"
        self._tasks[task_id] = self._new_task(task_id, peer, arguments)
        self._events[task_id] = []
        self._sessions[task_id] = context.session
        if arguments.idempotency_key:
            self._keys[arguments.idempotency_key] = (task_id, arguments)
        self._wake()
        await self._until(arguments.wait_s, lambda: self._tasks[task_id].state in ENDED)
        return self._tasks[task_id]

    @override
    async def reply_task(self, context: Context, arguments: ReplyArguments) -> TaskView:
        self._called("reply_task", context, arguments)
        before = self._tasks[self._find(arguments.task_id)]
        if before.state not in ENDED:
            raise TaskUnfinished(f"task `{before.task_id}` has not ended")
        if before.followed_by:
            raise TaskConflict(f"task `{before.task_id}` is followed by `{before.followed_by}`")
        task_id = f"{FIRST_TASK[:-12]}{len(self._tasks) + 1:012d}"
        fields = {
            "task_id": task_id, "state": TaskState.QUEUED, "prompt": arguments.prompt,
            "witness": WITNESSES[TaskState.QUEUED], "follows": before.task_id, "follow_up": "",
            "turn": before.turn + 1, "thread": before.thread or before.task_id, "summary": "",
            "created_at": self._now(), "ended_at": None, "exit_code": None, "last_event": 0,
        }  # fmt: skip
        self._tasks[task_id] = before.model_copy(update=fields)
        self._events[task_id] = []
        self._sessions[task_id] = context.session
        followed = {"followed_by": task_id, "follow_up": "followed", "question": ""}
        if before.state is TaskState.WAITING_INPUT:
            followed["state"] = TaskState.SUCCEEDED
        self._update(before.task_id, followed)
        await self._until(arguments.wait_s, lambda: self._tasks[task_id].state in ENDED)
        return self._tasks[task_id]

    @override
    async def get_task(self, context: Context, arguments: TaskArguments) -> TaskView:
        self._called("get_task", context, arguments)
        task_id = self._find(arguments.task_id)
        seen = arguments.known_state or self._tasks[task_id].state
        after = arguments.after_event

        def news() -> bool:
            view = self._tasks[task_id]
            return view.state in ENDED or view.state != seen or view.last_event > after

        await self._until(arguments.wait_s, news)
        fresh = [event for event in self._events[task_id] if event.seq > after]
        page = fresh[: arguments.events]
        return self._tasks[task_id].model_copy(update={"events": page})

    @override
    async def list_tasks(self, context: Context, arguments: TasksArguments) -> TasksView:
        self._called("list_tasks", context, arguments)
        wanted = [
            view
            for task_id, view in reversed(self._tasks.items())
            if _in_state(view, arguments.state)
            and arguments.direction in ("any", view.direction)
            and (not arguments.mine or self._sessions[task_id] == context.session)
        ]
        return TasksView(tasks=wanted[: arguments.limit], more=len(wanted) > arguments.limit)

    @override
    async def changes(self, context: Context, arguments: ChangesArguments) -> ChangesView:
        self._called("changes", context, arguments)
        await self._until(arguments.wait_s, lambda: self._mark() != arguments.since)
        return ChangesView(mark=self._mark())

    @override
    async def find_tasks(self, context: Context, arguments: FindArguments) -> FoundTasksView:
        self._called("find_tasks", context, arguments)
        tasks = list(reversed(self._tasks.values()))
        if arguments.before:
            at = [view.task_id for view in tasks].index(self._find(arguments.before))
            tasks = tasks[at + 1 :]
        wanted = [
            view
            for view in tasks
            if _in_state(view, arguments.state)
            and arguments.direction in ("any", view.direction)
            and arguments.peer in ("", view.peer, view.node_id)
            and arguments.runner in ("", view.runner)
            and arguments.text.lower() in view.prompt.lower()
            and (arguments.since is None or view.created_at >= arguments.since)
            and (arguments.until is None or view.created_at < arguments.until)
        ]
        shown, more = wanted[: arguments.limit], len(wanted) > arguments.limit
        return FoundTasksView(tasks=shown, older=shown[-1].task_id if more else "")

    @override
    async def get_record(self, context: Context, arguments: RecordArguments) -> RecordView:
        self._called("get_record", context, arguments)
        view = self._tasks[self._find(arguments.task_id)]
        steps = [StepView(seq=1, ts=view.created_at, kind="state", name="queued", witness="row")]
        if view.ended_at is not None:
            steps += [StepView(seq=9, ts=view.ended_at, kind="state", name=view.state.value)]
        decided = DecidedView(
            seq=1, ts=view.created_at, operation="task", effect="allow", rule=RULE
        )
        checked = [
            SignatureView(by="worker", signer="worker", state="fits", key="cd34"),
            SignatureView(by="caller", signer="this machine", state="fits", key="ab12"),
        ]
        signatures = checked if arguments.check and view.ended_at is not None else []
        return RecordView(
            task_id=view.task_id, steps=steps, decisions=[decided], signatures=signatures
        )

    @override
    async def figures(self, context: Context, arguments: FiguresArguments) -> FiguresView:
        self._called("figures", context, arguments)
        ended: dict[str, int] = {}
        for view in self._tasks.values():
            if view.state in ENDED:
                ended[view.state.value] = ended.get(view.state.value, 0) + 1
        return FiguresView(asked=len(self._tasks), ended=ended, cost_usd=0.5, tokens=1_200)

    @override
    async def get_result(self, context: Context, arguments: ResultArguments) -> ResultView:
        self._called("get_result", context, arguments)
        view = self._tasks[self._find(arguments.task_id)]
        if view.state not in ENDED:
            raise TaskRefused(f"task `{view.task_id}` is {view.state}; it has no result yet")
        text = self._texts.get(view.task_id, {}).get(arguments.part, "")
        end = arguments.offset + arguments.limit
        return ResultView(
            follow_up=view.follow_up,
            followed_by=view.followed_by,
            task_id=view.task_id, peer=view.peer, state=view.state, part=arguments.part,
            text=text[arguments.offset : end], offset=arguments.offset, total=len(text),
            next_offset=end if end < len(text) else None,
        )  # fmt: skip

    @override
    async def get_patch(self, context: Context, arguments: PatchArguments) -> PatchFile:
        self._called("get_patch", context, arguments)
        view = self._tasks[self._find(arguments.task_id)]
        if view.state not in ENDED:
            raise TaskRefused(f"task `{view.task_id}` is {view.state}; it has no patch yet")
        data = self._texts.get(view.task_id, {}).get("patch", "").encode()
        return PatchFile(
            task_id=view.task_id,
            sha256=hashlib.sha256(data).hexdigest(),
            data=base64.b64encode(data[arguments.offset :]).decode(),
            patch=view.patch or PatchView(bytes=len(data)),
        )

    @override
    async def get_artifact(self, context: Context, arguments: ArtifactArguments) -> ArtifactPiece:
        self._called("get_artifact", context, arguments)
        view = self._tasks[self._find(arguments.task_id)]
        data = self._texts.get(view.task_id, {}).get(arguments.path, "").encode()
        return ArtifactPiece(
            task_id=view.task_id,
            path=arguments.path,
            sha256=hashlib.sha256(data).hexdigest(),
            total=len(data),
            offset=arguments.offset,
            data=base64.b64encode(data[arguments.offset :][:ARTIFACT_PIECE]).decode(),
        )

    @override
    async def check_patch(self, context: Context, arguments: CheckPatchArguments) -> CheckPatchView:
        self._called("check_patch", context, arguments)
        task_id = self._find(arguments.task_id)
        return self.check or CheckPatchView(task_id=task_id, root="/home/me/app", applies=True)

    @override
    async def fan_out(self, context: Context, arguments: FanOutArguments) -> GroupView:
        self._called("fan_out", context, arguments)
        fields = arguments.model_dump(exclude={"peers", "where", "idempotency_key"})
        for name in arguments.peers or list(self.peers)[:1]:
            if name == "gone":
                continue
            peer, _, path = name.partition(":/")
            place = f"/{path}" if path else arguments.directory
            one = DelegateArguments.model_validate(fields | {"peer": peer, "directory": place})
            view = await self.delegate(context, one)
            self.calls.pop()  # nobody has called it
            self._update(view.task_id, {"group": GROUP})
        return self._group()

    @override
    async def get_group(self, context: Context, arguments: GroupArguments) -> GroupView:
        self._called("get_group", context, arguments)
        if not GROUP.startswith(arguments.group):
            raise TaskNotFound(f"no group `{arguments.group}` is known here")
        return self._group()

    @override
    async def cancel_group(self, context: Context, arguments: CancelGroupArguments) -> GroupView:
        self._called("cancel_group", context, arguments)
        for view in self._group().tasks:
            await self.cancel_task(context, CancelArguments(task_id=view.task_id))
            self.calls.pop()
        return self._group()

    def _group(self) -> GroupView:
        tasks = [view for view in self._tasks.values() if view.group == GROUP]
        ended = sum(view.state in ENDED for view in tasks)
        return GroupView(
            group=GROUP, asked=len(tasks) + 1, ended=ended, done=ended == len(tasks), tasks=tasks,
            succeeded=sum(view.state is TaskState.SUCCEEDED for view in tasks),
            refused=[RefusedView(peer="gone", code="peer_unreachable", reason="it is away")],
        )  # fmt: skip

    @override
    async def cancel_task(self, context: Context, arguments: CancelArguments) -> TaskView:
        self._called("cancel_task", context, arguments)
        view = self._tasks[self._find(arguments.task_id)]
        if view.state in ENDED | {TaskState.UNKNOWN}:
            return view
        return self._move(view.task_id, TaskState.CANCELLING, {"cancel_requested": True})

    @override
    async def approve_task(self, context: Context, arguments: ApproveArguments) -> TaskView:
        self._called("approve_task", context, arguments)
        view = self._tasks[self._find(arguments.task_id)]
        if view.state != TaskState.WAITING_APPROVAL:
            raise TaskRefused(f"task `{view.task_id}` is {view.state}; it waits for nobody")
        state = TaskState.QUEUED if arguments.approve else TaskState.DENIED
        return self._move(view.task_id, state, {"reason": arguments.reason})

    @override
    async def release(self, context: Context, arguments: ReleaseArguments) -> ReleaseView:
        self._called("release", context, arguments)
        view = self._tasks[self._find(arguments.task_id)]
        raise TaskRefused(f"no secret withholds anything of task `{view.task_id}`")

    @override
    async def forget(self, context: Context, arguments: ForgetArguments) -> ForgetView:
        self._called("forget", context, arguments)
        return ForgetView(tasks=[], count=0, rows=0)

    @override
    async def compact_store(self, context: Context, arguments: NoArguments) -> CompactView:
        self._called("compact_store", context, arguments)
        return CompactView(done=True, bytes_before=2, bytes_after=1)

    @override
    async def sql(self, context: Context, arguments: SqlArguments) -> SqlView:
        self._called("sql", context, arguments)
        if "duckdb_columns" in arguments.sql or "information_schema" in arguments.sql:
            return SqlView(
                columns=["view", "column", "type", "means"], types=["VARCHAR"] * 4, rows=VIEWS
            )
        if self.rows is not None:
            return self.rows
        rows: list[list[object]] = [[t.task_id, t.state] for t in self._tasks.values()]
        return SqlView(
            columns=["task_id", "state"], types=["VARCHAR", "VARCHAR"],
            rows=rows[: arguments.limit], truncated=len(rows) > arguments.limit, head_seq=1,
        )  # fmt: skip

    @override
    async def explain(self, context: Context, arguments: ExplainArguments) -> DecisionView:
        self._called("explain", context, arguments)
        self._peer(arguments.peer)
        if _allowed(arguments.directory):
            return DecisionView(effect="allow", rule=RULE)
        return DecisionView(
            effect="deny",
            failed=[
                ConditionView(rule=RULE, condition="path", wanted="/srv", got=arguments.directory)
            ],
            change=f"add `{arguments.directory}` to paths of rule `{RULE}`",
        )

    @override
    async def review_policy(self, context: Context, arguments: ReviewArguments) -> PolicyReview:
        self._called("review_policy", context, arguments)
        directory = arguments.directory or "/srv"
        effect = "allow" if _allowed(directory) else "deny"
        cell = CellView(profile=Profile.QUERY, runner="claude", effect=effect, rule=RULE)
        rule = RuleView(
            direction="inbound", effect="allow", name=RULE, line=3, says="Anyone may ask for tasks."
        )
        return PolicyReview(
            file="/config/config.toml",
            rules=[rule],
            directory=directory,
            directories=["/srv"],
            runners=["claude"],
            peers=[MayView(name="worker", node_id="nWORKER", trust="trusted", cells=[cell])],
        )

    @override
    async def list_runners(self, context: Context, arguments: NoArguments) -> RunnersView:
        self._called("list_runners", context, arguments)
        return self.runners

    @override
    async def check_runner(self, context: Context, arguments: RunnerArguments) -> CheckView:
        self._called("check_runner", context, arguments)
        return self.checks[arguments.name]

    @override
    async def new_runner(self, context: Context, arguments: NewRunnerArguments) -> NewRunnerView:
        self._called("new_runner", context, arguments)
        file = f"/config/runners/{arguments.name}.toml"
        program = "" if arguments.program == "missing" else arguments.program or "/bin/mine"
        return NewRunnerView(
            name=arguments.name, file=file, program=program, next=["edit it", "check it"]
        )

    @override
    async def keep_login(self, context: Context, arguments: LoginArguments) -> LoginView:
        self._called("keep_login", context, arguments)
        return LoginView(name=arguments.name, kept=True, file="/state/login.json", renews=True)

    @override
    async def drop_login(self, context: Context, arguments: LoginArguments) -> LoginView:
        self._called("drop_login", context, arguments)
        return LoginView(name=arguments.name, kept=False, deleted=True)

    @override
    async def test_runner(self, context: Context, arguments: LiveRunArguments) -> LiveRunView:
        self._called("test_runner", context, arguments)
        if arguments.name != "claude":
            return LiveRunView(name=arguments.name, ok=False, profile="query", error="no key")
        profile = "full" if arguments.full else "query"
        return LiveRunView(
            name="claude", ok=True, profile=profile, text="ready", seconds=2.5, tokens_in=7
        )

    @override
    async def diagnose(self, context: Context, arguments: NoArguments) -> DiagnosisView:
        self._called("diagnose", context, arguments)
        path = PathView(node_id="nWORKER", direct=True, ping_ms=1.5)
        return DiagnosisView(search_path="/usr/bin", paths=[path])

    @override
    async def login(self, context: Context, arguments: NoArguments) -> StatusView:
        self._called("login", context, arguments)
        return self.status_view

    @override
    async def down(self, context: Context, arguments: NoArguments) -> StatusView:
        self._called("down", context, arguments)
        self.stopped.set()
        return self.status_view.model_copy(update={"phase": "down"})

    @override
    async def copy_store(self, context: Context, arguments: CopyArguments) -> CopyView:
        self._called("copy_store", context, arguments)
        return CopyView(directory="/nowhere", version="0", pid=1)

    @override
    async def ask_proof(self, context: Context, arguments: ProofArguments) -> ProofView:
        self._called("ask_proof", context, arguments)
        answer = ProofAnswer(query_id="q")
        return ProofView(node_id="nWORKER", name="worker", key="", answer=answer)

    @override
    async def hand_over(self, context: Context, arguments: NoArguments) -> StatusView:
        self._called("hand_over", context, arguments)
        self.stopped.set()
        return self.status_view

    def _called(self, name: str, context: Context, arguments: Arguments) -> None:
        self.calls.append((name, context, arguments))
        if name in self.failures:
            raise self.failures[name]

    def _peer(self, name: str) -> PeerView:
        for peer in self.peers.values():
            if name in (peer.name, peer.node_id):
                return peer
        near = difflib.get_close_matches(name, self.peers) or sorted(self.peers)
        raise UnknownPeer(f"no peer is called `{name}`; there is {', '.join(near)}")

    def _duplicate(self, context: Context, arguments: DelegateArguments) -> str:
        keyed = self._keys.get(arguments.idempotency_key)
        if keyed:
            task_id, first = keyed
            if first.model_copy(update={"wait_s": arguments.wait_s}) != arguments:
                raise TaskConflict("this idempotency key was used for another task")
            return task_id
        own = arguments.idempotency_key and not arguments.idempotency_key.startswith(DERIVED_KEY)
        if arguments.new or own:
            return ""
        wanted = (arguments.peer, arguments.directory, arguments.prompt)
        for task_id, view in self._tasks.items():
            same = (view.peer, view.directory, view.prompt) == wanted
            unfinished = view.state not in ENDED
            if same and unfinished and self._sessions[task_id] == context.session:
                return task_id
        return ""

    def _new_task(self, task_id: str, peer: PeerView, arguments: DelegateArguments) -> TaskView:
        allowed = _allowed(arguments.directory)
        state = TaskState.QUEUED if allowed else TaskState.DENIED
        return TaskView(
            task_id=task_id,
            direction=Direction.OUT,
            peer=peer.name,
            node_id=peer.node_id,
            state=state,
            witness=WITNESSES[state],
            known_s=0,
            known_at=self._now(),
            link=peer.link,
            runner=arguments.runner,
            profile=arguments.profile,
            directory=arguments.directory,
            prompt=arguments.prompt,
            created_at=self._now(),
            rule=RULE if allowed else None,
            code="" if allowed else "policy_denied",
            reason="" if allowed else f"no rule allows path `{arguments.directory}`",
        )

    def _find(self, reference: str) -> str:
        found = [task_id for task_id in self._tasks if task_id.startswith(reference)]
        if len(found) != 1:
            raise TaskNotFound(f"no task is called `{reference}`")
        return found[0]

    def _move(self, task_id: str, state: TaskState, fields: Mapping[str, object]) -> TaskView:
        witness = WITNESSES.get(state, "the shim recorded the exit")
        return self._update(task_id, {"state": state, "witness": witness, **fields})

    def _update(self, task_id: str, fields: Mapping[str, object]) -> TaskView:
        view = self._tasks[task_id].model_copy(update=dict(fields))
        self._tasks[task_id] = view
        self._wake()
        return view

    def _now(self) -> datetime:
        self._ticks += 1
        return EPOCH + timedelta(seconds=self._ticks)

    def _mark(self) -> str:
        return f"fake-{self._moves}"

    def _wake(self) -> None:
        self._moves += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _until(self, wait_s: float, reached: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(wait_s):
                while not reached():
                    await self._changed.wait()
        except TimeoutError:
            return


def _allowed(directory: str) -> bool:
    return directory == "/srv" or directory.startswith("/srv/")


def _in_state(view: TaskView, state: TaskState | str) -> bool:
    if state == "any":
        return True
    return view.state not in TERMINAL if state == "open" else view.state == state
