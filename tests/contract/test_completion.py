"""Completion as shells ask for it, without a daemon."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmesh.interfaces.schema import known_views

ROOT = Path(__file__).parents[2]
VIEWS = ROOT / "tests" / "contract" / "snapshots" / "views.json"
LIMIT_S = 30.0


def asked(tmp_path: Path, *command: str, **more: str) -> str:
    bin_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": bin_path,
        "CMESH_STATE_DIR": str(tmp_path / "state"),
        "CMESH_CONFIG_DIR": str(tmp_path / "config"),
        **more,
    }
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=LIMIT_S,
    )  # fmt: skip
    assert done.stderr == ""
    assert not (tmp_path / "state").exists()
    return done.stdout


def test_the_views_are_known_as_they_are():
    promised = json.loads(VIEWS.read_text("utf-8"))
    assert {name: set(columns) for name, columns in known_views().items()} == {
        name: set(columns) for name, columns in promised.items()
    }


@pytest.mark.parametrize(
    ("variables", "shell", "line", "answer"),
    [
        ("zsh", "complete_zsh", 'cmesh sql "SELECT * FROM de', '"SELECT * FROM decisions"'),
        ("fish", "complete_fish", 'cmesh sql "SELECT peer_n', "SELECT peer_name\n"),
    ],
)
def test_what_is_typed_gets_the_names_that_go_on(
    variables: str, shell: str, line: str, answer: str, tmp_path: Path
):
    more = {"_CMESH_COMPLETE": shell, "_TYPER_COMPLETE_ARGS": line}
    if variables == "fish":
        more["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    assert answer in asked(tmp_path, sys.executable, "-m", "cmesh", **more)


def test_bash_completes_a_statement_in_quotes(tmp_path: Path):
    script = """
source <(cmesh --show-completion bash)
COMP_WORDS=(cmesh sql '"SELECT * FROM de'); COMP_CWORD=2
_cmesh_completion cmesh
printf '%s|' "${COMPREPLY[@]}"
COMP_WORDS=(cmesh schema den); COMP_CWORD=2
_cmesh_completion cmesh
printf '%s|' "${COMPREPLY[@]}"
"""
    out = asked(tmp_path, "bash", "--norc", "-c", script)
    assert out == "SELECT * FROM decisions|SELECT * FROM denials|denials|"
