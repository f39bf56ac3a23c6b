"""The wizard's agents: seen, planned line by line, and changed only as was shown."""

from pathlib import Path

import pytest

from cmesh.errors import EntryTaken, UsageError
from cmesh.setup.plan import Entry
from cmesh.setup.registering import carry_out, entries, seen
from tests.unit.setup.machine import machine

MINE = '# mine\nmodel = "x"\n'


def codex(home: Path, text: str = MINE) -> Path:
    file = home / ".codex" / "config.toml"
    file.parent.mkdir()
    file.write_text(text, "utf-8")
    return file


def test_agents_that_are_not_here_are_no_facts(tmp_path: Path):
    assert seen(machine(tmp_path)) == ()


def test_what_was_shown_is_what_is_done_and_taken_back(tmp_path: Path):
    file, here = codex(tmp_path), machine(tmp_path)
    assert [(one.name, one.state) for one in seen(here)] == [("codex", "missing")]
    wanted = entries(here, ["codex"], add=True)
    assert "+[mcp_servers.cmesh]" in wanted[0].diff
    assert file.read_text("utf-8") == MINE
    [note] = carry_out(here, wanted)
    assert note.startswith("Codex")
    assert [(one.name, one.state) for one in seen(here)] == [("codex", "ours")]
    assert entries(here, ["codex"], add=True) == ()
    carry_out(here, entries(here, ["codex"], add=False))
    assert file.read_text("utf-8") == MINE


def test_settings_that_changed_under_the_plan_are_left(tmp_path: Path):
    file, here = codex(tmp_path), machine(tmp_path)
    wanted = entries(here, ["codex"], add=True)
    other = wanted[0].model_copy(update={"diff": "+something else\n"})
    [note] = carry_out(here, [other])
    assert "left as they are" in note
    assert file.read_text("utf-8") == MINE


def test_an_entry_of_somebody_else_is_refused_and_shown(tmp_path: Path):
    codex(tmp_path, '[mcp_servers.cmesh]\ncommand = "other"\n')
    here = machine(tmp_path)
    [fact] = seen(here)
    assert (fact.state, fact.note) == ("foreign", "other")
    with pytest.raises(EntryTaken):
        entries(here, ["codex"], add=True)


def test_settings_that_cannot_be_read_are_named(tmp_path: Path):
    codex(tmp_path, "a = 1\na = 2\n")
    [fact] = seen(machine(tmp_path))
    assert fact.state == "unreadable"
    assert fact.note


def test_an_agent_that_nobody_knows_is_refused(tmp_path: Path):
    with pytest.raises(UsageError):
        entries(machine(tmp_path), ["emacs"], add=True)
    [note] = carry_out(machine(tmp_path), [Entry(agent="emacs", add=True, diff="")])
    assert "emacs" in note
