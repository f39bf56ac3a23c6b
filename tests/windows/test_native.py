"""The node in a CPython for Windows, under Wine, on a tailnet of this machine.

By scripts/test-windows, which makes the ground; not part of scripts/test. Wine shows that the
code works, not what Windows enforces between users.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cmesh.node.testnet import Testnet

pytestmark = [pytest.mark.anyio, pytest.mark.system]

GROUND = Path(__file__).parents[2] / ".cache" / "windows" / "wine"
PYTHON = GROUND / "python" / "python.exe"
RUN_LIMIT_S = 300


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def wine() -> Mapping[str, str]:
    """Return the environment of a Windows Python with cmesh beside it."""
    if shutil.which("wine") is None or not (GROUND / "site" / "cmesh" / "_native.pyd").exists():
        pytest.skip("no Wine or no Python for Windows here: scripts/test-windows")
    return os.environ | {
        "WINEPREFIX": str(GROUND / "prefix"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",  # nothing asks to install Mono or Gecko
        "PYTHONHOME": f"Z:{GROUND / 'python'}",
        "PYTHONPATH": f"Z:{GROUND / 'python' / 'lib'};Z:{GROUND / 'site'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.mark.timeout(RUN_LIMIT_S)
async def test_two_nodes_meet_echo_and_end(wine: Mapping[str, str], tmp_path: Path) -> None:
    async with Testnet(auto_user="alice@example.com") as testnet:
        done = subprocess.run(
            ["wine", PYTHON, Path(__file__).with_name("two_nodes.py"), testnet.control_url,
             f"Z:{tmp_path}"],
            env=wine, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=RUN_LIMIT_S, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen.pop("whois").startswith("client.")
    assert seen == {
        "idle": "BlockingIOError",
        "echo": "echo",
        "end": "",
        "bulk": True,
        "unknown": "UnknownPeer",
        "refused": "Refused",
        "untaken": True,
        "closed": "NodeClosed",
        "left": {"nodes": 0, "listeners": 0, "connections": 0, "operations": 0},
    }
