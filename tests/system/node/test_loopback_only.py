"""Nothing leaves loopback: two nodes and the testnet work where there is nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.network_namespace]

ROOT = Path(__file__).parents[3]
RUN_LIMIT_S = 50


def _unshare() -> list[str]:
    """Return a prefix that gives a process its own network, or skip."""
    for prefix in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        try:
            done = subprocess.run([*prefix, "true"], capture_output=True, check=False, timeout=10)
        except FileNotFoundError:
            pytest.skip("no `unshare` on this machine")
        if done.returncode == 0:
            return prefix
    pytest.skip("network namespaces need root or user namespaces here")


def test_nodes_echo_in_a_namespace_with_only_lo(tmp_path: Path) -> None:
    script = Path(__file__).with_name("loopback_echo.py")
    done = subprocess.run(
        [*_unshare(), sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=RUN_LIMIT_S,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "echo you@example.com\ntried to leave: 0\n",
        "",
    )
