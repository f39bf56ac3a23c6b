"""What a daemon's process carries before anybody asks it for anything."""

import subprocess
import sys


def test_a_daemon_without_an_agent_does_not_load_the_mcp_sdk() -> None:
    program = "import sys, cmesh.interfaces.serve; print('mcp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
