"""Other processes by their pidfd."""

import os
import select

__all__ = ["wait_ended"]


def wait_ended(pid: int, limit_s: float) -> bool | None:
    """Wait for the end of a process; None where the kernel gives no pidfd. Blocks."""
    opener = getattr(os, "pidfd_open", None)  # Linux 5.3, and no other Unix
    if opener is None:
        return None
    try:
        handle: int = opener(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return None
    # Readable once the process ended, even when nobody reaps it (pidfd_open(2)).
    try:
        return bool(select.select([handle], [], [], limit_s)[0])
    finally:
        os.close(handle)
