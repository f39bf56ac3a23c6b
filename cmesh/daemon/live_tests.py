"""One live run of a runner, by its owner's word: never asked for by peers or tasks, nor by MCP."""

import asyncio
from collections.abc import Mapping

from cmesh.daemon.arguments import Context, LiveRunArguments
from cmesh.daemon.core import Daemon
from cmesh.daemon.runner_answers import LiveRunView
from cmesh.daemon.selftests import AS_ROOT
from cmesh.errors import (
    CmeshError,
    QueueFull,
    RootRefused,
    RunnerError,
    RunnerUnavailable,
    SandboxUnavailable,
    UsageError,
)
from cmesh.model import Profile, TaskState
from cmesh.platform.users import is_superuser
from cmesh.runner.live import LiveBench, LiveRun, is_answer, live_run
from cmesh.runner.own_manifests import COMMAND
from cmesh.runner.runner import Runner
from cmesh.store.records import AuditRecord
from cmesh.text import one_line

__all__ = ["RUNNER_ASKED", "LiveTests"]

RUNNER_ASKED = "runner_asked"
"""Kind of audit row: a live run, which may have cost something."""

ANSWER_CHARACTERS = 1_000
NO_ANSWER = "it ended well, without the word that it was asked for"
_WITHOUT = "or `--full`: it then runs without a sandbox, as you"


class LiveTests:
    """The live runs of one daemon; at most one of each runner at a time."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._running: set[str] = set()

    async def run(self, context: Context, arguments: LiveRunArguments) -> LiveRunView:
        """Run one; what was started is recorded, whatever comes of it.

        Raises:
            UsageError: it is a command, which asks no model.
            RunnerUnavailable: it cannot start here, or not in a sandbox.
            SandboxUnavailable: nothing here can hold it.
            RootRefused: the daemon is root, and not told to run tasks so.
            QueueFull: it is being run just now.
            RunnerError: it was started, and there is no result of it.
        """
        name = arguments.name
        if name.startswith(f"{COMMAND}:"):
            raise UsageError(f"`{name}` asks no model", hint="delegate it as a task")
        if is_superuser() and not self._daemon.rules.config().worker.allow_root:
            raise RootRefused(AS_ROOT)
        if name in self._running:
            raise QueueFull(f"runner `{name}` is being tested just now")
        self._running.add(name)
        try:
            return await self._run(context, name, full=arguments.full)
        finally:
            self._running.discard(name)

    async def _run(self, context: Context, name: str, *, full: bool) -> LiveRunView:
        daemon = self._daemon
        runner = await asyncio.to_thread(daemon.runners.resolve, name)
        profile = Profile.FULL if full else Profile.QUERY
        if not full and (untested := runner.untested()) is not None:
            raise RunnerUnavailable(
                untested.message,
                hint=f"{untested.hint}; {_WITHOUT}",
                retry_after_s=untested.retry_after_s,
            )

        async def audit(kind: str, data: Mapping[str, object]) -> None:
            await daemon.store.commit([AuditRecord(kind=kind, data={"runner": name, **data})])

        bench = LiveBench(
            place=daemon.settings.state_dir / "livetest" / name,
            sandboxes=daemon.sandboxes,
            config=daemon.rules.config().sandbox,
            clock=daemon.settings.clock,
            audit=audit,
            read_login=daemon.logins.bearer,
        )
        asked = {"profile": profile.value, "agent": context.agent, "pid": context.pid}
        try:
            view = self._view(runner, profile, await live_run(bench, runner, profile))
        except SandboxUnavailable as error:
            raise SandboxUnavailable(error.message, hint=f"{error.hint}; {_WITHOUT}") from error
        except OSError as error:
            why = error.strerror or str(error) or "there is no result in time"
            await audit(RUNNER_ASKED, {**asked, "ok": None, "error": why})
            raise RunnerError(f"runner `{name}`: {why}") from error
        except CmeshError:
            raise
        except BaseException:  # the asker went away; what was spent is not known
            await audit(RUNNER_ASKED, {**asked, "ok": None, "error": "ended before its result"})
            raise
        told = view.model_dump(include={"ok", "version", "tokens_in", "tokens_out", "cost_usd"})
        await audit(RUNNER_ASKED, {**asked, **told, "error": view.error})
        return view

    def _view(self, runner: Runner, profile: Profile, run: LiveRun) -> LiveRunView:
        outcome, redactor = run.outcome, self._daemon.secrets.redactor()
        ended_well = outcome.state is TaskState.SUCCEEDED
        answered = ended_well and is_answer(outcome.text)
        error = NO_ANSWER if ended_well and not answered else outcome.error
        return LiveRunView(
            name=runner.name,
            ok=answered,
            profile=profile.value,
            version=runner.version,
            credential=runner.credential(profile),
            enforcement=run.enforcement,
            text=one_line(redactor.text(outcome.text)[0], ANSWER_CHARACTERS),
            error=one_line(redactor.text(error)[0], ANSWER_CHARACTERS),
            seconds=round(run.seconds, 2),
            tokens_in=outcome.usage.tokens_in,
            tokens_out=outcome.usage.tokens_out,
            cost_usd=outcome.usage.cost_usd,
        )
