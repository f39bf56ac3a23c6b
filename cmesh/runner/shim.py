"""The program that keeps tasks: one idle shim ready, each of which takes one task.

Runs as `python -I -S shim.py`, of ours only `shim_*` and `beneath`, and outlives the daemon that
asked for it. The first process keeps one idle shim forked, which waits for a task directory, a
JSON record on descriptor 0; what it does with it is `shim_task`.
"""

import ctypes
import os
import signal
import sys

if not __package__:
    # A script under `-I`: nothing else puts the package on the path. Last, so that the modules
    # of the standard library stay what they are.
    sys.path.append(os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))

from cmesh.runner.shim_files import read_file, write_quietly
from cmesh.runner.shim_group import own_group
from cmesh.runner.shim_task import Shim

__all__ = ["BOOT_ID_FILE", "main"]

BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main() -> int:
    """Keep one idle shim waiting on descriptor 0 until that ends; each takes one record."""
    libc = ctypes.CDLL(None, use_errno=True)
    boot_id = read_file(BOOT_ID_FILE).decode().strip()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while _fork_idle(boot_id, libc):
        pass
    return 0


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
        own_group()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        shim = Shim(boot_id)
        shim.prepare(libc)
        null = os.open("/dev/null", os.O_RDWR)
        if shim.wait():
            os.dup2(null, 0)
            os.dup2(null, 1)
            ours = shim.begin()
            # Only now, so that the successor's fork takes no time from this start.
            write_quietly(sink, b".")
            os.close(sink)
            if ours:
                shim.finish()
        status = 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        raise
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
