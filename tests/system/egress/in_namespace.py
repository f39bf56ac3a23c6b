"""Starts a relay and becomes a program, as the launcher does. Runs as `python -I -S`.

in_namespace.py ROOT SOCKET PORT DAEMON_LIMIT_S PROGRAM ARGUMENTS...
"""

import os
import subprocess
import sys

root, path, port, limit_s, *program = sys.argv[1:]
sys.path.append(root)

from cmesh.sandbox import relay  # noqa: E402

directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)  # noqa: PTH120
subprocess.run(["ip", "link", "set", "lo", "up"], stderr=subprocess.DEVNULL, check=False)
relay.DAEMON_LIMIT_S = float(limit_s)
relay.start(int(port), directory, os.path.basename(path))  # noqa: PTH119
os.closerange(3, 256)
os.execvp(program[0], program)
