"""The two configurations: read by the product's own parser, and no wider than said."""

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cmesh.config import Config, load_config
from cmesh.errors import RootRefused, RunnerUnavailable, UnsafePermissions, UsageError
from cmesh.interfaces.demo import plan as module
from cmesh.interfaces.demo.plan import (
    INBOUND_RULE,
    USER,
    Plan,
    builder_config,
    laptop_config,
    make_plan,
)
from cmesh.interfaces.demo.sample import Sample, make_sample

CONTROL = "http://127.0.0.1:4242"


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return make_sample(tmp_path, datetime(2026, 1, 1, tzinfo=UTC), random.Random(1))


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "config.toml"
    path.touch(mode=0o600)
    path.write_text(text)
    return load_config(path)


def test_the_worker_allows_one_user_one_runner_and_one_directory(
    tmp_path: Path, sample: Sample
) -> None:
    plan = make_plan("", "", "")
    config = loaded(tmp_path, builder_config(CONTROL, plan, sample))
    (rule,) = config.policy.inbound
    assert (rule.name, rule.paths, rule.runners) == (
        INBOUND_RULE,
        (str(sample.directory),),
        ("command:why-deploy-failed",),
    )
    assert [str(peer) for peer in rule.peers] == [f"user:{USER}"]
    assert config.policy.outbound == ()


@pytest.mark.parametrize("as_root", [True, False])
def test_only_root_lets_the_worker_run_tasks_as_root(
    tmp_path: Path, sample: Sample, as_root: bool
) -> None:
    plan = Plan(runner="command:why-deploy-failed", as_root=as_root)
    config = loaded(tmp_path, builder_config(CONTROL, plan, sample))
    assert config.worker.allow_root is as_root


def test_the_caller_takes_no_tasks(tmp_path: Path) -> None:
    config = loaded(tmp_path, laptop_config(CONTROL, make_plan("", "", "")))
    assert config.policy.inbound == ()
    assert config.node.control_url == CONTROL


def test_an_agent_gets_program_key_and_address(tmp_path: Path, sample: Sample) -> None:
    key = tmp_path / "key"
    plan = Plan(
        runner="claude", agent="claude", program="/x/claude", key_file=key, base_url="http://h:1"
    )
    runner = loaded(tmp_path, builder_config(CONTROL, plan, sample)).runners["claude"]
    assert (runner.program, runner.key_file, runner.base_url) == ("/x/claude", key, "http://h:1")


@pytest.fixture
def claude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(module, "_NEVER_AS_ROOT", frozenset[str]())


@pytest.mark.usefixtures("claude")
def test_an_agent_without_a_key_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match="API key") as caught:
        make_plan("claude", "", "")
    assert "--key-file" in caught.value.hint


@pytest.mark.usefixtures("claude")
def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k")
    key.chmod(0o644)
    with pytest.raises(UnsafePermissions):
        make_plan("claude", str(key), "")
    key.chmod(0o600)
    assert make_plan("claude", str(key), "").key_file == key


@pytest.mark.usefixtures("claude")
def test_claude_as_root_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEVER_AS_ROOT", frozenset({"claude"}))
    monkeypatch.setattr(module.os, "getuid", lambda: 0)
    with pytest.raises(RootRefused) as caught:
        make_plan("claude", "key", "")
    assert "ordinary user" in caught.value.hint


def test_an_unknown_agent_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RunnerUnavailable) as caught:
        make_plan("nobody", "", "")
    assert "claude" in caught.value.hint


def test_a_missing_agent_is_refused_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RunnerUnavailable) as caught:
        make_plan("claude", "", "")
    assert "npm install" in caught.value.hint


def test_a_key_without_an_agent_is_a_mistake() -> None:
    with pytest.raises(UsageError):
        make_plan("", "key", "")
