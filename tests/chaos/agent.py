"""The chaos suite's own runner program: notes each start and each finish in a ledger.

Standard library only, run as `python -I -S agent.py LEDGER`. What to do comes as JSON on
stdin. Each line is one append, synced before the program goes on, so the ledger knows more
than any daemon does. It talks to nobody.
"""

import json
import os
import signal
import sys
import time

MARKER = "CMESH_TASK"


def main(ledger: str) -> int:
    """Do what stdin says; return the exit status it asks for."""
    wanted = json.load(sys.stdin)
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND)
    nonce = os.urandom(8).hex()
    _note(fd, "start", nonce, wanted["key"])
    if wanted.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # A survivor of the plain kinds of clean-up: a session of its own.
        os.posix_spawn("/bin/sleep", ["sleep", "300"], dict(os.environ), setsid=True)
    end = time.monotonic() + wanted["seconds"]
    while (left := end - time.monotonic()) > 0:
        print("tick", flush=True)
        time.sleep(min(left, 0.2))
    _note(fd, "finish", nonce, wanted["key"], wanted["exit"])
    return int(wanted["exit"])


def _note(fd: int, what: str, nonce: str, key: str, code: int = 0) -> None:
    line = {
        "what": what,
        "task": os.environ.get(MARKER, ""),
        "key": key,
        "nonce": nonce,
        "pid": os.getpid(),
        "exit": code,
    }
    os.write(fd, json.dumps(line).encode() + b"\n")
    os.fsync(fd)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
