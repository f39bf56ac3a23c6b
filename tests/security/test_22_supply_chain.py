"""Abuse case 22: what is installed and linked is what was written down, or nothing is."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from build_ext import TAGS, find_go, go_environment

ROOT = Path(__file__).parents[2]
BUILD_LIMIT_S = 100
EXACT = re.compile(r"(@[\w./-]+/)?[\w.-]+@\d+\.\d+\.\d+")
MODULE = "tailscale.com"


def go_list(native: Path) -> "subprocess.CompletedProcess[str]":
    """Let Go look at every package that is linked; only `go.sum` speaks for a module."""
    environment = go_environment()
    environment.setdefault("GOMODCACHE", str(ROOT / ".cache" / "go-mod"))
    return subprocess.run(
        [find_go(), "list", "-deps", "-mod=readonly", "-buildvcs=false", "-tags", TAGS, "./..."],
        cwd=native,
        env=environment | {"GOSUMDB": "off"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=BUILD_LIMIT_S,
        check=False,
    )


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """Return a copy of what is linked into every daemon, that builds."""
    copy = tmp_path / "native"
    shutil.copytree(ROOT / "native", copy)
    whole = go_list(copy)
    assert whole.returncode == 0, whole.stderr
    return copy


def test_22_a_module_that_is_not_what_its_hash_says_is_not_linked(native: Path) -> None:
    sums = native / "go.sum"
    text = sums.read_text("utf-8")
    [line] = re.findall(rf"(?m)^{re.escape(MODULE)} v[\d.]+ h1:\S+$", text)
    altered = line[:-6] + "AAAAA="
    assert altered != line
    sums.write_text(text.replace(line, altered), "utf-8")
    done = go_list(native)
    assert done.returncode != 0
    assert "checksum mismatch" in done.stderr
    assert MODULE in done.stderr


def test_22_a_module_without_a_hash_is_not_linked(native: Path) -> None:
    sums = native / "go.sum"
    lines = sums.read_text("utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(f"{MODULE} ")]
    sums.write_text("\n".join(kept) + "\n", "utf-8")
    done = go_list(native)
    assert done.returncode != 0
    assert "missing go.sum entry" in done.stderr


def test_22_programs_from_npm_and_what_builds_the_tree_have_one_exact_version() -> None:
    script = (ROOT / "scripts" / "setup-env").read_text("utf-8")
    named = re.findall(r"(?m)^[A-Z]+=(\S+@\S+)$", script)
    assert len(named) >= 5
    assert [name for name in named if not EXACT.fullmatch(name)] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    loose = [line for line in project["build-system"]["requires"] if "==" not in line]
    assert loose == []
