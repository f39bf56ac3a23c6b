"""Runners on a worker: an agent that updated itself is tested there, and its verdict decides."""

import json
from pathlib import Path
from typing import Any

import pytest

from cmesh.daemon.arguments import NoArguments
from cmesh.daemon.runner_answers import RunnersView, RunnerView
from cmesh.errors import RunnerUnavailable
from tests.system.daemon.agents import CLAUDE
from tests.system.daemon.conftest import MakeMachine
from tests.system.daemon.machine import Machine, eventually, here

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(180)]

NEW = "99.0.1"


def program_text(then: str) -> str:
    """Return a program that says a version which nobody has tried before, and then does `then`."""
    return f'#!/bin/sh\n[ "$1" = --version ] && echo "{NEW} (Claude Code)" && exit\n{then}\n'


def install(machine: Machine, text: str) -> Path:
    """Put a program in its place as an update does."""
    place = machine.directory("bin")
    fresh, program = place / "fresh", place / "claude"
    fresh.write_text(text, "utf-8")
    fresh.chmod(0o755)
    fresh.replace(program)
    machine.directory("bin")  # once more, so that the new file is the machine's user's
    return program


async def runner(machine: Machine) -> RunnerView:
    view = RunnersView.model_validate(await machine.call("list_runners", NoArguments()))
    return next(one for one in view.runners if one.name == "claude")


def check(machine: Machine) -> tuple[int, dict[str, Any]]:
    """Run `cmesh runners check claude`; return its status, and what it says of claude."""
    done = machine.cli("runners", "check", "claude", "--json")
    [view] = json.loads(done.stdout)["runners"]
    return done.returncode, view


async def test_an_agent_that_nobody_tried_is_tested_here_and_runs_by_its_verdict(
    make_machine: MakeMachine,
) -> None:
    if CLAUDE is None:
        pytest.skip("no `claude`: set CMESH_TEST_CLAUDE, or install it under .cache/npm")
    builder = await make_machine("builder", user=here())
    program = install(builder, program_text(f'exec "{CLAUDE.resolve()}" "$@"'))
    key_file = builder.base / "config" / "agent.key"
    await builder.configure()
    key_file.write_text("sk-ant-builder-0000", "utf-8")
    key_file.chmod(0o600)
    # As who runs the tests, whom each look costs no process; root is told so.
    await builder.configure(f"""
[worker]
allow_root = true
[sandbox]
read = ["{_modules(CLAUDE)}"]
[runners.claude]
program = "{program}"
key_file = "{key_file}"
env = {{ IS_SANDBOX = "1" }}
""")
    await builder.start()
    if "netns" not in await _enforcement(builder):
        pytest.skip("no sandbox here")

    async def passed() -> RunnerView | None:
        now = await runner(builder)
        assert now.self_test.state in ("pending", "passed"), now
        assert ("query" in now.profiles) == (now.self_test.state == "passed")
        return now if now.self_test.state == "passed" else None

    view = await eventually(passed)
    assert (view.version, view.refused) == (f"{NEW} (Claude Code)", "")
    assert (await builder.status()).self_tests == []
    status, found = check(builder)
    assert (status, found["ok"]) == (0, True), found
    assert [item["what"] for item in found["items"]] == [
        "program", "key", "sandbox", "version", "self-test",
    ]  # fmt: skip
    rows = await builder.sql("SELECT data FROM audit WHERE kind = 'runner_tested' ORDER BY seq")
    assert [json.loads(row[0])["verdict"] for row in rows] == ["passed", "passed"]

    install(builder, program_text("./bin/hook-Stop"))  # the next update obeys its directory
    view = await runner(builder)
    assert view.self_test.state == "pending"
    assert view.profiles == ["full"]
    assert "being checked here" in view.refused
    status, found = check(builder)
    assert (status, found["ok"]) == (RunnerUnavailable.exit_status, False)
    assert found["self_test"]["sprung"] == ["hook-Stop"]
    assert "install another version" in found["items"][-1]["next"]

    await builder.stop()
    await builder.start()  # the verdict stays
    view = await runner(builder)
    assert (view.self_test.state, view.profiles) == ("failed", ["full"])
    now = await builder.status()
    assert now.self_tests == [f"claude {NEW} (Claude Code): failed: hook-Stop"]
    assert ["a hostile directory worked" in problem.what for problem in now.problems] == [True]


def _modules(program: Path) -> Path:
    """Return the folder of node packages that an agent of the tests is in."""
    real = program.resolve()
    return next((one for one in real.parents if one.name == "node_modules"), real.parent)


async def _enforcement(machine: Machine) -> str:
    async def known() -> str | None:
        status = await machine.status()
        return status.enforcement or None

    return await eventually(known)
