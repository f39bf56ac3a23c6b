"""Starts a program again whenever it ends, as a service manager does; ends it when told to.

    python supervisor.py [--always] COMMAND...

Without `--always` it follows the unit of `cmesh service install`: `Restart=on-failure`, `RestartSec=100ms`,
`RestartForceExitStatus=75`. SIGTERM goes on to the program alone (`KillMode=process`).
"""

import os
import signal
import subprocess
import sys
import threading

PAUSE_S = 0.1
HANDED_OVER = 75
END_LIMIT_S = 30.0


def main(arguments: list[str]) -> int:
    """Supervise until SIGTERM, or until the program has ended well for good."""
    always = arguments[0] == "--always"
    command = arguments[1:] if always else arguments
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    while not stop.is_set():
        process = subprocess.Popen(command)
        ended = threading.Thread(target=process.wait)
        ended.start()
        while ended.is_alive() and not stop.wait(PAUSE_S):
            pass
        if stop.is_set() and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(END_LIMIT_S)
        ended.join()
        if process.returncode == 0 and not always:
            break
        stop.wait(PAUSE_S)
    return 0


if __name__ == "__main__":
    os.setsid()
    sys.exit(main(sys.argv[1:]))
