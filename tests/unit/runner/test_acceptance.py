"""What is started for an acceptance command, before any agent can have a say."""

from pathlib import Path

import pytest

from cmesh.errors import TaskRefused
from cmesh.runner.acceptance import command_of
from cmesh.runner.programs import Needs, Programs


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    (tmp_path / "bin").mkdir()
    check = tmp_path / "bin" / "check"
    check.write_text("#!/bin/sh\n")
    check.chmod(0o755)
    return Programs(str(tmp_path / "bin"))


def test_a_name_is_the_owners_program_whatever_stands_in_the_tree(
    programs: Programs, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "check").write_text("planted")
    command = command_of(("check", "-a"), str(tmp_path / "tree"), programs)
    assert command.argv == (str(tmp_path / "bin" / "check"), "-a")
    assert command.needs.read[0] == str(tmp_path / "bin" / "check")
    assert command.search_path == str(tmp_path / "bin")


@pytest.mark.parametrize("name", ["./check", "bin/check", "{tree}/check", "bin/../check"])
def test_a_path_in_the_tree_is_taken_as_it_is_and_need_not_be_there_yet(
    programs: Programs, tmp_path: Path, name: str
) -> None:
    tree = str(tmp_path / "tree")
    name = name.replace("{tree}", tree)
    command = command_of((name,), tree, programs)
    assert (command.argv, command.needs) == ((name,), Needs())


@pytest.mark.parametrize("name", ["absent", "../bin/check", "/no/such/check", "{tree}/../check"])
def test_what_is_neither_is_refused_by_name(programs: Programs, tmp_path: Path, name: str) -> None:
    tree = str(tmp_path / "tree")
    name = name.replace("{tree}", tree)
    with pytest.raises(TaskRefused, match="is not on the worker"):
        command_of((name,), tree, programs)
