"""Which processes are a task's, read from /proc. Standard library only: the shim loads it.

Never acts on a bare number: a process is named by its number and its start time.
"""

import os
import signal

__all__ = [
    "MARKER",
    "Process",
    "children_of",
    "host_pid",
    "is_zombie",
    "kill_children",
    "process_of",
    "signal_group",
    "signal_process",
    "stat_of",
    "task_processes",
]

MARKER = "CMESH_TASK"

# (pid, start time in clock ticks since boot) names one process of one boot: proc_pid_stat(5).
Process = tuple[int, int]


def stat_of(pid: int) -> tuple[str, int, int] | None:
    """Return (state, parent's pid, start time) of a process; None when there is none."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    # The command name may hold blanks and brackets: count from the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0].decode(), int(fields[1]), int(fields[19])


def process_of(pid: int) -> Process:
    """Return the process that has this number now; a start time of 0 names none."""
    return pid, (stat_of(pid) or ("", 0, 0))[2]


def is_zombie(state: str) -> bool:
    """Return whether a process of this state has ended and only waits for its parent."""
    return state in "ZX"


def task_processes(task_id: str, root: int, first: Process = (0, 0)) -> set[Process]:
    """Return the live processes below `root` or with the task's marker, and all below those.

    Args:
        task_id: whose marker is looked for.
        root: the task's living shim, which is left out; 0 = it is dead.
        first: the first process of the task's PID namespace. It is left out while the shim
            lives. Under a dead shim it counts: it has not gone before the kernel has
            removed every process of the namespace.

    One look, not atomic: a process may be born behind it, so only repeated looks, the kernel's
    "no child" to a subreaper, or the end of a namespace prove zero.
    """
    wanted = b"\0%s=%s\0" % (MARKER.encode(), task_id.encode())
    seen = {pid: stat for pid in _pids() if (stat := stat_of(pid)) is not None}
    children: dict[int, list[int]] = {}
    for pid, (_state, parent, _start) in seen.items():
        children.setdefault(parent, []).append(pid)
    todo = [pid for pid in seen if _is_marked(pid, wanted)]
    todo += children.get(root, []) if root else []
    if first[0] in seen and seen[first[0]][2] == first[1]:
        todo.append(first[0])
    found: set[int] = set()
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, [])
    found -= {root, first[0]} if root else set()
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


def children_of(pid: int) -> list[int]:
    """Return the children of a process with one thread, zombies as well."""
    try:
        return [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]
    except OSError:  # it is gone, or the kernel is one without CONFIG_PROC_CHILDREN
        return [child for child in _pids() if (stat_of(child) or ("", 0, 0))[1] == pid]


def host_pid(parent: int, inner: int) -> int:
    """Return this side's number of a child that a PID namespace numbers `inner`; 0 = none.

    Until its parent has reaped it the child has both numbers, dead or alive.
    """
    for child in children_of(parent):
        try:
            status = _read(f"/proc/{child}/status")
        except OSError:
            continue
        line = status.partition(b"\nNSpid:")[2].partition(b"\n")[0]
        if line.split()[-1:] == [b"%d" % inner]:
            return child
    return 0


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _is_marked(pid: int, wanted: bytes) -> bool:
    try:
        return wanted in b"\0" + _read(f"/proc/{pid}/environ")
    except OSError:
        return False  # gone, or another user's


def kill_children(killed: set[int]) -> bool:
    """Kill each direct child that is not in `killed`, where it is put; return whether there was a new one."""
    new = [pid for pid in children_of(os.getpid()) if pid not in killed]
    for pid in new:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue  # another user's by now: it stays counted
    killed.update(new)
    return bool(new)


def signal_group(pgid: int, signum: int) -> None:
    """Signal a process group that a process of ours leads, if it is there."""
    try:
        os.killpg(pgid, signum)
    except OSError:
        return


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
