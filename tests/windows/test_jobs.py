"""A task's processes in a job, and what a program is told, on a CPython for Windows."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cmesh.platform.windows.command_line import command_line
from cmesh.platform.windows.jobs import KILLED
from tests.unit.platform.test_command_line import PIECES
from tests.windows.wine import ask, run, windows_path

pytestmark = pytest.mark.system

LINES, WORDS = 1500, 200


def keeper(function: str, *arguments: str) -> Any:
    return json.loads(run("keeper.py", function, *arguments))


def words(chance: Random, many: int) -> list[str]:
    return ["".join(chance.choices(PIECES, k=chance.randrange(7))) for _ in range(many)]


def test_a_stubborn_tree_is_ended_and_counted_to_zero() -> None:
    seen = keeper("cancel")
    gone = seen.pop("gone")
    assert seen == {"before": 4, "ended": True, "left": 0, "status": KILLED}
    assert gone == [True] * 4


def test_what_a_keeper_kept_ends_with_it() -> None:
    assert keeper("die") == {"lived": [False] * 3, "ended": [True] * 3}


def test_no_program_leaves_its_job() -> None:
    assert keeper("away") == {"outside": False, "ended": True}


def test_windows_takes_a_line_apart_into_the_same_arguments(tmp_path: Path) -> None:
    chance = Random(2)
    asked = [["C:\\a b\\ü.exe", *words(chance, chance.randrange(6))] for _ in range(LINES)]
    assert ask("arguments", [command_line(argv) for argv in asked], tmp_path) == asked


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def test_a_program_is_told_its_arguments_place_and_variables(place: Path) -> None:
    argv = words(Random(3), WORDS)
    directory = place / "Jürgen Müß 工作" / "a & b %PATH%"
    environment = {"CMESH_TEST": 'ü 工 \U0001f600 & %PATH% "', "UserProfile": "C:\\Users\\Jürgen"}
    file = place / "asked.json"
    asked = {"argv": argv, "directory": windows_path(directory), "environment": environment}
    file.write_text(json.dumps(asked), "utf-8")
    told = keeper("told", windows_path(file))
    assert told["argv"] == argv
    assert told["directory"].lower() == windows_path(directory).lower()
    assert told["environment"]["CMESH_TEST"] == environment["CMESH_TEST"]
    assert told["environment"]["USERPROFILE"] == environment["UserProfile"]
