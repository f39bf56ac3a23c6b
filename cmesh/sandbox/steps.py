"""What the launcher does in a process before that becomes the task, in this order.

Standard library only. Every step that fails ends it: the task is never started with less. What
was done is told on a descriptor that closes with the task's start.
"""

import marshal
import os
import resource

from cmesh.sandbox import landlock, libc, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from importlib import import_module
    from typing import Any, NoReturn
else:
    # `signal`, `json` and `importlib` would cost each start as much as all the rest.
    import _signal as signal
    from _frozen_importlib import _gcd_import as import_module

__all__ = ["main"]

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
TASK_UMASK = 0o077
READ_BYTES = 65536
FAILED = 125
"""The exit status when nothing was started."""


def main(order: int, report: int) -> "NoReturn":
    """Read the order from one descriptor, become the task, or tell on the other why not."""
    try:
        os.set_inheritable(report, False)
        _become(marshal.loads(_read_all(order)), report)
    except (OSError, ValueError, KeyError) as error:
        words = error.strerror if isinstance(error, OSError) else repr(error)
        where = f": `{error.filename}`" if isinstance(error, OSError) and error.filename else ""
        os.write(report, f"error {words}{where}\n".encode())
    os._exit(FAILED)


def _become(order: "dict[str, Any]", report: int) -> None:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if order["parent"] not in (0, os.getppid()):
        raise OSError(0, "what started it has ended")
    for name, value in order["limits"].items():
        _limit(getattr(resource, f"RLIMIT_{name}"), value)
    os.umask(TASK_UMASK)
    directory, relay = order["directory"], order["relay"]
    _enter(directory, order["cwd"])
    if order["starts_in"]:
        os.chdir(order["starts_in"])
    # What only Landlock holds is named by its descriptor until that is asked.
    named = {directory, order["objects"], *order["parts"], relay["fd"] if relay else report}
    _close_all_but({0, 1, 2, report, *named})
    own_network = os.readlink("/proc/self/ns/net") != order["network"]
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(libc.last_error(), "NO_NEW_PRIVS")
    if relay:
        # Here, so that its module costs a task without one nothing. What it starts is in this
        # network namespace, outside of what follows, and ends with the task.
        carrier = import_module("cmesh.sandbox.relay")
        carrier.start(relay["port"], relay["fd"], relay["name"])
        os.close(relay["fd"])
    abi = 0
    if order["landlock"]:
        rules = order["landlock"]
        # One that another version planned has no folders.
        folders = rules.get("folders", ())
        abi = landlock.restrict(
            rules["read"], rules["write"], rules["devices"], rules["ports"], folders
        )
    seccomp.install(metadata=order["metadata"])
    held = f"landlock={abi} seccomp own_network={own_network}"
    if held != order["expect"]:
        raise OSError(0, f"it is held by `{held}`, planned was `{order['expect']}`")
    os.write(report, f"held {held}\n".encode())
    _close_all_but({0, 1, 2, report})
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these two
        signal.signal(signum, signal.SIG_DFL)
    # A wish to end that came meanwhile is taken now, by the task's own rules.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execve(order["argv"][0], order["argv"], order["env"])


def _limit(kind: int, value: int) -> None:
    """Set a limit, or the machine's own where that is lower."""
    _soft, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _enter(directory: int, cwd: str) -> None:
    """Go to the directory that was checked; below bubblewrap it is mounted at its name."""
    if directory >= 0:
        os.fchdir(directory)
    else:
        os.chdir(cwd)


def _close_all_but(keep: set[int]) -> None:
    """Close every descriptor but these: an inherited one would reach round all rules."""
    begin = 0
    for fd in sorted(fd for fd in keep if fd >= 0):
        if begin < fd:  # an empty range from 0 would close all
            os.closerange(begin, fd)
        begin = fd + 1
    os.closerange(begin, 2**31 - 1)


def _read_all(fd: int) -> bytes:
    data = b""
    while more := os.read(fd, READ_BYTES):
        data += more
    os.close(fd)
    return data
