"""A CPython for Windows under Wine, as scripts/test-windows has made it."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TREE = HERE.parents[1]
GROUND = TREE / ".cache" / "windows" / "wine"
PYTHON = GROUND / "python" / "python.exe"
RUN_LIMIT_S = 100


def environment(place: Path, *needed: Path) -> Mapping[str, str]:
    """Return the environment of a Windows Python that imports from this place.

    Skips the test where there is no Wine, or something needed is not there.
    """
    needed = (PYTHON.with_name("python3.dll"), place, *needed)
    if shutil.which("wine") is None or not all(one.exists() for one in needed):
        pytest.skip("no Wine or no Python for Windows here: scripts/test-windows")
    imported = (GROUND / "python" / "lib", place)
    return os.environ | {
        "WINEPREFIX": str(GROUND / "prefix"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",  # nothing asks to install Mono or Gecko
        "PYTHONHOME": windows_path(GROUND / "python"),
        "PYTHONPATH": ";".join(map(windows_path, imported)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
    }


def windows_path(path: Path) -> str:
    """Return the name that a path of this machine has under Wine."""
    return "Z:" + str(path).replace("/", "\\")


def run(script: str, *arguments: str) -> str:
    """Run a script of this directory with the tree's modules; return what it prints."""
    done = subprocess.run(
        ["wine", PYTHON, windows_path(HERE / script), *arguments],
        env=environment(TREE), stdin=subprocess.DEVNULL, capture_output=True,
        timeout=RUN_LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr).decode("utf-8", "replace")
    return done.stdout.decode("utf-8")


def ask(function: str, questions: Sequence[object], place: Path) -> list[object]:
    """Put questions to a function of `ask.py`, all in one process."""
    file = place / f"{function}.json"
    file.write_text(json.dumps(questions), "utf-8")
    answers: list[object] = json.loads(run("ask.py", function, windows_path(file)))
    assert len(answers) == len(questions)
    return answers
