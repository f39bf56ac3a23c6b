"""Other processes by kqueue(2)."""

import select

__all__ = ["wait_ended"]


def wait_ended(pid: int, limit_s: float) -> bool | None:
    """Wait for the end of a process; None where the kernel does not let it be watched. Blocks."""
    watched = select.kevent(
        pid,
        filter=select.KQ_FILTER_PROC,
        flags=select.KQ_EV_ADD | select.KQ_EV_ONESHOT,
        fflags=select.KQ_NOTE_EXIT,
    )
    queue = select.kqueue()
    try:
        return bool(queue.control([watched], 1, limit_s))
    except ProcessLookupError:
        return True
    except OSError:
        return None
    finally:
        queue.close()
