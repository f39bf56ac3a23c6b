"""What is released is filled in as meant, and the installer for Windows is PowerShell."""

import hashlib
import importlib.util
import re
import threading
from pathlib import Path
from types import ModuleType

import pytest
import tree_sitter
import tree_sitter_powershell

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "scripts"
VALUES = {
    "RELEASE_URL": "https://example.com/v1",
    "SIGNER_IDENTITY": "me@example.com",
    "SIGNER_ISSUER": "https://id.example",
}


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_script", SCRIPTS / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["install.sh", "install.ps1"])
def test_an_installer_is_told_where_its_release_is_and_who_signs(
    name: str, release: ModuleType
) -> None:
    text = (SCRIPTS / name).read_text("utf-8")
    filled = release.fill(text, VALUES)
    for value in VALUES.values():
        assert f"'{value}'" in filled
    assert len(filled) == len(text) + sum(map(len, VALUES.values()))
    assert release.fill(text, dict.fromkeys(VALUES, "")) == text


@pytest.mark.parametrize("value", ["x'; rm -rf ~; '", "a b", "$(x)", "`x`", 'a"b'])
def test_what_is_filled_in_cannot_be_a_command(value: str, release: ModuleType) -> None:
    with pytest.raises(SystemExit):
        release.fill("RELEASE_URL=''\n", {"RELEASE_URL": value})


def test_the_sums_are_those_that_sha256sum_reads(release: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"one")
    release.write_sums(tmp_path)
    release.write_sums(tmp_path)
    lines = (tmp_path / "SHA256SUMS").read_text("utf-8").splitlines()
    assert lines == [
        f"{hashlib.sha256(text).hexdigest()}  {name}"
        for name, text in (("a", b"one"), ("b", b"two"))
    ]


def test_the_installer_for_windows_parses() -> None:
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    text = (SCRIPTS / "install.ps1").read_bytes()
    assert not parser.parse(text).root_node.has_error
    assert parser.parse(text.replace(b"param(", b"param((", 1)).root_node.has_error


def test_the_installers_have_the_same_options() -> None:
    shell = (SCRIPTS / "install.sh").read_text("utf-8")
    power = (SCRIPTS / "install.ps1").read_text("utf-8")
    ours = set(re.findall(r"(?m)^  --([a-z-]+)", shell)) - {"help", "allow-root"}
    block = power[power.index("param(") : power.index("\n)")]
    theirs = {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
        for name in re.findall(r"\$(\w+)", block.replace("$false", ""))
    }
    assert theirs == ours


def test_a_long_build_says_where_it_is(
    release: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = threading.Event()

    def where() -> str:
        asked.set()
        return "linking"

    with release.told(where, every_s=0.001):
        assert asked.wait(5.0)
    assert "s  linking" in capsys.readouterr().out
