"""`cmesh up --replace`: this version takes the place of the daemon that runs.

The order: check without touching anything, hand over, start, and go back when the new
daemon ends before it took work. Tasks run on under their shims throughout.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from cmesh import __version__
from cmesh.clock import Clock, SystemClock
from cmesh.errors import (
    CmeshError,
    DaemonError,
    DaemonRestarted,
    DaemonRestarting,
    DaemonTimeout,
    ReplaceFailed,
)
from cmesh.interfaces import start
from cmesh.interfaces.client import run
from cmesh.interfaces.daemon_log import failure, open_log
from cmesh.interfaces.launch import (
    Launch,
    begin_replacing,
    daemon_argv,
    end_replacing,
    is_replacing,
    read_launch,
)
from cmesh.interfaces.replace_check import Checked, check, is_installed, unfit
from cmesh.interfaces.standby import READY_LINE, WORD
from cmesh.locks import FileLock, Held
from cmesh.paths import control_socket, ensure_private_dir, log_file
from cmesh.store.backup import head_mark, restore

__all__ = ["Replaced", "replace"]


LOADED_LIMIT_S = 30.0
GONE_LIMIT_S = 30.0
END_LIMIT_S = 5.0


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """What a replacement did; `before` is empty when no daemon ran.

    Attributes:
        schema, schema_after: of the store, unequal when it was migrated.
        gap_s: from the old daemon's last answer to the new one's first.
    """

    before: str
    version: str
    pid: int
    schema: int = 0
    schema_after: int = 0
    gap_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Work:
    """One replacement. `mark` is the store's state when the old daemon had ended."""

    state: Path
    config: Path
    say: Say
    clock: Clock
    launch: Launch
    checked: Checked
    can_return: bool
    mark: bytes = field(default=b"")

    @property
    def store(self) -> Path:
        return self.state / "store"


def replace(
    state: Path, config: Path, *, say: Say = lambda _: None, clock: Clock | None = None
) -> Replaced:
    """Put a daemon of this version in the place of the one that runs; `say` is told each step.

    Without a running daemon it starts one. Blocks.

    Raises:
        DaemonRestarting: another process is at it already.
        ReplaceFailed: the new daemon did not start; the message says what runs now.
        CmeshError: the check found why this version cannot serve; nothing was touched.
    """
    ensure_private_dir(state)
    lock = FileLock(state / "replace.lock")
    try:
        lock.acquire()
    except Held as error:
        raise DaemonRestarting(
            f"{error} replaces the daemon already", hint="wait for it, then `cmesh status`"
        ) from error
    try:
        return _replace(state, config, say, clock or SystemClock())
    finally:
        lock.release()


def _replace(state: Path, config: Path, say: Say, clock: Clock) -> Replaced:
    running = start.probe(state)
    if running is None:
        started = start.start_daemon(state, config, clock=clock)
        return Replaced(before="", version=started.version, pid=started.pid)
    launch = read_launch(state)
    if launch.kind == "service" and not launch.starts(sys.executable):
        raise DaemonError(
            f"the service manager starts the daemon with `{launch.interpreter}`",
            hint="`cmesh service install` of this installation, or change the unit's ExecStart"
            " and restart the unit, or use that installation",
        )
    say(f"checking cmesh {__version__}; {running.version} goes on meanwhile")
    checked = check(state, config, launch)
    if checked.migrates:
        say(f"the store will go from schema {checked.schema} to {checked.schema_after}")
    work = _Work(
        state=state,
        config=config,
        say=say,
        clock=clock,
        launch=launch,
        checked=checked,
        can_return=is_installed(launch, state, config),
    )
    if not work.can_return:
        say(f"note: cmesh {launch.version} is not installed any more, so there is no way back")
    with (
        start.start_lock(state, clock, clock.monotonic() + start.START_LIMIT_S),
        _uninterrupted(),
    ):
        return _by_service(work) if launch.kind == "service" else _by_standby(work)


def _by_standby(work: _Work) -> Replaced:
    """Load the new daemon, end the old one, give the word; go back when it fails."""
    log = open_log(work.state)
    try:
        begin = os.fstat(log).st_size
        agents = ["--agents"] if work.checked.agents else []
        argv = daemon_argv(sys.executable, "--standby", *agents)
        process = start.spawn(argv, work.state, work.config, log, answers=True)
    finally:
        os.close(log)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        limit = work.clock.monotonic() + LOADED_LIMIT_S
        if not start.reads(process.stdout.fileno(), READY_LINE, limit - work.clock.monotonic()):
            _end(process)
            raise unfit(failure(process.returncode, work.state, begin), work.launch)
        gone_at = _hand_over(work)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(WORD)
    deadline = work.clock.monotonic() + start.START_LIMIT_S
    try:
        running = start.await_answer(
            process, work.state, begin, clock=work.clock, deadline=deadline
        )
    except CmeshError as error:
        _end(process)
        raise _gone_back(work, error) from error
    return _replaced(work, running, gone_at)


def _by_service(work: _Work) -> Replaced:
    """End the old daemon, and wait for the one that its service manager starts."""
    gone_at = _hand_over(work)
    deadline = work.clock.monotonic() + start.START_LIMIT_S
    while work.clock.monotonic() < deadline:
        with contextlib.suppress(DaemonTimeout):
            running = start.probe(work.state)
            if running is not None:
                return _replaced(work, running, gone_at)
        start.pause()
    end_replacing(work.state)
    raise ReplaceFailed(
        f"the service manager brought up no daemon within {start.START_LIMIT_S:g} s",
        hint="see its log: `systemctl --user status cmesh`",
    )


def _replaced(work: _Work, running: start.Running, gone_at: float) -> Replaced:
    return Replaced(
        before=work.launch.version,
        version=running.version,
        pid=running.pid or read_launch(work.state).pid,
        schema=work.checked.schema,
        schema_after=work.checked.schema_after if work.checked.schema else 0,
        gap_s=round(work.clock.monotonic() - gone_at, 3),
    )


def _hand_over(work: _Work) -> float:
    """End the old daemon; return when it answered for the last time. Always succeeds."""
    pid = work.launch.pid
    work.say(f"cmesh {work.launch.version}, process {pid}, hands over; tasks run on")
    begin_replacing(work.state)
    try:
        run(control_socket(work.state), lambda client: client.hand_over())
    except DaemonRestarted:
        pass  # it went before its answer arrived, which is what was asked for
    except CmeshError:
        end_replacing(work.state)
        raise
    last_answer = work.clock.monotonic()
    if not start.wait_gone(pid, GONE_LIMIT_S, clock=work.clock):
        # What a kill costs is what any crash costs: nothing.
        work.say(f"process {pid} does not end within {GONE_LIMIT_S:g} s and is killed")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        start.wait_gone(pid, END_LIMIT_S, clock=work.clock)
    work.mark = head_mark(work.store)
    return last_answer


def _gone_back(work: _Work, why: CmeshError) -> ReplaceFailed:
    """Bring the old version back where that loses nothing; return what to say."""
    failed = f"cmesh {__version__} did not start: {why.message}"
    old = f"cmesh {work.launch.version}"
    took_work = not is_replacing(work.state)
    if took_work and work.checked.migrates:
        return ReplaceFailed(
            f"{failed}; it had begun to take work on the migrated store, so {old} cannot go on",
            hint=f"see {log_file(work.state)}; `cmesh up` starts {__version__} again",
        )
    restored = False
    try:
        if work.checked.migrates:
            restored = restore(work.store, work.checked.schema, work.mark)
        end_replacing(work.state)
        if not work.can_return:
            return ReplaceFailed(f"{failed}; no daemon runs, for {old} is not installed any more")
        running = _start_old(work)
    except CmeshError as error:
        return ReplaceFailed(f"{failed}; {old} did not come back: {error.message}", hint=error.hint)
    store = ", on the store from before the migration" if restored else ""
    return ReplaceFailed(
        f"{failed}; {old} runs again{store}, process {running.pid}",
        hint=why.hint or f"see {log_file(work.state)}",
    )


def _start_old(work: _Work) -> start.Running:
    work.say(f"going back to cmesh {work.launch.version}")
    log = open_log(work.state)
    try:
        begin = os.fstat(log).st_size
        argv = daemon_argv(work.launch.interpreter, "--detached")
        process = start.spawn(argv, work.state, work.config, log)
    finally:
        os.close(log)
    deadline = work.clock.monotonic() + start.START_LIMIT_S
    return start.await_answer(process, work.state, begin, clock=work.clock, deadline=deadline)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_LIMIT_S)


@contextlib.contextmanager
def _uninterrupted() -> Generator[None]:
    """Let Ctrl-C pass: between two daemons there is no good place to stop."""
    # A function and not SIG_IGN, which the daemons started here would inherit.
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
