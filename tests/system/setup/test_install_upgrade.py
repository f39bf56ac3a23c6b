"""`scripts/install.sh` run again with another version while a daemon runs, and the way back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cmesh.interfaces.start import wait_gone
from cmesh.node.testnet import Testnet
from tests.system.daemon.machine import ROOT, eventually
from tests.system.setup.home import Home, release
from tests.system.setup.wheels import changed

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(300)]

SUPERVISOR = ROOT / "tests" / "system" / "daemon" / "supervisor.py"
QUICK = ("--uv", "--offline", "--no-agents", "--no-shell")
# It passes every check, and ends as soon as it has opened the store.
DIES = {
    "cmesh/interfaces/serve.py": (
        "            record_launch(",
        "            os._exit(7)\n            record_launch(",
    )
}
END_LIMIT_S = 40


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a directory with a short path, for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="cmi-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def installed(short: Path, present: Path) -> AsyncIterator[Home]:
    """Return a home with this version, configured for a test tailnet."""
    home = Home(short)
    home.variables["CMESH_TESTNET"] = "1"
    async with Testnet(auto_user="me@example.com") as testnet:
        done = home.install(present, *QUICK)
        assert done.returncode == 0, done.stdout + done.stderr
        config = home.path / ".config" / "cmesh"
        config.mkdir(parents=True, mode=0o700)
        (config / "config.toml").write_text(
            f'[node]\nhostname = "laptop"\ncontrol_url = "{testnet.control_url}"\n', "utf-8"
        )
        (config / "config.toml").chmod(0o600)
        yield home
        home.cmesh("down")


def version(home: Home) -> str:
    done = home.cmesh("status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["version"]


async def test_a_daemon_follows_a_broken_one_is_gone_back_from_and_a_service_follows(
    installed: Home, wheel: Path, wheels: Path, short: Path
) -> None:
    home = installed
    assert home.cmesh("up").returncode == 0
    [first] = home.versions()
    newer = release(wheels, short / "newer", changed(wheel, "0.9.1", {}, short))
    done = home.install(newer, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert version(home) == "0.9.1"
    assert first in home.versions(), "the environment before is kept"
    before = home.snapshot()

    broken = release(wheels, short / "broken", changed(wheel, "0.9.2", DIES, short))
    done = home.install(broken, *QUICK)
    assert done.returncode != 0
    assert "cmesh 0.9.1 runs again" in done.stdout + done.stderr
    assert version(home) == "0.9.1"
    after = home.snapshot()
    places = [name for name in before | after if not name.startswith(".local/state")]
    assert {name: after.get(name) for name in places} == {name: before.get(name) for name in places}

    # Not `cmesh down`: its mark keeps a service from starting too.
    pid = json.loads(home.cmesh("status", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGTERM)
    assert wait_gone(pid, END_LIMIT_S)
    await a_service_that_starts_the_link_follows(
        home, release(wheels, short / "last", changed(wheel, "0.9.3", {}, short))
    )
    assert [name.partition("-")[0] for name in home.versions()] == ["0.9.1", "0.9.3"]


async def a_service_that_starts_the_link_follows(home: Home, last: Path) -> None:
    log = (home.base / "log").open("wb")
    argv = [sys.executable, "-I", "-S", str(SUPERVISOR), str(home.link), "daemon", "--service"]
    with log, subprocess.Popen(argv, cwd="/", env=home.variables, stdout=log, stderr=log) as keeper:
        try:

            async def answers() -> bool | None:
                return home.cmesh("status").returncode == 0 or None

            await eventually(answers)
            done = home.install(last, *QUICK)
            assert done.returncode == 0, done.stdout + done.stderr
            assert version(home) == "0.9.3"
            pid = json.loads(home.cmesh("status", "--json").stdout)["pid"]
            parent = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1]
            assert int(parent) == keeper.pid
        finally:
            keeper.terminate()
            keeper.wait(END_LIMIT_S)
