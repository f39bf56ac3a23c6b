"""The node in a CPython for Windows, under Wine, on a tailnet of this machine.

By scripts/test-windows, which makes the ground; not part of scripts/test. Wine shows that the
code works, not what Windows enforces between users.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cmesh.node.testnet import Testnet
from tests.windows.wine import GROUND, PYTHON
from tests.windows.wine import environment as wine_environment

pytestmark = [pytest.mark.anyio, pytest.mark.system]

RUN_LIMIT_S = 300


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def wine() -> Mapping[str, str]:
    """Return the environment of a Windows Python with cmesh beside it."""
    return wine_environment(GROUND / "site", GROUND / "site" / "cmesh" / "_native.pyd")


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
