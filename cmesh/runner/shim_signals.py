"""The signals a shim waits for, as a descriptor among those it polls. Standard library only."""

import os
import select
import signal

__all__ = ["listen_for_signals"]

NOTICED = (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP)


def listen_for_signals() -> "tuple[int, select.poll]":
    """Return the descriptor that tells signals by number, and a poll that has it."""
    source, sink = os.pipe()
    for fd in (source, sink):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
    for signum in NOTICED:
        signal.signal(signum, lambda _signum, _frame: None)
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return source, poll
