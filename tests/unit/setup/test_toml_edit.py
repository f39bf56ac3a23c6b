"""Settings in TOML: one table changed by whole lines, all others kept."""

from typing import Any

import pytest

from cmesh.setup.toml_edit import TomlUnsuited, drop, put, read
from cmesh.tomltext import TomlMistake

PATH = ("mcp_servers", "cmesh")
ENTRY: dict[str, Any] = {"command": "/x", "args": ["mcp"], "required": True, "env": {"A": "b"}}

TEXTS = {
    "nothing": "",
    "plain": "# hi\na = 1  # c\n\n[x]\nb = 2\n",
    "another server": '[mcp_servers.o]\ncommand = "x"\n\n[projects."/a/b"]\ntrust = "yes"\n',
    "its own header": '[mcp_servers]\n\n[mcp_servers.o]\ncommand = "x"\n',
    "dotted": 'mcp_servers.o.command = "x"\nmodel = "y"\n',
    "apart": '[mcp_servers.a]\nc = "x"\n\n[o]\nz=1\n\n[mcp_servers.b]\nc = "y"\n[mcp_servers.b.e]\nK="v"\n',
    "a comment at the end": "a = 1\n\n# the end\n",
    "a list of tables": "[[x]]\na=1\n[[x]]\na=2\n",
    "blank lines at the end": "a = 1\n\n\n",
    "long texts": 'a = """\n[mcp_servers.cmesh]\ncommand = 1\n"""\nb = [\n  "x", # c\n  ["]"],\n]\n',
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", TEXTS)
def test_what_is_put_is_there_and_dropping_it_brings_every_character_back(
    name: str, newline: str
) -> None:
    text = TEXTS[name].replace("\n", newline)
    before = read(text)

    there = put(text, PATH, ENTRY)

    servers = {**before.get("mcp_servers", {}), "cmesh": ENTRY}
    assert read(there) == {**before, "mcp_servers": servers}
    assert there.startswith(text)
    assert newline == "\n" or not text or "\n" not in there.replace("\r\n", "")
    assert drop(there, PATH) == text


def test_a_last_line_without_an_end_gets_one() -> None:
    there = put("a = 1", PATH, ENTRY)
    assert there.startswith("a = 1\n\n[mcp_servers.cmesh]\n")
    assert drop(there, PATH) == "a = 1\n"


def test_a_table_that_came_behind_ours_stays() -> None:
    there = put("a = 1\n", PATH, ENTRY) + "\n# of x\n[x]\nb = 2\n"
    assert drop(there, PATH) == "a = 1\n\n# of x\n[x]\nb = 2\n"


HAND_MADE = """\
[mcp_servers.cmesh] # mine
command = "/old"
args = [
  "mcp", # the relay
]
# as I like it
tool_timeout_sec = 9

[mcp_servers.cmesh.env]
K = "v"

[x]
b = 1
"""


def test_one_field_is_changed_by_its_own_lines() -> None:
    changed = put(HAND_MADE, (*PATH, "command"), "/new")
    assert changed == HAND_MADE.replace("/old", "/new")
    changed = put(HAND_MADE, (*PATH, "args"), ["a", "mcp"])
    assert read(changed)["mcp_servers"]["cmesh"]["args"] == ["a", "mcp"]
    assert "# as I like it\ntool_timeout_sec = 9" in changed


def test_a_new_field_stands_behind_the_others_of_its_table() -> None:
    changed = put(HAND_MADE, (*PATH, "required"), True)
    assert "tool_timeout_sec = 9\nrequired = true\n\n[mcp_servers.cmesh.env]" in changed


def test_an_environment_in_a_table_of_its_own_keeps_what_is_in_it() -> None:
    changed = put(HAND_MADE, (*PATH, "env"), {"K": "v", "L": "w"})
    assert 'K = "v"\nL = "w"\n' in changed


def test_a_table_in_two_places_goes_as_a_whole() -> None:
    left = drop(HAND_MADE, PATH)
    assert read(left) == {"x": {"b": 1}}


def test_an_entry_on_one_line_is_changed_and_dropped() -> None:
    text = '[mcp_servers]\no = { command = "x" }\ncmesh = { command = "/old", args = ["mcp"] }\n'
    assert drop(text, PATH) == '[mcp_servers]\no = { command = "x" }\n'
    assert read(put(text, PATH, ENTRY))["mcp_servers"]["cmesh"] == ENTRY


@pytest.mark.parametrize("text", ['mcp_servers = { o = { command = "x" } }\n', "mcp_servers = 1\n"])
def test_a_form_that_cannot_be_changed_safely_is_refused(text: str) -> None:
    with pytest.raises(TomlUnsuited):
        put(text, PATH, ENTRY)


def test_a_key_that_stands_twice_is_a_mistake() -> None:
    with pytest.raises(TomlMistake) as raised:
        put("a = 1\na = 2\n", PATH, ENTRY)
    assert raised.value.line == 2


def test_values_of_every_kind_are_written_as_toml_reads_them() -> None:
    value: dict[str, Any] = {"a b": 'q"\\\n\x7f\U0001f642', "c": [1, 2.5, True], "d": {}}
    assert read(put("", PATH, value))["mcp_servers"]["cmesh"] == value
