"""The node and the extension compile for Windows, where the tools for that are set up."""

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[3]
TOOLS = ROOT / ".cache" / "windows" / "venv" / "ready"
BUILD_LIMIT_S = 900  # after a change, on two busy cores; without one it takes a second
_REAL_HOME = os.environ.get("HOME", "/")  # before a test gets its own: Go's caches are there


@pytest.mark.timeout(BUILD_LIMIT_S)
def test_the_windows_parts_compile_and_load_only_what_windows_has() -> None:
    if not TOOLS.exists():
        pytest.skip("no compiler for Windows here: scripts/build-windows")
    done = subprocess.run(
        [ROOT / "scripts" / "build-windows", "--check"],
        env=os.environ | {"HOME": _REAL_HOME},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=BUILD_LIMIT_S,
    )
    assert done.returncode == 0, done.stdout
    assert "_native.pyd" in done.stdout
