"""The inspector over stdio in both eras, and the conformance scenarios that fit our server."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmesh.interfaces.mcp.tools import TOOLS
from cmesh.interfaces.start import mark_down
from tests.system.mcp.support import LIMIT_S, RELAY, ROOT, Daemon, environment

# Each run of a program starts node anew: 1 s alone, several on a busy machine.
pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

BIN = Path(os.environ.get("CMESH_TEST_NPM", ROOT / ".cache" / "npm")) / "node_modules" / ".bin"
SCENARIOS = (
    "server-initialize",
    "ping",
    "tools-list",
    "resources-list",
    "prompts-list",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
    "resources-subscribe",
    "resources-unsubscribe",
)

needs_npm = pytest.mark.skipif(
    not (BIN / "inspector").exists(), reason=f"no MCP inspector in {BIN}: run scripts/setup-env"
)


def run(program: str, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    node = BIN / "node"
    argv = [str(node if node.exists() else "node"), os.path.realpath(BIN / program), *arguments]
    return subprocess.run(
        argv, env=env, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )


def inspect(state: Path, era: str, method: str, *options: str) -> Any:
    era_options = ["--protocol-era", era] if era == "modern" else []
    # It hands on only what is named (`-e`). INVARIANT: a relay here must find the test's state,
    # marked down when there is no daemon, or it would start a real one.
    names = [f"{name}={value}" for name, value in environment(state).items()]
    passed = [option for name in names for option in ("-e", name)]
    done = run(
        "inspector", "--cli", *era_options, *passed, "--method", method, *options, "-q", "--format", "json",
        "--", sys.executable, "-I", "-S", str(RELAY), env=environment(state),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@needs_npm
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_inspector_finds_no_fault_in_our_schemas(state: Path, era: str) -> None:
    mark_down(state)
    listed = inspect(state, era, "tools/list", "--strict")
    assert set(re.findall(r'"name": ?"([a-z_]+)"', json.dumps(listed))) >= set(TOOLS)


@needs_npm
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_inspector_calls_reads_and_prompts(state: Path, daemon: Daemon, era: str) -> None:
    call = inspect(
        state, era, "tools/call", "--tool-name", "delegate", "--tool-args-json",
        '{"peer":"worker","prompt":"why?","directory":"/srv/app","wait_s":0}',
    )  # fmt: skip
    assert "get_task(task_id=" in json.dumps(call)
    assert "Delegating with cmesh" in json.dumps(
        inspect(state, era, "resources/read", "--uri", "cmesh://guide")
    )
    prompt = inspect(
        state, era, "prompts/get", "--prompt-name", "delegate_well", "--prompt-args", "goal=g"
    )
    assert "Delegate this with cmesh: g" in json.dumps(prompt)


@pytest.fixture
def url(state: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "fakes" / "mcp_http.py")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(state),
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()


@needs_npm
def test_the_conformance_scenarios_that_fit_pass(url: str, state: Path, tmp_path: Path) -> None:
    failed: dict[str, str] = {}
    for scenario in SCENARIOS:
        done = run(
            "conformance", "server", "--url", url, "--scenario", scenario, "-o", str(tmp_path),
            env=environment(state),
        )  # fmt: skip
        checks = [
            check
            for path in tmp_path.rglob(f"*{scenario}*/checks.json")
            for check in json.loads(path.read_text("utf-8"))
        ]
        passed = [check for check in checks if check["status"] == "SUCCESS"]
        if done.returncode or not passed or any(c["status"] == "FAILURE" for c in checks):
            failed[scenario] = (done.stdout + done.stderr)[-600:]
    assert not failed
