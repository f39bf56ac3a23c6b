"""How a task's agent is started and what contains it. Standard library only: the shim loads it.

`Namespace` is a PID namespace that ends with the shim: the kernel then ends every process in it.
Where it cannot be had the agent is the shim's own child. Never starts an agent by itself.
"""

import _socket
import ctypes
import json
import os
import select
import signal

from cmesh.beneath import open_judged
from cmesh.runner.shim_processes import Process, children_of, host_pid, process_of
from cmesh.runner.shim_spool import CHUNK_BYTES, Spool
from cmesh.sandbox import start as sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["BEST_EFFORT", "PID_NAMESPACE", "Namespace", "error_text", "hold_port", "start_agent"]

PID_NAMESPACE = "pid_namespace"
"""Nothing of the task outlives the shim: the kernel ends the namespace with it."""

BEST_EFFORT = "best_effort"
"""Processes are found by descent from the shim and by their marker, and ended one by one."""

AGENT_UMASK = 0o022
PREPARE_LIMIT_S = 5.0
START_LIMIT_S = 30.0
# Python ignores these two, the warm process ignores the third; an agent starts with defaults.
RESTORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD)

# linux/sched.h, linux/mount.h, linux/prctl.h
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_SLAVE = 0x2, 0x4, 0x8, 0x4000, 0x80000
PR_SET_PDEATHSIG = 1

LOOPBACK = "127.0.0.1"
_SIZE_BYTES = 4
# What the shim says before the launch; end of file means: end.
_SETTLED = b"s"


def start_agent(launch: "dict[str, Any]", stdin: str, out: int, err: int) -> int:
    """Start the program of a launch record in a session of its own; return its number.

    Leaves working directory and umask changed. A record with a `sandbox` starts that, and the
    number is the sandbox's, which ends as the program in it did.

    Raises:
        OSError, ValueError: it cannot be started.
    """
    os.umask(AGENT_UMASK)
    source = os.open(stdin, os.O_RDONLY)
    try:
        if launch.get("sandbox"):
            return sandbox.start(launch, source, out, err)
        _enter(launch)
        return os.posix_spawn(
            launch["argv"][0],
            launch["argv"],
            launch["env"],
            file_actions=[
                (os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate((source, out, err))
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=RESTORED,
        )
    finally:
        os.close(source)


def hold_port(port: int) -> _socket.socket:
    """Keep a port of the loopback from programs of other users; return what keeps it.

    The kernel lets a second socket bind it that has SO_REUSEPORT and belongs to the same user:
    the daemon's, and the next daemon's. This one does not listen, so while there is no daemon a
    connection is refused, and nobody else is shown the task's token.

    Raises:
        OSError: a program of another user, or one that does not share it, has the port.
    """
    held = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        held.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        held.bind((LOOPBACK, port))
    except OSError as error:
        held.close()
        raise OSError(error.errno, f"{error.strerror}: port {port} of its endpoint") from None
    return held


def _enter(launch: "dict[str, Any]") -> None:
    """Make the task's directory the working directory: the one that was judged, by descriptor.

    A program that must not find itself there goes on to a directory of its own.
    """
    judged = launch.get("judged")
    if judged is None:
        os.chdir(launch["cwd"])
    else:
        fd = open_judged(judged)
        try:
            os.fchdir(fd)
        finally:
            os.close(fd)
    if launch.get("starts_in"):
        os.chdir(launch["starts_in"])


def error_text(error: OSError | ValueError) -> str:
    """Return the system's words and the file they are about."""
    if not isinstance(error, OSError):
        return str(error)
    where = f": `{error.filename}`" if error.filename else ""
    return f"{error.strerror or type(error).__name__}{where}"


class Namespace:
    """A PID namespace with one process in it, which waits for an agent to start.

    The caller must be a subreaper with one thread and default SIGCHLD, which becomes the first
    process's parent, and ends it by its death, whatever it dies of.

    Attributes:
        first: that process, by this side's number; when it has been reaped, the kernel has
            removed every other process of the namespace.
        report: descriptor on which `exit_status` becomes readable.
    """

    def __init__(self, libc: ctypes.CDLL, spools: "list[Spool]") -> None:
        """Make the namespace; its agent will write into the spools' pipes.

        Raises:
            OSError: the kernel, or a rule of this machine, does not allow it.
        """
        self._rest, self._closed = b"", False
        theirs, self._orders = os.pipe()
        self.report, ours = os.pipe()
        middle = os.fork()
        if middle == 0:
            os.close(self._orders)
            os.close(self.report)
            _unshare_and_fork(libc, theirs, ours, spools)
        os.close(theirs)
        os.close(ours)
        try:
            first = self._receive(PREPARE_LIMIT_S)["pid"]
            # INVARIANT: once the process in between is gone the first one is our child, and a
            # death signal it asks for from now on tells of our death.
            os.waitpid(middle, 0)
            self._order(_SETTLED)
            self._receive(PREPARE_LIMIT_S)
        except OSError:
            self.close()
            _end_quietly(middle)
            raise
        self.first: Process = process_of(first)

    def silent(self) -> bool:
        """Return whether the first process lives and has said nothing that was not read."""
        return b"\n" not in self._rest and not select.select([self.report], [], [], 0)[0]

    def start(self, launch: "dict[str, Any]", stdin: str) -> int:
        """Start the agent of a launch record; return its number on this side.

        Raises:
            OSError: it cannot be started; says why.
        """
        data = json.dumps({"launch": launch, "stdin": stdin}).encode()
        self._order(len(data).to_bytes(_SIZE_BYTES, "big") + data)
        inner = self._receive(START_LIMIT_S)["pid"]
        # The first process never reaps the agent, so the number is there, dead or alive.
        pid = host_pid(self.first[0], inner)
        if not pid:
            raise _trouble("the agent's process cannot be found in /proc")
        return pid

    def is_empty(self, agent: int) -> bool:
        """Return whether nothing lives inside, once the agent has ended.

        Sound in one look: all that lives inside descends from the first process, and whatever
        lost its parent is its child at once. It reaps nothing any more either.
        """
        return children_of(self.first[0]) == [agent]

    def exit_status(self) -> int | None:
        """Return the agent's exit status, negative for a signal; None = the namespace ended."""
        try:
            return self._receive(START_LIMIT_S)["status"]
        except OSError:
            return None

    def close(self) -> None:
        """Close this side; the first process ends by it, and with it the namespace."""
        if self._closed:
            return  # its numbers may be others' by now
        self._closed = True
        os.close(self._orders)
        os.close(self.report)

    def _order(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._orders, data) :]
        except BrokenPipeError:
            return  # what it has to say, or its end, is read next

    def _receive(self, limit_s: float) -> "dict[str, Any]":
        while b"\n" not in self._rest:
            if not select.select([self.report], [], [], limit_s)[0]:
                raise _trouble("a namespace's first process does not answer")
            data = os.read(self.report, CHUNK_BYTES)
            if not data:
                raise _trouble("a namespace's first process ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise _trouble(answer["error"])
        return answer


def _unshare_and_fork(
    libc: ctypes.CDLL, orders: int, report: int, spools: "list[Spool]"
) -> "NoReturn":
    """Enter new namespaces, fork their first process and end: the middle of the two forks."""
    status = 1
    try:
        # The keeper's socket and pipe must not be held by whoever comes after.
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        uid, gid = os.getuid(), os.getgid()
        flags = CLONE_NEWNS | CLONE_NEWPID
        if not _may_without_user_namespace(libc, flags):
            _check(libc.unshare(flags | CLONE_NEWUSER), "user namespace")
            # Each id stands for itself: files made inside have the same owner outside.
            _write_file("/proc/self/setgroups", "deny")
            _write_file("/proc/self/uid_map", f"{uid} {uid} 1")
            _write_file("/proc/self/gid_map", f"{gid} {gid} 1")
        first = os.fork()
        if first == 0:
            _be_first(libc, orders, report, spools)
        _say(report, pid=first)
        status = 0
    except OSError as error:
        _say(report, error=error_text(error))
    finally:
        os._exit(status)


def _may_without_user_namespace(libc: ctypes.CDLL, flags: int) -> bool:
    """Try it with the rights there are: root needs no user namespace, and keeps all it can."""
    return libc.unshare(flags) == 0


def _be_first(libc: ctypes.CDLL, orders: int, report: int, spools: "list[Spool]") -> "NoReturn":
    """Live as the first process of a PID namespace: start one agent, reap orphans, report."""
    status = 1
    try:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(signum, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        keep = [orders, report, *(spool.sink for spool in spools)]
        _close_all_but(keep)
        none = ctypes.c_char_p(None)
        slave, plain = MS_REC | MS_SLAVE, MS_NOSUID | MS_NODEV | MS_NOEXEC
        _check(libc.mount(none, b"/", none, ctypes.c_ulong(slave), none), "mounts")
        # Without its own /proc a process would find strangers under its numbers.
        _check(libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(plain), none), "/proc")
        if os.read(orders, 1) == _SETTLED:
            _check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "death signal")
            # The shim may have died before that call; then its end of the pipe is closed.
            if not _hung_up(orders):
                _say(report, ready=True)
                _serve(orders, report, [spool.sink for spool in spools])
        status = 0
    except (OSError, ValueError) as error:
        _say(report, error=error_text(error))
    finally:
        os._exit(status)


def _serve(orders: int, report: int, sinks: list[int]) -> None:
    size = int.from_bytes(_read_all(orders, _SIZE_BYTES), "big")
    if not size:
        return  # the shim goes without a task
    order = json.loads(_read_all(orders, size))
    agent = start_agent(order["launch"], order["stdin"], *sinks)
    for sink in sinks:
        os.close(sink)
    os.chdir("/")
    _say(report, pid=agent)
    while True:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert found is not None
        if found.si_pid == agent:
            break
        os.waitpid(found.si_pid, 0)
    confined = order["launch"].get("sandbox")
    if confined and confined["outer"]:
        _await_inner_namespace(agent)
    # INVARIANT: the agent stays a zombie, so neither its number nor its group's can be
    # another's while the shim may still signal them.
    code = found.si_status
    _say(report, status=code if found.si_code == os.CLD_EXITED else -code)
    os.read(orders, 1)  # until the shim ends this process, or itself


def _await_inner_namespace(agent: int) -> None:
    """Wait for what the end of bubblewrap makes the kernel end.

    All it started is in a PID namespace of its own, whose first process was bound to its life
    and becomes a child of this one.
    """
    for child in children_of(os.getpid()):
        if child != agent:
            os.waitpid(child, 0)


def _close_all_but(keep: list[int]) -> None:
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in keep:
            _close_quietly(fd)  # the one that read the list is closed already


def _hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & select.POLLHUP for _fd, event in poll.poll(0))


def _say(fd: int, **fields: object) -> None:
    os.write(fd, json.dumps(fields).encode() + b"\n")


def _read_all(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            return b""
        data += more
    return data


def _write_file(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise _trouble(f"{what}: {os.strerror(ctypes.get_errno())}")


def _trouble(words: str) -> OSError:
    return OSError(ctypes.get_errno(), words)


def _close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        return


def _end_quietly(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except OSError:
        return
