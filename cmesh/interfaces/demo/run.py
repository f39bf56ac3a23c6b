"""One run of the demo from start to end: the story, its ending, and Ctrl-C at any point.

INVARIANT: ending what was started is never cancelled; signals only cancel the story.
"""

import asyncio
import signal
import sys

from cmesh.clock import Clock
from cmesh.errors import CmeshError, DemoFailed
from cmesh.interfaces.demo import words
from cmesh.interfaces.demo.ending import daemon_of
from cmesh.interfaces.demo.plan import USER, Plan
from cmesh.interfaces.demo.report import Report, StepReport, require
from cmesh.interfaces.demo.screen import Screen
from cmesh.interfaces.demo.stage import Stage

__all__ = ["INTERRUPTED", "Run"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as for any command (128 + SIGINT)."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Run:
    """One run; `main` may be called once."""

    def __init__(self, plan: Plan, clock: Clock, *, as_json: bool, keep: bool) -> None:
        self._plan = plan
        self._clock = clock
        self._as_json = as_json
        self._keep = keep
        self._screen = Screen(quiet=as_json)
        self._report = Report(model=plan.agent)
        self._stop = asyncio.Event()
        self._story: asyncio.Task[None] | None = None

    async def main(self) -> int:
        """Tell the story and end what it started; return the exit status."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._interrupt)
        stage = Stage(self._clock)
        try:
            self._screen.head(*words.head(self._plan))
            self._story = asyncio.create_task(self._tell(stage))
            await asyncio.wait({self._story})
            self._note_end(stage, self._story)
            if self._keep and self._told():
                await self._leave_running(stage)
        finally:
            await self._end(stage)
        return self._conclude()

    def _interrupt(self) -> None:
        self._stop.set()
        if self._story is not None:
            self._story.cancel()

    async def _tell(self, stage: Stage) -> None:
        # Loads the MCP SDK, most of a second: the reader has something to read by now.
        from cmesh.interfaces.demo.story import Story

        story = Story(self._plan, stage, self._screen, self._clock)
        self._report = story.report
        with (stage.base / "agent.log").open("w", encoding="utf-8") as errors:
            await story.run(errors)

    def _told(self) -> bool:
        return self._report.error is None and not self._stop.is_set()

    def _note_end(self, stage: Stage, story: "asyncio.Task[None]") -> None:
        """Note how the story ended, and show the logs while they are there."""
        if story.cancelled() or self._stop.is_set():
            return
        error = story.exception()
        if error is None:
            return
        if isinstance(error, TimeoutError):
            error = DemoFailed("it did not happen in time")
        elif isinstance(error, OSError):
            error = DemoFailed(f"this machine refuses: {error}", hint="")
        if not isinstance(error, CmeshError):
            raise error
        self._report.error = error
        logs = [(node.name, node.log_tail()) for node in stage.nodes]
        title = self._report.steps[-1].title if self._report.steps else "the start"
        self._screen.failed(f"{title}: {error.message}", error.hint, logs)

    async def _leave_running(self, stage: Stage) -> None:
        await stage.open_to_others(USER)
        self._report.ok = True
        self._report.keep = words.kept_fields(stage)
        self._screen.summary(*words.summary(self._report))
        for title, commands in words.kept_commands(stage, self._plan):
            self._screen.commands(title, commands)
        self._print_line()
        await self._stop.wait()

    async def _end(self, stage: Stage) -> None:
        """End everything, and see that it has ended."""
        kept = bool(self._report.keep)
        step = StepReport(title="Everything that was started ends")
        if not kept:
            self._report.steps.append(step)
        self._screen.step(len(self._report.steps), step.title)
        self._screen.waiting("stopping the daemons and the tailnet")
        begun = self._clock.monotonic()
        pids = [pid for node in stage.nodes if (pid := daemon_of(node) or node.pid)]
        left = await stage.close()
        others = left.others
        try:
            require(not left.daemons, words.still_running(left.daemons), stage.base)
            require(not left.children, "processes of its daemons are left over", left.children)
            require(kept or not others, "processes are left over", others)
            require(others or not stage.base.exists(), "the directory is left over", stage.base)
        except DemoFailed as error:
            self._report.error = self._report.error or error
            self._screen.failed(error.message, error.hint, [])
            return
        step.checked = "no process of it is left, its directory is gone"
        if others:
            step.checked = "all of its own has ended; what still uses it is yours to end"
            self._screen.fact("still there", words.others(others, stage))
        step.facts.append(("daemons", ", ".join(map(str, pids))))
        step.seconds = self._clock.monotonic() - begun
        self._screen.checked(step.checked, step.seconds)

    def _conclude(self) -> int:
        """Print the end; return the exit status."""
        report = self._report
        kept = bool(report.keep)
        report.ok = report.error is None and (kept or not self._stop.is_set())
        if report.error is None and not report.ok:
            report.error = DemoFailed("interrupted", hint="")
            self._screen.note("Interrupted; nothing is left running.")
            self._print_line()
            return INTERRUPTED
        if report.ok and not kept:
            self._screen.summary(*words.summary(report))
            self._screen.commands("Next", words.next_commands())
        if not kept:
            self._print_line()
        self._screen.close()
        return 0 if report.ok else report.error.exit_status if report.error else 1

    def _print_line(self) -> None:
        if self._as_json:
            sys.stdout.write(self._report.line() + "\n")
            sys.stdout.flush()
