"""Starting the daemon clean, and the mark by which a person keeps it from starting.

Quick to import. One starter wins by lock; the others wait and use its daemon.
Nothing here configures a machine: a daemon without a configuration stays in
its `setup` phase.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cmesh.clock import Clock, SystemClock
from cmesh.errors import (
    CmeshError,
    ConfigError,
    DaemonNotRunning,
    DaemonTimeout,
    StoreBusy,
    by_code,
)
from cmesh.interfaces.daemon_log import failure, open_log, reported
from cmesh.interfaces.launch import daemon_argv, read_launch
from cmesh.locks import holder
from cmesh.paths import control_socket, daemon_environment, ensure_private_dir, log_file
from cmesh.platform import locks, processes

__all__ = [
    "START_LIMIT_S",
    "Running",
    "await_answer",
    "clear_down",
    "ensure_daemon",
    "is_marked_down",
    "mark_down",
    "pause",
    "probe",
    "reads",
    "serve_argv",
    "spawn",
    "start_daemon",
    "start_lock",
    "wait_gone",
]

START_LIMIT_S = 30.0
"""From the start of the process to its first answer on the control socket."""

SERVICE_WAIT_S = 10.0
"""How long a service manager's daemon gets to come back before one is started beside it.

Less than a relay holds a call, with the relay's own grace and a start on top.
"""

PROBE_LIMIT_S = 5.0
SLOW_LIMIT_S = 15.0
"""How long a daemon that takes connections may take to answer one, on a loaded machine.

Less than a relay waits for what starts one: by then it has asked the daemon itself.
"""

BUSY_LIMIT_S = 10.0
"""How long a daemon that found its store taken waits for the answer of the one that has it."""

POLL_S = 0.02

_HELLO = json.dumps({"v": 1, "kind": "cli", "session": "probe"}).encode() + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A daemon that answers; `pid` is known for the one who started it, else 0."""

    version: str
    pid: int = 0


def serve_argv(state_dir: Path, config_dir: Path) -> list[str]:
    """Return the daemon's command line; its directories come by environment."""
    del state_dir, config_dir
    return daemon_argv(sys.executable, "--detached")


def ensure_daemon(state: Path, config: Path) -> Running:
    """Return the running daemon; start one unless `cmesh down` asked for quiet. Blocks.

    One that a service manager kept is waited for first.

    Raises:
        DaemonNotRunning: none runs and the mark of `cmesh down` is there.
        DaemonError: it does not start; the message is the daemon's own.
    """
    running = _probe_slow(state, SystemClock())
    if running is not None:
        return running
    if is_marked_down(state):
        raise DaemonNotRunning("the daemon was stopped by `cmesh down`")
    if _kept(state):
        return start_daemon(state, config)
    return _of_service(state) or start_daemon(state, config)


def start_daemon(state: Path, config: Path, *, clock: Clock | None = None) -> Running:
    """Start the daemon unless one answers; return when it answers. Blocks.

    Its service manager starts it where one keeps this state directory and can be reached.

    Raises:
        UnsafePermissions: the state directory is open to others.
        ConfigError: it cannot be made, or nothing can be written there.
        DaemonTimeout: it does not answer within `START_LIMIT_S`.
        DaemonError: it ends before it answers; an error it reported is raised as such.
    """
    clock = clock or SystemClock()
    deadline = clock.monotonic() + START_LIMIT_S
    _make(state)
    with start_lock(state, clock, deadline):
        running = _probe_slow(state, clock)
        if running is not None:
            return running
        kept = _by_manager(state, config, clock, deadline) if _kept(state) else None
        if kept is not None:
            return kept
        log = open_log(state)
        try:
            begin = os.fstat(log).st_size
            process = spawn(serve_argv(state, config), state, config, log)
        finally:
            os.close(log)
        return await_answer(process, state, begin, clock=clock, deadline=deadline)


def probe(state: Path) -> Running | None:
    """Return the daemon that answers on the control socket; None when there is none. Blocks.

    Raises:
        DaemonTimeout: something accepts the connection but does not answer.
        DaemonError: the daemon refuses to serve us.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PROBE_LIMIT_S)
        try:
            connection.connect(os.fspath(control_socket(state)))
            connection.sendall(_HELLO)
            line = connection.makefile("rb").readline(64 * 1024)
        except TimeoutError as error:
            raise DaemonTimeout(
                f"the daemon does not answer within {PROBE_LIMIT_S:g} s",
                hint=f"see {log_file(state)}; stop the process, then `cmesh up`",
            ) from error
        except OSError:
            return None
    return _answer(line)


def mark_down(state: Path) -> None:
    """Keep every later command but `cmesh up` from starting a daemon."""
    _make(state)
    _mark(state).touch(mode=0o600)


def _make(state: Path) -> None:
    hint = "let it be written by you, or name another one in CMESH_STATE_DIR"
    try:
        ensure_private_dir(state)
    except OSError as error:
        raise ConfigError(
            f"the state directory `{state}` cannot be made: {error.strerror}", hint=hint
        ) from error
    if not os.access(state, os.W_OK):  # a file system that is read-only, for example
        raise ConfigError(f"the state directory `{state}` cannot be written", hint=hint)


def clear_down(state: Path) -> None:
    """Take the mark away."""
    _mark(state).unlink(missing_ok=True)


def is_marked_down(state: Path) -> bool:
    """Return whether `cmesh down` was the last word."""
    return _mark(state).exists()


def wait_gone(pid: int, limit_s: float, *, clock: Clock | None = None) -> bool:
    """Return whether process `pid` ended within `limit_s`. Blocks."""
    clock = clock or SystemClock()
    deadline = clock.monotonic() + limit_s
    ended = processes.wait_ended(pid, limit_s)
    if ended is not None:
        return ended
    while clock.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        pause()
    return False


@contextlib.contextmanager
def start_lock(state: Path, clock: Clock, deadline: float) -> Generator[None]:
    """Be the one process that starts a daemon; others wait. Blocks until `deadline`.

    Raises:
        DaemonTimeout: another process kept it all the time.
    """
    handle = os.open(state / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                locks.lock(handle)
                break
            except BlockingIOError as error:
                if clock.monotonic() > deadline:
                    raise DaemonTimeout(
                        f"another process starts the daemon since {START_LIMIT_S:g} s",
                        hint=f"see {log_file(state)}",
                    ) from error
                pause()
        yield
    finally:
        os.close(handle)


def spawn(
    argv: Sequence[str], state: Path, config: Path, log: int, *, answers: bool = False
) -> "subprocess.Popen[bytes]":
    """Start a daemon's process clean: fixed environment, own session, nothing inherited.

    With `answers` its first words come and go by pipes; both ends are unbuffered.
    """
    pipe = subprocess.PIPE
    return subprocess.Popen(  # noqa: S603 - an interpreter of ours, fixed arguments
        argv,
        bufsize=0,
        stdin=pipe if answers else subprocess.DEVNULL,
        stdout=pipe if answers else log,
        stderr=log,
        cwd="/",
        env=daemon_environment(state, config),
        start_new_session=True,
        umask=0o077,
    )


def await_answer(
    process: "subprocess.Popen[bytes]", state: Path, begin: int, *, clock: Clock, deadline: float
) -> Running:
    """Wait until a daemon just started answers; it is told to end when it does not. Blocks.

    `begin` is the size its log had before.

    Raises:
        DaemonTimeout: no answer until `deadline`.
        CmeshError: it ended; the error is its own.
    """
    why: CmeshError | None = None
    busy_until = deadline
    while (now := clock.monotonic()) < deadline:
        ended = process.poll() is not None
        try:
            running = probe(state)
        except DaemonTimeout:
            running = None
        if running is not None:
            # The daemon outlives us: without a code Popen would warn that it still runs.
            process.returncode = process.returncode or 0
            return Running(version=running.version, pid=process.pid)
        if ended and why is None:
            why, busy_until = failure(process.returncode, state, begin), now + BUSY_LIMIT_S
        # One that is just starting may have the store, and is as good.
        if why is not None and (now >= busy_until or not _is_another_s(why, state)):
            raise why
        pause()
    process.terminate()
    raise DaemonTimeout(
        f"the daemon does not answer within {START_LIMIT_S:g} s of its start",
        hint=f"see {log_file(state)}",
    )


def reads(handle: int, wanted: bytes, limit_s: float) -> bool:
    """Return whether exactly `wanted` is what can be read first, within `limit_s`. Blocks."""
    readable = bool(select.select([handle], [], [], limit_s)[0])
    return readable and os.read(handle, len(wanted)) == wanted


def pause() -> None:
    """Wait a little before looking again. Blocks."""
    select.select([], [], [], POLL_S)


def _probe_slow(state: Path, clock: Clock) -> Running | None:
    """Probe, and again while a daemon takes connections and does not answer. Blocks.

    Raises:
        DaemonTimeout, DaemonError: as `probe`, after `SLOW_LIMIT_S`.
    """
    deadline = clock.monotonic() + SLOW_LIMIT_S
    while True:
        try:
            return probe(state)
        except DaemonTimeout:
            if clock.monotonic() >= deadline:
                raise
            pause()


def _kept(state: Path) -> bool:
    """Say whether a unit was installed for this state directory; a look without its code."""
    return (state / "service.json").exists()


def _by_manager(state: Path, config: Path, clock: Clock, deadline: float) -> Running | None:
    """Have the service manager start its daemon; None = it cannot be reached, or has no unit.

    Raises:
        CmeshError: the daemon gave up; the error is its own.
        DaemonTimeout: no answer until `deadline`.
    """
    from cmesh.setup.service.kept import read_kept, start_kept  # only where there is a unit

    kept = read_kept(state)
    if kept is None:
        return None
    log = open_log(state)
    begin = os.fstat(log).st_size
    os.close(log)
    if start_kept(kept, daemon_environment(state, config)):
        # Better one that nobody watches over than none: `cmesh doctor` tells of it.
        return None
    while clock.monotonic() < deadline:
        with contextlib.suppress(DaemonTimeout):
            running = probe(state)
            if running is not None:
                return Running(version=running.version, pid=read_launch(state).pid)
        why = reported(state, begin)
        if why is not None:
            raise why
        pause()
    raise DaemonTimeout(
        f"the daemon of the {kept.manager} unit does not answer within {START_LIMIT_S:g} s",
        hint="cmesh service status",
    )


def _is_another_s(why: CmeshError, state: Path) -> bool:
    """Say whether a daemon ended because a process that still lives has its store."""
    if not isinstance(why, StoreBusy):
        return False
    from cmesh.store.head import STORE_LOCK  # this module is quick to import

    return holder(state / "store" / STORE_LOCK) is not None


def _of_service(state: Path) -> Running | None:
    """Return the daemon that a service manager brings back; None = none is kept, or none came.

    One started in its place would take the store, and the manager would give its own up.
    """
    try:
        if read_launch(state).kind != "service":
            return None
    except CmeshError:
        return None
    clock = SystemClock()
    deadline = clock.monotonic() + SERVICE_WAIT_S
    while clock.monotonic() < deadline:
        with contextlib.suppress(DaemonTimeout):  # it came back, and is slow
            running = probe(state)
            if running is not None:
                return running
        pause()
    return None


def _answer(line: bytes) -> Running | None:
    try:
        raw: object = json.loads(line)
    except ValueError:
        # It accepted and hung up: it is just stopping, so there is none to use.
        return None
    answer = cast("dict[str, object]", raw) if isinstance(raw, dict) else {}
    if answer.get("ok") is True:
        return Running(version=str(answer.get("version", "")))
    error = cast("dict[str, object]", answer.get("error") or {})
    message = str(error.get("message", "the daemon refuses local connections"))
    raise by_code(str(error.get("code", "daemon_failed")))(message, hint=str(error.get("hint", "")))


def _mark(state: Path) -> Path:
    return state / "down"
