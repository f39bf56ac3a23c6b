"""What is made from the registry is what is committed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_handshake_file_and_the_table_of_tools_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "gen_mcp.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
