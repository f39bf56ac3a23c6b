"""The example that shows how little it takes stays short, and true."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "echo.py"
LINES = 40
RUN_LIMIT_S = 50


def test_the_echo_example_echoes_and_is_short() -> None:
    assert len(EXAMPLE.read_text("utf-8").splitlines()) < LINES
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), "--testnet"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=RUN_LIMIT_S,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    name = "client.testnet.cmesh.internal"
    assert (done.stdout, done.stderr) == (f"{name} got back: hello over the tailnet\n", "")
    assert done.returncode == 0
