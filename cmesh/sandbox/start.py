"""Starts a task in its sandbox and hears from the launcher what holds it.

Standard library only: the shim loads it, and `cmesh.sandbox.probe`. Opens the task's directory
itself, and hands on that descriptor; never starts anything outside of the sandbox instead.
"""

import contextlib
import errno
import fcntl
import marshal
import os
import select
import signal

from cmesh.beneath import open_beneath, open_judged, open_part
from cmesh.sandbox.opening import open_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BESIDE_FD",
    "BESIDE_MOST",
    "DIRECTORY_FD",
    "MARKER_VARIABLE",
    "OBJECTS_FD",
    "OPTIONS_FD",
    "ORDER_FD",
    "PARTS_FD",
    "PARTS_MOST",
    "REPORT_FD",
    "start",
    "trial",
]

DIRECTORY_FD, ORDER_FD, REPORT_FD, OPTIONS_FD, OBJECTS_FD, _RELAY_FD = 3, 4, 5, 6, 7, 8
"""What the started process gets besides the standard three."""

PARTS_FD, PARTS_MOST = 16, 64
"""Of the parts of its directory that are shown or written apart, where there are any."""

BESIDE_FD, BESIDE_MOST = PARTS_FD + PARTS_MOST, 16
"""Of folders that are shown in its copy and are not of it."""

MARKER_VARIABLE = "CMESH_TASK"
"""By which a task's processes are found; the rest of its environment goes another way."""

REPORT_LIMIT_S = 20.0
READ_BYTES = 65536
# Descriptors are moved above this first, so that giving them their numbers overwrites none.
_ABOVE = BESIDE_FD + BESIDE_MOST
_NOT_HELD = "the sandbox did not start"


def start(launch: "dict[str, Any]", stdin: int, out: int, err: int) -> int:
    """Start a launch record that has a `sandbox`, in a session of its own; return its number.

    When it returns, the program itself has been started, held by all that was planned.
    Blocks until then, at most `REPORT_LIMIT_S`.

    Raises:
        OSError, ValueError: it was not, and nothing of it is left; says why.
    """
    record = launch["sandbox"]
    outer = record["outer"]
    marker = launch["env"].get(MARKER_VARIABLE)
    heard, report = os.pipe()
    # INVARIANT: nothing is closed twice. The daemon tries a start too, in a thread, and the
    # number may be its control socket's by then.
    with contextlib.ExitStack() as opened, contextlib.ExitStack() as told:
        opened.callback(os.close, heard)
        report = _kept(told, report)
        directory = _kept(opened, _open_judged(launch))
        given = [
            *(stdin, out, err),
            directory,
            _kept(opened, _file("order", marshal.dumps(_order(launch)))),
            report,
            # Not on the command line: that can be read inside.
            _kept(opened, _file("options", "".join(f"{text}\0" for text in record["options"]))),
        ]
        numbered = dict(enumerate(given))
        if not record.get("whole", True):
            del numbered[DIRECTORY_FD]
        for number, below in enumerate(record.get("parts", ()), PARTS_FD):
            numbered[number] = _kept(opened, _open_part(directory, below))
        beside = record.get("beside")
        for number, below in enumerate(beside["names"] if beside else (), BESIDE_FD):
            numbered[number] = _kept(opened, _open_beside(beside["judged"], below))
        if record.get("objects"):
            numbered[OBJECTS_FD] = _kept(opened, _open_objects(record["objects"]))
        if record["relay"]:
            folder = os.path.dirname(record["relay"]["socket"])
            numbered[_RELAY_FD] = _kept(opened, os.open(folder, os.O_PATH | os.O_DIRECTORY))
        pid = os.posix_spawn(
            record["argv"][0],
            record["argv"],
            {MARKER_VARIABLE: marker} if marker else {},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in numbered.items()],
            setsid=True,
            # bubblewrap must outlive a wish to end: the task may take its time with that.
            setsigmask=(signal.SIGTERM,) if outer else (),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD),
        )
        told.close()  # so that the pipe ends with the launcher's end of it
        trouble = _compare(_hear(heard), record["expect"])
    if trouble:
        ended = _end(pid)
        # How the launcher ends says something only where it has not said it itself.
        raise OSError(errno.EPERM, trouble + ended if trouble.startswith(_NOT_HELD) else trouble)
    return pid


def trial(launch: "dict[str, Any]") -> str:
    """Run a launch record to its end; return what went wrong, empty = it ended with 0.

    Blocks until it has ended: it is a program that is known to.
    """
    source, sink = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        pid = start(launch, null, null, sink)
        _pid, status = os.waitpid(pid, 0)
        return f"it ended with {os.waitstatus_to_exitcode(status)}" if status else ""
    except (OSError, ValueError) as error:
        os.set_blocking(source, False)
        said = _read_quietly(source).decode("utf-8", "replace").strip()
        why = error.strerror if isinstance(error, OSError) else str(error)
        return said.partition("\n")[0] or str(why)
    finally:
        for fd in (source, sink, null):
            os.close(fd)


def _open_judged(launch: "dict[str, Any]") -> int:
    # Of `judged` its device and inode, as `cmesh.beneath.Judged` has them; a trial has none.
    judged = launch.get("judged")
    same = (judged[2], judged[3]) if judged else None
    return open_directory(launch["sandbox"]["directory"], same)


def _open_part(directory: int, below: str) -> int:
    try:
        return open_part(directory, below)
    except OSError as error:
        # Without its name: why a task did not start is told to who asked for it, too.
        raise OSError(error.errno, f"{error.strerror}: a part of its directory") from None


def _open_beside(judged: "list[Any]", below: str) -> int:
    root = open_judged((judged[0], judged[1], judged[2], judged[3]))
    try:
        return _open_part(root, below)
    finally:
        os.close(root)


def _open_objects(objects: "dict[str, Any]") -> int:
    judged = open_judged(tuple(objects["judged"]))
    try:
        return open_beneath(judged, objects["below"])
    finally:
        os.close(judged)


def _kept(opened: contextlib.ExitStack, fd: int) -> int:
    """Return a descriptor above those that are given away, closed with `opened`."""
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE)
    finally:
        os.close(fd)
    opened.callback(os.close, moved)
    return moved


def _order(launch: "dict[str, Any]") -> "dict[str, Any]":
    """Return what the launcher needs. The same interpreter reads it, so any form will do."""
    record = launch["sandbox"]
    relay, outer = record["relay"], record["outer"]
    return {
        **record["order"],
        "expect": record["expect"],
        "argv": launch["argv"],
        "env": launch["env"],
        "cwd": launch["cwd"],
        "starts_in": launch.get("starts_in", ""),
        "directory": -1 if outer else DIRECTORY_FD,
        "objects": OBJECTS_FD if record.get("objects") and not outer else -1,
        "parts": [] if outer else list(range(PARTS_FD, PARTS_FD + len(record.get("parts", ())))),
        # Below bubblewrap the parent is its first process, bound to it by bubblewrap itself.
        "parent": 0 if outer else os.getpid(),
        "network": os.readlink("/proc/self/ns/net"),
        "relay": relay
        and {"port": relay["port"], "name": os.path.basename(relay["socket"]), "fd": _RELAY_FD},
    }


def _file(name: str, content: str | bytes) -> int:
    """Return a file in memory, to be read from its beginning."""
    fd = os.memfd_create(name)
    os.write(fd, content.encode() if isinstance(content, str) else content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _hear(report: int) -> bytes:
    """Return all that the launcher said; its end of the pipe closes with the program's start."""
    data = b""
    while select.select([report], [], [], REPORT_LIMIT_S)[0]:
        more = os.read(report, READ_BYTES)
        if not more:
            return data
        data += more
    return b"error the launcher does not answer"


def _compare(said: bytes, expected: str) -> str:
    """Return why the start does not count; empty = it does."""
    held, _, error = said.decode("utf-8", "replace").partition("\n")
    if held == f"held {expected}":
        return error.removeprefix("error ").strip()  # of the program itself
    why = held.removeprefix("error ") or "it ended before it held anything"
    return f"{_NOT_HELD}: {why}"


def _end(pid: int) -> str:
    """End what was started, and return how it ended, in words."""
    os.kill(pid, signal.SIGKILL)
    _pid, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return f" (exit {code})" if code > 0 else ""


def _read_quietly(fd: int) -> bytes:
    try:
        return os.read(fd, READ_BYTES)
    except OSError:
        return b""
