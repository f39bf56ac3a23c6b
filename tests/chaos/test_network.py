"""The line between two machines fails in every way; the tasks do not notice, and it heals soon.

Played by `tests.chaos.network` in a network namespace of its own, which needs root.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.system.daemon.machine import ROOT

pytestmark = [
    pytest.mark.system,
    pytest.mark.network_namespace,
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.getuid() != 0, reason="cables between namespaces need root"),
]

RUN_LIMIT_S = 220
SECONDS = 8


def played(*scenes: str) -> dict[str, Any]:
    """Play scenes; return their report."""
    command = [sys.executable, "-m", "tests.chaos.network", *scenes, "--seconds", str(SECONDS)]
    try:
        done = subprocess.run(
            ["unshare", "--net", *command],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=RUN_LIMIT_S,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("no `unshare` on this machine")
    if "Operation not permitted" in done.stderr:
        pytest.skip("this root may not make network namespaces")
    assert done.returncode == 0, done.stderr[-4_000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_pulled_and_a_deaf_line_cost_no_task_and_heal() -> None:
    assert played("pulled", "deaf")["faults"] == 0


def test_a_flapping_and_a_slow_line_cost_no_task() -> None:
    assert played("flapping", "slow")["faults"] == 0
