"""Self-tests: the real agents pass, a careless start of them fails, and so does who obeys."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.config import RunnerConfig, SandboxConfig
from cmesh.model import Profile
from cmesh.runner.confine import Sandboxes
from cmesh.runner.manifest import Manifest
from cmesh.runner.programs import Programs
from cmesh.runner.registry import Runners
from cmesh.runner.runner import Runner
from cmesh.runner.selftest.trial import RUN_LIMIT_S, Bench, Finding, directory_prefix, self_test
from cmesh.runner.traps.trapset import load_traps
from cmesh.sandbox.tier import Enforcement
from tests.system.daemon.agents import CLAUDE, CODEX, GEMINI, OPENCODE

pytestmark = [pytest.mark.anyio, pytest.mark.system]

PROGRAMS = {"claude": CLAUDE, "codex": CODEX, "gemini": GEMINI, "opencode": OPENCODE}
DONE = json.dumps(
    {"type": "result", "subtype": "success", "is_error": False, "result": "done", "session_id": "x"}
)
MakeRunner = Callable[..., Runner]


@pytest.fixture
def make_runner(tmp_path: Path) -> MakeRunner:
    key_file = tmp_path / "agent.key"
    key_file.write_text("sk-of-the-owner")
    key_file.chmod(0o600)

    def make(name: str, program: Path) -> Runner:
        # Root needs IS_SANDBOX to be asked nothing; few retries keep a failure short.
        env = {"IS_SANDBOX": "1", "CLAUDE_CODE_MAX_RETRIES": "1"}
        config = RunnerConfig(program=str(program), key_file=key_file, env=env)
        return Runners({name: config}, {}, programs=Programs(os.defpath)).resolve(name)

    return make


async def run(
    tmp_path: Path, runner: Runner, found: Enforcement, run_limit_s: int = RUN_LIMIT_S
) -> Finding:
    """Run a self-test; nothing of it may be left, nor of one whose daemon was killed."""
    traps = load_traps(runner.name)
    assert traps is not None
    place = tmp_path / "state" / "selftest"
    bench = Bench(
        place=place,
        sandboxes=Sandboxes((tmp_path / "state",), lambda: found),
        config=SandboxConfig(),
        clock=SystemClock(),
        run_limit_s=run_limit_s,
    )
    left = Path(tempfile.gettempdir()) / f"{directory_prefix(place)}of-a-daemon-that-was-killed"
    left.mkdir()
    if found.tier:
        place.mkdir(mode=0o700, parents=True)
        (place / "0000").mkdir()
    finding = await self_test(bench, runner, traps)
    assert not list(left.parent.glob(f"{directory_prefix(place)}*"))
    if place.exists():
        assert not [entry for entry in place.iterdir() if entry.is_dir()]
        assert (place / "shim.log").read_text() == ""
    return finding


def script(tmp_path: Path, text: str) -> Path:
    """Return a program that says it is claude, and then does `text`."""
    program = tmp_path / "agent"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo 2.1.330 && exit\n{text}\n')
    program.chmod(0o755)
    return program


def program_of(name: str) -> Path:
    program = PROGRAMS[name]
    if program is None:
        variable = f"CMESH_TEST_{name.upper()}"
        pytest.skip(f"no `{name}`: set {variable}, or install it under .cache/npm")
    return program


@pytest.mark.parametrize("name", PROGRAMS)
async def test_the_real_agents_pass(
    tmp_path: Path, make_runner: MakeRunner, found: Enforcement, name: str
) -> None:
    runner = make_runner(name, program_of(name))
    assert await run(tmp_path, runner, found) == Finding(verdict="passed")


def _careless(manifest: Manifest) -> dict[str, object]:
    """Return what changes in a manifest without what keeps the directory from acting."""
    argv = tuple(part for part in manifest.argv if part not in ("--strict-mcp-config", "--pure"))
    match manifest.name:
        case "claude":
            query = ("--dangerously-skip-permissions",)
            return {"argv": argv, "profiles": {**manifest.profiles, Profile.QUERY: query}}
        case "codex":
            texts = ("project_doc_max_bytes=9999" if "project_doc" in one else one for one in argv)
            return {"argv": tuple(texts)}
        case "gemini":
            # In the directory itself, with trust before its settings are read.
            assert manifest.credential is not None
            credential = manifest.credential.model_copy(update={"base_url_variable": ""})
            env = {**manifest.env, "GEMINI_CLI_TRUST_WORKSPACE": "true"}
            at = argv.index("--allowed-mcp-server-names")
            argv = (*argv[:at], *argv[at + 2 :])
            return {"argv": argv, "credential": credential, "cwd": None, "env": env}
        case _:
            texts = ("PROJECT_CONFIG", "EXTERNAL_SKILLS", "CLAUDE_CODE")
            env = {name: text for name, text in manifest.env.items() if not name.endswith(texts)}
            return {"argv": argv, "env": env}


@pytest.mark.parametrize(
    ("name", "sprung"),
    [
        ("claude", {"hook-SessionStart", "local-SessionStart", "mcp-server", "base_url"}),
        ("codex", {"instructions"}),
        ("gemini", {"hook-SessionStart", "mcp-server", "base_url", "instructions"}),
        ("opencode", {"instructions"}),
    ],
)
async def test_an_agent_that_is_started_carelessly_fails(
    tmp_path: Path, make_runner: MakeRunner, found: Enforcement, name: str, sprung: set[str]
) -> None:
    runner = make_runner(name, program_of(name))
    manifest = runner.manifest.model_copy(update=_careless(runner.manifest))
    finding = await run(tmp_path, replace(runner, manifest=manifest), found)
    assert finding.verdict == "failed"
    assert sprung <= set(finding.sprung)


async def test_a_program_that_obeys_the_directory_fails_whatever_it_says(
    tmp_path: Path, make_runner: MakeRunner, found: Enforcement
) -> None:
    program = script(tmp_path, f"./bin/hook-Stop; ./bin/mcp-server; echo '{DONE}'")
    finding = await run(tmp_path, make_runner("claude", program), found)
    assert finding == Finding(verdict="failed", sprung=("hook-Stop", "mcp-server"))


@pytest.mark.parametrize(
    ("text", "limit_s", "reason"),
    [
        (f"echo '{DONE}'", RUN_LIMIT_S, "it did not ask its model"),
        ("echo broken >&2; exit 3", RUN_LIMIT_S, "broken"),
        ("exec sleep 60", 1, "it did not end within 1 s"),
    ],
)
async def test_who_does_not_come_through_a_turn_has_not_passed(
    tmp_path: Path,
    make_runner: MakeRunner,
    found: Enforcement,
    text: str,
    limit_s: int,
    reason: str,
) -> None:
    runner = make_runner("claude", script(tmp_path, text))
    finding = await run(tmp_path, runner, found, limit_s)
    assert (finding.verdict, finding.sprung) == ("unable", ())
    assert reason in finding.reason


async def test_without_a_sandbox_nothing_is_started_and_the_reason_says_so(
    tmp_path: Path, make_runner: MakeRunner
) -> None:
    runner = make_runner("claude", script(tmp_path, "./bin/hook-Stop"))
    finding = await run(tmp_path, runner, Enforcement(why="nothing here"))
    assert finding.verdict == "unable"
    assert "nothing here" in finding.reason
