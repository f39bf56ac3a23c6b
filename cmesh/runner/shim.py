"""Keeps one task: claims it, starts its agent, spools output, ends its tree, writes the result.

Runs as `python -I -S shim.py`, standard library only, and outlives the daemon that asked for it.
The first process keeps one idle shim forked, which waits for a task directory, a JSON record on
descriptor 0. It never makes that directory, never replaces a claim, starts at most one agent.
"""

import ctypes
import fcntl
import json
import os
import select
import signal
import sys
import time

__all__ = [
    "BOOT_ID_FILE",
    "MARKER",
    "is_zombie",
    "main",
    "signal_process",
    "stat_of",
    "task_processes",
]

MARKER = "CMESH_TASK"
BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
FIONREAD = 0x541B  # asm-generic/ioctls.h: bytes waiting in a pipe
AGENT_UMASK = 0o022
CHUNK_BYTES = 65536
RESULT_ROOM_BYTES = 4096
KILL_PAUSE_S = 0.005
KILL_LIMIT_S = 10.0
STUBBORN_PAUSE_S = 0.25
# Python ignores these two, the warm process ignores the third; an agent starts with defaults.
RESTORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD)
NOTICED = (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP)

# (pid, start time in clock ticks since boot) names one process of one boot: proc_pid_stat(5).
Process = tuple[int, int]


def main() -> int:
    """Keep one idle shim waiting on descriptor 0 until that ends; each takes one record."""
    libc = ctypes.CDLL(None)
    boot_id = _read(BOOT_ID_FILE).decode().strip()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _write_quietly(1)
    while _fork_idle(boot_id, libc):
        pass
    return 0


def stat_of(pid: int) -> tuple[str, int, int] | None:
    """Return (state, parent's pid, start time) of a process; None when there is none."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    # The command name may hold blanks and brackets: count from the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0].decode(), int(fields[1]), int(fields[19])


def is_zombie(state: str) -> bool:
    """Return whether a process of this state has ended and only waits for its parent."""
    return state in "ZX"


def task_processes(task_id: str, root: int) -> set[Process]:
    """Return the live processes below `root` or with the task's marker, and all below those.

    `root` itself is left out; 0 = there is none. One look, not atomic: a process may be born
    behind it, so only repeated looks, or the kernel's "no child" to a subreaper, prove zero.
    """
    wanted = b"\0%s=%s\0" % (MARKER.encode(), task_id.encode())
    seen = {pid: stat for pid in _pids() if (stat := stat_of(pid)) is not None}
    children: dict[int, list[int]] = {}
    for pid, (_state, parent, _start) in seen.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = [pid for pid in seen if _is_marked(pid, wanted)]
    todo += children.get(root, []) if root else []
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, [])
    found.discard(root)
    return {(pid, seen[pid][2]) for pid in found if not is_zombie(seen[pid][0])}


def signal_process(process: Process, signum: int) -> bool:
    """Send a signal to exactly this process; False when it is gone or not ours to signal."""
    pid, start = process
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # INVARIANT: the start time is read after the handle exists, so a reused pid is noticed.
        stat = stat_of(pid)
        if stat is None or stat[2] != start:
            return False
        signal.pidfd_send_signal(handle, signum)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


class Spool:
    """One output stream of the agent: a pipe into a file of at most `limit` bytes.

    Bytes beyond the limit, or after a write error, are counted and dropped: the agent is
    never blocked by them. `digest` covers what is kept.
    """

    def __init__(self, path: str, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.kept = 0
        self.error = ""
        self.digest = SHA256()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self.source, self.sink = os.pipe()
        os.set_blocking(self.source, False)

    def pump(self) -> int:
        """Move one chunk; return its size, 0 = end of stream, -1 = nothing there now."""
        try:
            data = os.read(self.source, CHUNK_BYTES)
        except BlockingIOError:
            return -1
        self.total += len(data)
        room = data[: self.limit - self.kept] if not self.error else b""
        while room:
            try:
                done = os.write(self._file, room)
            except OSError as error:
                self.error = _text(error)
                break
            self.digest.update(room[:done])
            self.kept += done
            room = room[done:]
        return len(data)

    def close_sink(self) -> None:
        """Close this side's copy of the writing end, so that the end of stream can come."""
        os.close(self.sink)


class Shim:
    """The life of one claimed task, from the claim to the result."""

    def __init__(self, boot_id: str) -> None:
        self.directory = self.task_id = ""
        self.wake = -1
        self.agent: Process = (0, 0)
        self.status: int | None = None
        self.childless = True
        self.verdict = "exited"
        self.end_reason = ""
        self.error = ""
        self.ending = False
        self.killed: set[int] = set()
        self.leftovers = 0
        self.spools: list[Spool] = []
        self.kill_at = self.deadline = float("inf")
        self.grace_s = 0.0
        self.started_at = self.begun = 0.0
        self.room = -1
        self.boot_id = boot_id
        self.start_time = (stat_of(os.getpid()) or ("", 0, 0))[2]
        owner = {"boot_id": boot_id, "pid": os.getpid(), "start_time": self.start_time}
        self.claim_text = json.dumps({"who": "shim"} | owner).encode()
        self.signals, self.poll = _listen_for_signals()

    def wait(self) -> bool:
        """Wait for a task directory; False when none will come."""
        record = os.read(0, CHUNK_BYTES)
        if not record:
            return False
        self.directory = json.loads(record)["directory"]
        self.task_id = self.directory.rpartition("/")[2]
        try:
            # Read-write: a missing reader is no error, and the next daemon can read on.
            self.wake = os.open(f"{self.directory}/wake", os.O_RDWR | os.O_NONBLOCK)
        except OSError:
            self.wake = -1  # the directory is gone, so the claim will fail as well
        return True

    def begin(self) -> bool:
        """Claim the task and start its agent; False when the claim is another's.

        False as well when the disk has no room: nothing ran, the worker may try again.
        """
        try:
            self._reserve_result()
            if not self._claim():
                return False
        except FileNotFoundError:
            return False  # taken in and renamed away
        except OSError as error:
            sys.stderr.write(f"{self.task_id}: not claimed: {_text(error)}\n")
            sys.stderr.flush()
            return False
        self.started_at, self.begun = time.time(), time.monotonic()
        self._see_end()
        if self.verdict == "exited":
            try:
                self._start()
            except (OSError, ValueError) as error:
                self.verdict, self.error = "spawn_failed", _text(error)
        return True

    def finish(self) -> None:
        """Watch the agent to its end, end what it left, write the result."""
        self._watch()
        left = self._end_tree()
        self._drain()
        self._write_result(left)

    def _claim(self) -> bool:
        name = f"{self.directory}/.claim.{os.getpid()}.{self.start_time}"
        # Never closed: the lock says that this process lives. Not inherited by the agent.
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, self.claim_text)
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            # INVARIANT: linked by its absolute path. Through a directory descriptor the link
            # would still succeed after the worker renamed the directory away.
            os.link(name, f"{self.directory}/claim")
        except FileExistsError:
            return False
        finally:
            _remove(name)
        # One sync after the link makes content and name durable before the agent can start.
        os.fsync(fd)
        return True

    def _reserve_result(self) -> None:
        # A disk that the agent fills must still have room for the result.
        self.room = os.open(f"{self.directory}/.result", os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(self.room, 0, RESULT_ROOM_BYTES)

    def _start(self) -> None:
        launch = json.loads(_read(f"{self.directory}/launch.json"))
        self.grace_s = launch["grace_s"]
        stdin = os.open(f"{self.directory}/stdin", os.O_RDONLY)
        for name, limit in (("stdout", "output_bytes"), ("stderr", "error_bytes")):
            self.spools.append(Spool(f"{self.directory}/{name}", launch[limit]))
        out, err = self.spools
        moves = [(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate((stdin, out.sink, err.sink))]
        os.umask(AGENT_UMASK)
        try:
            os.chdir(launch["cwd"])
            pid = os.posix_spawn(
                launch["argv"][0],
                launch["argv"],
                launch["env"],
                file_actions=moves,
                setsid=True,
                setsigmask=(),
                setsigdef=RESTORED,
            )
        finally:
            os.chdir("/")
            os.umask(0o077)
            os.close(stdin)
            # It may hold a key, and the directory may stand for days.
            _remove(f"{self.directory}/launch.json")
            for spool in self.spools:
                spool.close_sink()
        self.deadline = time.monotonic() + launch["runtime_s"]
        self.childless = False
        self.agent = (pid, (stat_of(pid) or ("", 0, 0))[2])
        for spool in self.spools:
            self.poll.register(spool.source, select.POLLIN)
        self._record_agent()

    def _record_agent(self) -> None:
        pid, start = self.agent
        record = {"pid": pid, "start_time": start, "boot_id": self.boot_id}
        try:
            fd = os.open(f"{self.directory}/.agent", os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(fd, json.dumps(record).encode())
            os.close(fd)
            os.rename(f"{self.directory}/.agent", f"{self.directory}/agent")
        except OSError as error:
            self.spools[0].error = _text(error)  # a full disk must not end a running agent
        self._tell()

    def _watch(self) -> None:
        while self.agent[0] and self.status is None:
            now = time.monotonic()
            if now >= self.deadline and self.verdict == "exited":
                self._stop("timed_out")
            if now >= self.kill_at:
                return
            self._step(min(self.deadline, self.kill_at) - now)

    def _step(self, wait_s: float) -> None:
        """Handle what is ready, waiting at most so long; a deadline that is not set waits on."""
        limit_ms = None if wait_s == float("inf") else max(0, int(wait_s * 1000) + 1)
        for fd, _ready in self.poll.poll(limit_ms):
            if fd == self.signals:
                noticed = os.read(fd, CHUNK_BYTES)
                # Reaped first: an agent that ended before the wish was seen has finished.
                self._reap()
                if signal.SIGTERM in noticed:
                    self._see_end()
            else:
                self._pump(next(spool for spool in self.spools if spool.source == fd))

    def _pump(self, spool: Spool) -> None:
        before = spool.kept
        if spool.pump() == 0:
            self.poll.unregister(spool.source)
        if spool.kept > before:
            self._tell()

    def _see_end(self) -> None:
        try:
            wish = json.loads(_read(f"{self.directory}/end"))
        except FileNotFoundError:
            return  # a SIGTERM that is not the worker's says nothing
        if self.status is None and self.verdict == "exited":
            self.end_reason = str(wish["reason"])
            self._stop("cancelled")

    def _stop(self, verdict: str) -> None:
        self.verdict = verdict
        self.deadline = float("inf")
        self.kill_at = time.monotonic() + self.grace_s
        if self.agent[0]:
            # The agent is not reaped yet, so the number of its group cannot be another's.
            _signal_group(self.agent[0], signal.SIGTERM)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # The kernel's word to a subreaper: no descendant is left, orphans included.
                self.childless = True
                return
            if pid == 0:
                self.childless = False
                return
            self.killed.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            if pid == self.agent[0]:
                self.status = code
            elif self.ending and code == -signal.SIGKILL:
                self.leftovers += 1

    def _end_tree(self) -> int:
        """Kill what is left and return how many live; a cancel goes on until none does.

        Only direct children are killed by number: no other process reaps them, so a number
        cannot have become another's. What they leave becomes a child of this subreaper.
        """
        self.ending = True
        limit = time.monotonic() + KILL_LIMIT_S
        while True:
            self._reap()
            late = time.monotonic() >= limit
            if not self.childless:
                busy = self._kill_children()
            elif self.verdict in {"exited", "spawn_failed"}:
                return 0  # a finished task needs no search: this saves it milliseconds
            else:
                strays = task_processes(self.task_id, 0)
                if not strays:
                    return 0
                sent = [signal_process(stray, signal.SIGKILL) for stray in strays]
                busy = any(sent)
            if late and self.verdict != "cancelled":
                return max(1, len(task_processes(self.task_id, os.getpid())))
            # Something that forks and exits all the time is only caught without a pause.
            self._step(0 if busy else STUBBORN_PAUSE_S if late else KILL_PAUSE_S)

    def _kill_children(self) -> bool:
        """Kill each direct child once; return whether there was a new one."""
        new = [pid for pid in _children() if pid not in self.killed]
        for pid in new:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue  # another user's by now: it stays counted
        self.killed.update(new)
        return bool(new)

    def _drain(self) -> None:
        for spool in self.spools:
            while spool.pump() > 0:
                pass

    def _write_result(self, left: int) -> None:
        runtime_s = time.monotonic() - self.begun
        fields: dict[str, object] = {
            "verdict": self.verdict,
            "exit_code": self.status,
            "error": self.error,
            "end_reason": self.end_reason,
            "processes_left": left,
            "leftovers_ended": self.leftovers,
            "started_at": self.started_at,
            "ended_at": self.started_at + runtime_s,
            "runtime_s": runtime_s,
            "spool_error": "; ".join(s.error for s in self.spools if s.error),
        }
        for name, spool in zip(("stdout", "stderr"), self.spools, strict=False):
            fields[f"{name}_bytes"], fields[f"{name}_kept"] = spool.total, spool.kept
            fields[f"{name}_sha256"] = spool.digest.hexdigest()
        size = os.pwrite(self.room, json.dumps(fields).encode(), 0)
        os.ftruncate(self.room, size)
        os.fsync(self.room)
        os.rename(f"{self.directory}/.result", f"{self.directory}/result.json")
        self._tell()
        # After the wake-up: the reader's own commit does not rest on this sync.
        _sync_directory(self.directory)

    def _tell(self) -> None:
        """Leave at most one byte in the pipe: "look again"."""
        waiting = bytearray(4)
        try:
            fcntl.ioctl(self.wake, FIONREAD, waiting)
            if not any(waiting):
                os.write(self.wake, b".")
        except OSError:
            self.wake = -1  # the pipe is a convenience; the files are the truth


def _fork_idle(boot_id: str, libc: ctypes.CDLL) -> bool:
    """Fork the next idle shim; True once it took a task, False when it ended without one."""
    source, sink = os.pipe()
    if os.fork() != 0:
        os.close(sink)
        taken = os.read(source, 1)
        os.close(source)
        return bool(taken)
    status = 1
    try:
        os.close(source)
        os.setsid()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        shim = Shim(boot_id)
        null = os.open("/dev/null", os.O_RDWR)
        if shim.wait():
            os.dup2(null, 0)
            os.dup2(null, 1)
            ours = shim.begin()
            # Only now, so that the successor's fork takes no time from this start.
            _write_quietly(sink)
            os.close(sink)
            if ours:
                shim.finish()
        status = 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        raise
    finally:
        os._exit(status)


def _listen_for_signals() -> "tuple[int, select.poll]":
    source, sink = os.pipe()
    for fd in (source, sink):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
    for signum in NOTICED:
        signal.signal(signum, lambda _signum, _frame: None)
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return source, poll


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _children() -> list[int]:
    try:
        return [int(pid) for pid in _read("/proc/thread-self/children").split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [pid for pid in _pids() if (stat_of(pid) or ("", 0, 0))[1] == os.getpid()]


def _is_marked(pid: int, wanted: bytes) -> bool:
    try:
        return wanted in b"\0" + _read(f"/proc/{pid}/environ")
    except OSError:
        return False  # gone, or another user's


def _signal_group(pgid: int, signum: int) -> None:
    try:
        os.killpg(pgid, signum)
    except OSError:
        return


def _write_quietly(fd: int) -> None:
    try:
        os.write(fd, b".")
    except OSError:
        return  # whoever read this is gone; the task goes on


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def _sync_directory(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return  # taken in and renamed away already
    os.fsync(fd)


def _text(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    where = f": `{error.filename}`" if error.filename else ""
    return f"{error.strerror or type(error).__name__}{where}"


def _find_sha256():  # noqa: ANN202 - a private type of the standard library
    # `hashlib` would load OpenSSL: 3 MB in every shim.
    for name in ("_sha2", "_sha256"):
        try:
            return __import__(name).sha256
        except ImportError:
            continue
    return __import__("hashlib").sha256


SHA256 = _find_sha256()

if __name__ == "__main__":
    sys.exit(main())
