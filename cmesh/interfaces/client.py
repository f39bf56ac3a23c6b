"""The control socket's client: the daemon's operations as typed calls.

One connection, several calls at once. It starts no daemon; a call that is
cancelled here is cancelled in the daemon, its task never is.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, TypeVar, cast

from pydantic import ValidationError

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
    View,
)
from cmesh.daemon.arguments import (
    ApproveArguments,
    Arguments,
    ArtifactArguments,
    CancelArguments,
    CancelGroupArguments,
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
from cmesh.errors import (
    CmeshError,
    DaemonError,
    DaemonNotRunning,
    DaemonRestarted,
    DaemonTimeout,
    VersionMismatch,
)
from cmesh.interfaces.wire import ANSWER_BYTES, CONTROL_VERSION, error_from

__all__ = ["CALL_LIMIT_S", "CONNECT_LIMIT_S", "ControlClient", "run"]

CONNECT_LIMIT_S = 5.0

CALL_LIMIT_S = 90.0
"""How long any call may take; above the longest wait an operation allows."""

_V = TypeVar("_V", bound=View)
_T = TypeVar("_T")


class ControlClient:
    """A connection to the daemon; an async context manager that connects on entry.

    Attributes:
        daemon_version: cmesh version of the daemon; empty before the connection.
    """

    def __init__(self, path: Path, *, session: str = "cli", cwd: str = "", agent: str = "") -> None:
        self.daemon_version = ""
        self._path = path
        self._hello = {"session": session, "cwd": cwd, "agent": agent}
        self._writer: asyncio.StreamWriter | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._open: dict[int, asyncio.Future[dict[str, object]]] = {}
        self._last = 0

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:  # cancelled between connection and greeting, nobody else closes it
            await self.close()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def connect(self, timeout_s: float = CONNECT_LIMIT_S) -> None:
        """Connect and say hello.

        Raises:
            DaemonNotRunning: there is no socket, or nobody listens on it.
            DaemonTimeout: the daemon does not answer in time.
            CmeshError: the daemon refuses us, and says why.
        """
        try:
            async with asyncio.timeout(timeout_s):
                reader, self._writer = await asyncio.open_unix_connection(
                    os.fspath(self._path), limit=ANSWER_BYTES
                )
                line = await self._greet(reader)
        except TimeoutError as error:
            await self.close()
            raise DaemonTimeout(f"the daemon does not answer within {timeout_s:g} s") from error
        except PermissionError as error:
            raise DaemonError(
                f"the control socket `{self._path}` is not yours to use",
                hint="run as the user whose daemon this is",
            ) from error
        except OSError as error:
            await self.close()
            raise DaemonNotRunning("no daemon runs for this state directory") from error
        except ValueError as error:
            await self.close()
            raise DaemonError("what answers on the control socket is no cmesh daemon") from error
        if line.get("ok") is not True:
            await self.close()
            raise error_from(line.get("error"))
        self.daemon_version = str(line.get("version", ""))
        self._receiver = asyncio.create_task(self._receive(reader))

    async def close(self) -> None:
        """Close the connection; open calls raise `DaemonRestarted`."""
        receiver, self._receiver = self._receiver, None
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()  # before the first wait: whoever closes may be cancelled in it
        if receiver is not None:
            receiver.cancel()
            await asyncio.wait([receiver])
        if writer is not None:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def status(self) -> StatusView:
        """Return what the daemon is and does."""
        return await self.call("status", NoArguments(), StatusView)

    async def list_peers(self) -> PeersView:
        """Return the tailnet's nodes."""
        return await self.call("list_peers", NoArguments(), PeersView)

    async def trust_peer(self, arguments: TrustArguments) -> PeerView:
        """Pin the cmesh key a peer has shown."""
        return await self.call("trust_peer", arguments, PeerView)

    async def untrust_peer(self, arguments: UntrustArguments) -> UntrustView:
        """Take a trusted key back."""
        return await self.call("untrust_peer", arguments, UntrustView)

    async def setup_check(self, arguments: SetupCheckArguments) -> SetupView:
        """Look at this machine as the wizard does."""
        return await self.call("setup_check", arguments, SetupView)

    async def setup_step(self, arguments: SetupStepArguments) -> SetupChangeView:
        """Plan a step of the wizard."""
        return await self.call("setup_step", arguments, SetupChangeView)

    async def setup_undo(self, arguments: SetupUndoArguments) -> SetupChangeView:
        """Take a step of the wizard back."""
        return await self.call("setup_undo", arguments, SetupChangeView)

    async def setup_pending(self) -> SetupPendingView:
        """Return the change that waits for a person."""
        return await self.call("setup_pending", NoArguments(), SetupPendingView)

    async def setup_confirm(self, arguments: SetupConfirmArguments) -> SetupChangeView:
        """Apply or drop the change that was shown."""
        return await self.call("setup_confirm", arguments, SetupChangeView)

    async def pair(self, arguments: PairArguments) -> PairView:
        """Take one step of a pairing."""
        return await self.call("pair", arguments, PairView)

    async def pair_rules(self, arguments: PairRulesArguments) -> PairRulesView:
        """Show or write the rules of a paired peer."""
        return await self.call("pair_rules", arguments, PairRulesView)

    async def unpair(self, arguments: UnpairArguments) -> PairRulesView:
        """Show or take out the rules that pairings with a peer have written."""
        return await self.call("unpair", arguments, PairRulesView)

    async def delegate(self, arguments: DelegateArguments) -> TaskView:
        """Hand a task to a peer."""
        return await self.call("delegate", arguments, TaskView)

    async def fan_out(self, arguments: FanOutArguments) -> GroupView:
        """Hand a task to each of several peers."""
        return await self.call("fan_out", arguments, GroupView)

    async def get_group(self, arguments: GroupArguments) -> GroupView:
        """Return the tasks of a group, waiting for one more end as long as the arguments say."""
        return await self.call("get_group", arguments, GroupView)

    async def cancel_group(self, arguments: CancelGroupArguments) -> GroupView:
        """Ask for the end of a group's tasks."""
        return await self.call("cancel_group", arguments, GroupView)

    async def reply_task(self, arguments: ReplyArguments) -> TaskView:
        """Ask for another turn of an ended task."""
        return await self.call("reply_task", arguments, TaskView)

    async def get_task(self, arguments: TaskArguments) -> TaskView:
        """Return a task, waiting for news as long as the arguments say."""
        return await self.call("get_task", arguments, TaskView)

    async def list_tasks(self, arguments: TasksArguments) -> TasksView:
        """Return tasks, newest first."""
        return await self.call("list_tasks", arguments, TasksView)

    async def changes(self, arguments: ChangesArguments) -> ChangesView:
        """Return a mark once anything has changed, waiting as long as the arguments say."""
        return await self.call("changes", arguments, ChangesView)

    async def find_tasks(self, arguments: FindArguments) -> FoundTasksView:
        """Return tasks of any age, in pages."""
        return await self.call("find_tasks", arguments, FoundTasksView)

    async def get_record(self, arguments: RecordArguments) -> RecordView:
        """Return what the log has of a task."""
        return await self.call("get_record", arguments, RecordView)

    async def figures(self, arguments: FiguresArguments) -> FiguresView:
        """Return the figures since a moment."""
        return await self.call("figures", arguments, FiguresView)

    async def get_result(self, arguments: ResultArguments) -> ResultView:
        """Return a slice of a finished task's result."""
        return await self.call("get_result", arguments, ResultView)

    async def get_patch(self, arguments: PatchArguments) -> PatchFile:
        """Return the bytes of a finished task's patch, all of them: in pieces, as they come."""
        found = await self.call("get_patch", arguments, PatchFile)
        pieces, size = [found.data], _size(found.data)
        while found.data and arguments.offset + size < found.patch.bytes:
            arguments = arguments.model_copy(update={"offset": arguments.offset + size})
            more = await self.call("get_patch", arguments, PatchFile)
            size = _size(more.data)
            if not size:
                break
            pieces.append(more.data)
        return found.model_copy(update={"data": "".join(pieces)})

    async def get_artifact(self, arguments: ArtifactArguments) -> ArtifactPiece:
        """Return bytes of a file that a finished task handed over."""
        return await self.call("get_artifact", arguments, ArtifactPiece)

    async def cancel_task(self, arguments: CancelArguments) -> TaskView:
        """Ask for a task's end."""
        return await self.call("cancel_task", arguments, TaskView)

    async def approve_task(self, arguments: ApproveArguments) -> TaskView:
        """Let a waiting inbound task run, or refuse it."""
        return await self.call("approve_task", arguments, TaskView)

    async def release(self, arguments: ReleaseArguments) -> ReleaseView:
        """Return what of an inbound task is withheld, and release what is named."""
        return await self.call("release", arguments, ReleaseView)

    async def forget(self, arguments: ForgetArguments) -> ForgetView:
        """Return tasks that can be forgotten, and forget them when that is confirmed."""
        return await self.call("forget", arguments, ForgetView)

    async def compact_store(self) -> CompactView:
        """Write the database anew."""
        return await self.call("compact_store", NoArguments(), CompactView)

    async def sql(self, arguments: SqlArguments) -> SqlView:
        """Run one SELECT over the audit views."""
        return await self.call("sql", arguments, SqlView)

    async def explain(self, arguments: ExplainArguments) -> DecisionView:
        """Decide a hypothetical request."""
        return await self.call("explain", arguments, DecisionView)

    async def review_policy(self, arguments: ReviewArguments) -> PolicyReview:
        """Return the rules in words, and who may do what in one directory."""
        return await self.call("review_policy", arguments, PolicyReview)

    async def list_runners(self) -> RunnersView:
        """Return every runner as it acts on the daemon's machine."""
        return await self.call("list_runners", NoArguments(), RunnersView)

    async def check_runner(self, arguments: RunnerArguments) -> CheckView:
        """Look at one runner, and run its self-test."""
        return await self.call("check_runner", arguments, CheckView)

    async def new_runner(self, arguments: NewRunnerArguments) -> NewRunnerView:
        """Write a manifest for the owner to edit."""
        return await self.call("new_runner", arguments, NewRunnerView)

    async def keep_login(self, arguments: LoginArguments) -> LoginView:
        """Take what a runner's own login has left in its home."""
        return await self.call("keep_login", arguments, LoginView)

    async def drop_login(self, arguments: LoginArguments) -> LoginView:
        """Delete the login of a runner's account."""
        return await self.call("drop_login", arguments, LoginView)

    async def test_runner(self, arguments: LiveRunArguments) -> LiveRunView:
        """Ask a runner's own model for one word; costs money."""
        return await self.call("test_runner", arguments, LiveRunView)

    async def diagnose(self) -> DiagnosisView:
        """Return the node's own warnings, and how each near peer is reached."""
        return await self.call("diagnose", NoArguments(), DiagnosisView)

    async def login(self) -> StatusView:
        """Start a login."""
        return await self.call("login", NoArguments(), StatusView)

    async def down(self) -> StatusView:
        """Stop the daemon."""
        return await self.call("down", NoArguments(), StatusView)

    async def ask_proof(self, arguments: ProofArguments) -> ProofView:
        """Ask a peer one thing about the logs of both nodes."""
        return await self.call("ask_proof", arguments, ProofView)

    async def copy_store(self, export_to: str = "") -> CopyView:
        """Copy the store's database."""
        return await self.call("copy_store", CopyArguments(export_to=export_to), CopyView)

    async def hand_over(self) -> StatusView:
        """Stop the daemon for another to follow."""
        return await self.call("hand_over", NoArguments(), StatusView)

    async def call(self, operation: str, arguments: Arguments, view: type[_V]) -> _V:
        """Call one operation by name.

        Raises:
            DaemonRestarted: the connection ended before the answer came.
            DaemonTimeout: no answer within `CALL_LIMIT_S`.
            VersionMismatch: the answer is not of the expected form.
            CmeshError: what the operation raised.
        """
        if self._writer is None or self._receiver is None or self._receiver.done():
            raise DaemonRestarted("the connection to the daemon is closed")
        self._last += 1
        number = self._last
        future = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(CALL_LIMIT_S):
                body = arguments.model_dump(mode="json", exclude_unset=True)
                await self._write({"id": number, "op": operation, "arguments": body})
                answer = await future
        except TimeoutError as error:
            await self._cancel(number)
            raise DaemonTimeout(f"no answer to `{operation}` within {CALL_LIMIT_S:g} s") from error
        except asyncio.CancelledError:
            await self._cancel(number)
            raise
        finally:
            self._open.pop(number, None)
            if future.done() and not future.cancelled():
                # Seen, also when it came in the moment of a cancel.
                future.exception()
        if "error" in answer:
            raise error_from(answer["error"])
        try:
            return view.model_validate(answer.get("result"))
        except ValidationError as error:
            raise VersionMismatch(
                f"the daemon ({self.daemon_version}) answers `{operation}` in another form",
                hint="restart the daemon with the installed version: `cmesh down`, then `cmesh up`",
            ) from error

    async def _greet(self, reader: asyncio.StreamReader) -> dict[str, object]:
        assert self._writer is not None
        hello = {"v": CONTROL_VERSION, "kind": "cli", "pid": os.getpid(), **self._hello}
        self._writer.write(json.dumps(hello).encode() + b"\n")
        line = await reader.readline()
        if not line:
            raise ConnectionResetError("the daemon closed the connection")
        return _object(line)

    async def _write(self, message: dict[str, object]) -> None:
        assert self._writer is not None
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            await self._writer.drain()
        except ConnectionError as error:
            raise DaemonRestarted("the daemon went away during the call") from error

    async def _cancel(self, number: int) -> None:
        with contextlib.suppress(DaemonRestarted):
            await self._write({"cancel": number})

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        failure: CmeshError = DaemonRestarted("the daemon went away during the call")
        try:
            while line := await reader.readline():
                answer = _object(line)
                number = answer.get("id")
                if number is None:
                    failure = error_from(answer.get("error"))
                    return
                future = self._open.get(cast("int", number))
                if future is not None and not future.done():
                    future.set_result(answer)
        except OSError:
            return
        except ValueError:
            failure = DaemonError("the daemon sent a line that cannot be read")
        finally:
            for future in self._open.values():
                if not future.done():
                    future.set_exception(failure)


def run(
    path: Path, work: Callable[[ControlClient], Awaitable[_T]], *, cwd: str = "", agent: str = ""
) -> _T:
    """Connect, do `work` with the client, close; for callers without an event loop. Blocks.

    Raises:
        KeyboardInterrupt: Ctrl-C; the open call was cancelled, its task goes on.
    """
    interrupts = {signal.SIGINT}
    # Ctrl-C waits while the loop is made and closed: half of one complains when it goes.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, interrupts)

    async def connected() -> _T:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # asyncio cancels this from here on
        try:
            async with ControlClient(path, cwd=cwd, agent=agent) as client:
                return await work(client)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, interrupts)

    try:
        return asyncio.run(connected())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _size(text: str) -> int:
    """Return how many bytes a text in base64 stands for."""
    return len(text) * 3 // 4 - text[-2:].count("=")


def _object(line: bytes) -> dict[str, object]:
    value: object = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return cast("dict[str, object]", value)
