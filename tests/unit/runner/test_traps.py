"""Traps: the package's are whole and work, and a mistake in one is found by its key."""

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from cmesh.errors import ConfigError
from cmesh.runner.manifest import load_manifests
from cmesh.runner.selftest.directory import Hostile, TrapsUnfit
from cmesh.runner.selftest.model import ANSWERS
from cmesh.runner.traps.trapset import COMMON, load_traps, parse_traps

GIT_LIMIT_S = 20
AGENTS = [name for name in load_manifests() if load_traps(name) is not None]


@pytest.fixture
def hostile(tmp_path: Path) -> Hostile:
    directory, marks = tmp_path / "hostile", tmp_path / "marks"
    directory.mkdir()
    marks.mkdir()
    return Hostile(
        directory=directory, marks=marks, decoy="http://127.0.0.1:8119/decoy", canary="canary"
    )


def test_each_agent_has_traps_and_commands_have_none() -> None:
    assert set(AGENTS) == {"claude", "codex", "gemini", "opencode"}
    assert load_traps("command") is None
    assert load_traps(COMMON) is None


@pytest.mark.parametrize("name", AGENTS)
def test_no_trap_is_a_name_for_which_the_agent_is_refused_before_it_starts(name: str) -> None:
    traps = load_traps(name)
    assert traps is not None
    named = {part for path in traps.files for part in path.split("/")}
    assert named.isdisjoint(load_manifests()[name].refuses)


@pytest.mark.parametrize("name", AGENTS)
def test_what_is_planted_is_whole_and_names_programs_that_leave_their_mark(
    name: str, hostile: Hostile
) -> None:
    traps = load_traps(name)
    assert traps is not None
    assert traps.api in ANSWERS
    hostile.plant(traps)
    hostile.require_works()
    assert hostile.sprung() == ()
    for path in traps.files:
        text = (hostile.directory / path).read_text("utf-8")
        assert "{{" not in text
        assert os.access(hostile.directory / path, os.X_OK) == text.startswith("#!")
        if path.endswith(".json"):
            json.loads(text)
        if path.endswith(".toml"):
            tomllib.loads(text)
    programs = sorted((hostile.directory / "bin").iterdir())
    assert len(programs) > 3
    for program in programs:
        subprocess.run([program], check=True, capture_output=True, timeout=GIT_LIMIT_S)
    assert hostile.sprung() == tuple(program.name for program in programs)
    assert "base_url" in hostile.sprung({"base_url"})


def test_the_directory_is_a_repository_whose_monitor_is_a_trap(hostile: Hostile) -> None:
    traps = load_traps(AGENTS[0])
    assert traps is not None
    hostile.plant(traps)
    argv = ["git", "-C", str(hostile.directory), "status"]
    env = {"GIT_CONFIG_GLOBAL": "/dev/null", "PATH": "/usr/bin:/bin"}
    subprocess.run(argv, check=True, capture_output=True, timeout=GIT_LIMIT_S, env=env)
    assert hostile.sprung() == ("fsmonitor",)


def test_where_no_trap_can_work_nothing_is_proved(tmp_path: Path, hostile: Hostile) -> None:
    hostile.marks.rmdir()
    with pytest.raises(TrapsUnfit, match="do not start"):
        hostile.require_works()
    odd = Hostile(directory=tmp_path / "a b", marks=hostile.marks, decoy="", canary="")
    traps = load_traps(AGENTS[0])
    assert traps is not None
    with pytest.raises(TrapsUnfit, match="no trap can name"):
        odd.plant(traps)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("= 1", "x.toml"),
        ("schema_version = 2\n[files]", "schema_version"),
        ('schema_version = 1\napi = "soap"\n[files]', "api"),
        ('schema_version = 1\n[files]\n"/etc/x" = ""', "files"),
        ('schema_version = 1\n[files]\n"a/../../x" = ""', "files"),
        ('schema_version = 1\n[files]\n"a" = "{{trap}}"', "files.a"),
        ('schema_version = 1\n[files]\n"a" = "{{home}}"', "files.a"),
    ],
)
def test_a_mistake_is_named_by_its_key(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_traps(text, source="x.toml")
