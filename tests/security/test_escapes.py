"""Attempts to get out of a sandbox: real processes, the real supervisor, judged from outside.

The attempts: `inside.py`. Who judges, and what an attempt is aimed at: `ground.py`, `victim.py`.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from cmesh.sandbox.landlock import SCOPES_ABI, supported_abi
from cmesh.sandbox.plan import find_bwrap
from tests.security.ground import PYTHON, TIERS
from tests.system.daemon.machine import ROOT, as_user, interpreter, worker_user

pytestmark = [pytest.mark.system]

RUN_LIMIT_S = 300
AT_LEAST = 68
NO_SANDBOX = 0

LEFT_OVER: Mapping[int, frozenset[str]] = {
    3: frozenset(),
    2: frozenset(
        {
            "see_the_size_of_a_secret",
            "watch_the_ssh_directory",
            # A limit of processes counts all of the user's where there is no user namespace.
            "start_too_many_processes",
            # Landlock names a port, never an address; so the owner must accept it in words.
            "connect_to_the_allowed_port_at_another_address",
            "connect_to_the_allowed_port_of_the_machine",
        }
    ),
    1: frozenset(),
}
"""By tier: what is known to get through, and told in docs/security.md."""

OF_ROOT = frozenset({"start_too_many_processes"})
"""What gets through besides when a worker runs tasks as root, which its owner has to say."""


@dataclass(frozen=True, slots=True)
class Report:
    through: frozenset[str]
    refused: frozenset[str]
    broken: frozenset[str]
    enforcement: str


@pytest.fixture
def base() -> Iterator[Path]:
    """Return a place below none of the directories that a sandbox has of its own."""
    path = Path(tempfile.mkdtemp(prefix="cmesh-escape-", dir="/var/tmp"))
    path.chmod(0o755)
    if os.getuid() == 0:  # only root can make what an ordinary task would gain rights by
        shutil.copy("/usr/bin/id", path / "setuid")
        (path / "setuid").chmod(0o4755)
        shutil.chown(path, worker_user().pw_uid, worker_user().pw_gid)
    yield path
    subprocess.run(["chmod", "-R", "u+rwX", str(path)], check=False)
    shutil.rmtree(path, ignore_errors=True)


def attempts(base: Path, tier: int) -> Report:
    """Run them all under one tier, as the user that tasks run as."""
    done = subprocess.run(
        [interpreter(worker_user()), "-B", "-m", "tests.security.ground", str(base), str(tier)],
        cwd=ROOT,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "HOME": str(base)},
        capture_output=True,
        check=False,
        text=True,
        timeout=RUN_LIMIT_S,
        **as_user(worker_user()),
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["exit"], said["error"]) == (0, "")
    tried: dict[str, bool] = {name: each["through"] for name, each in said["attempts"].items()}
    real = {name for name in tried if not name.startswith("control_")}
    return Report(
        through=frozenset(name for name in real if tried[name]),
        refused=frozenset(name for name in real if not tried[name]),
        broken=frozenset(name for name in tried if name not in real and not tried[name]),
        enforcement=said["enforcement"],
    )


@cache
def missing(tier: int) -> str:
    """Return what this machine lacks for a tier."""
    if not Path(PYTHON).exists():
        return f"no `{PYTHON}` for a task to run"
    if tier != 1 and supported_abi() < SCOPES_ABI:
        return "this kernel's Landlock is too old for the tier"
    if tier == 2 or not tier:
        return ""
    trial = [find_bwrap() or "bwrap", "--unshare-user", "--ro-bind", "/", "/", "true"]
    if not find_bwrap():
        return "no bubblewrap here for the tier"
    code = subprocess.call(trial, stderr=subprocess.DEVNULL, **as_user(worker_user()))
    return "bubblewrap may not start here for the tier" if code else ""


@pytest.mark.parametrize("tier", [3, 2, 1])
@pytest.mark.timeout(RUN_LIMIT_S)
def test_nothing_gets_out_but_what_is_listed(base: Path, tier: int) -> None:
    if why := missing(tier):
        pytest.skip(why)
    report = attempts(base, tier)
    assert report.enforcement == TIERS[tier].label
    assert report.broken == frozenset(), "what has to work"
    assert report.through == LEFT_OVER[tier]
    assert len(report.refused) >= AT_LEAST


@pytest.mark.timeout(RUN_LIMIT_S)
def test_without_a_sandbox_the_attempts_do_get_through(base: Path) -> None:
    """So that one that is refused above was refused by the sandbox."""
    if os.getuid() == 0 and worker_user().pw_uid == 0:
        pytest.skip("root would change this machine")
    report = attempts(base, NO_SANDBOX)
    assert report.enforcement == "none"
    assert report.broken == frozenset()
    assert len(report.through) >= AT_LEAST, sorted(report.refused)
