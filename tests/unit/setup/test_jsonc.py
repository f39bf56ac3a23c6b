"""Settings in JSON: comments and trailing commas read, one place changed, all else kept."""

import json
from typing import Any

import pytest

from cmesh.setup.jsonc import JsoncMistake, parse
from cmesh.setup.jsonc_edit import drop, put, read

PATH = ("mcpServers", "cmesh")
ENTRY: dict[str, Any] = {"type": "stdio", "command": "/x", "args": ["mcp"], "env": {}, "timeout": 1}

TEXTS = {
    "nothing in it": "{}\n",
    "no table": '{\n  "a": 1\n}\n',
    "tabs": '{\n\t"mcpServers": {\n\t\t"x": {"command": "y"}\n\t},\n\t"z": [1,\n2]\n}\n',
    "an empty table": '{\n  "mcpServers": {}\n}',
    "one line": '{"a":1,"mcpServers":{"x":{"command":"y"}}}',
    "one line, an empty table": '{"mcpServers":{}}',
    "one line, a trailing comma": '{"mcpServers":{"x":{},}}',
    "comments and trailing commas": (
        '// top\n{\n  // one\n  "a": 1, // tail\n  "mcpServers": {\n    "x": {}, // xx\n'
        "    /* end */\n  }, // after\n}\n"
    ),
    "comments without commas": (
        '{\n  "mcpServers": {\n    "x": {} // xx\n    // last\n  } // after\n}\n'
    ),
    "a comment alone": '{\n  "mcpServers": { // none yet\n  }\n}\n',
    "a trailing comma": '{\n  "a": 1,\n}',
    "blanks inside": '{ "a": 1 }',
    "texts with marks": '{"a": "// no comment, {}", "b": "\\"}"}\n',
    "letters of all kinds": '{\n  "ü": "\U0001f642"\n}\n',
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", TEXTS)
def test_what_is_put_is_there_and_dropping_it_brings_every_character_back(
    name: str, newline: str
) -> None:
    text = TEXTS[name].replace("\n", newline)
    before = read(text)

    there = put(text, PATH, ENTRY)

    wanted = {**before, "mcpServers": {**before.get("mcpServers", {}), "cmesh": ENTRY}}
    assert read(there) == wanted
    assert newline not in text or newline == "\n" or "\n" not in there.replace(newline, "")
    back = drop(there, PATH)
    if "mcpServers" not in before:
        back = drop(back, PATH[:1])
    assert back == text


def test_a_strict_reader_can_read_what_was_strict_before() -> None:
    for name in ("no table", "tabs", "one line", "blanks inside"):
        assert json.loads(put(TEXTS[name], PATH, ENTRY))


def test_a_comma_behind_the_last_member_stays_the_style() -> None:
    text = put('{\n  "mcpServers": {\n    "x": {},\n  },\n}\n', PATH, {"command": "y"})
    assert text.endswith('    "cmesh": {\n      "command": "y"\n    },\n  },\n}\n')


def test_another_members_comment_stays_with_it() -> None:
    text = '{\n  "a": 1, // of a\n  "cmesh": 2,\n  "b": 3 // of b\n}\n'
    assert drop(text, ("cmesh",)) == '{\n  "a": 1, // of a\n  "b": 3 // of b\n}\n'
    assert drop(text, ("b",)) == '{\n  "a": 1, // of a\n  "cmesh": 2 // of b\n}\n'
    assert drop(text, ("a",)).startswith('{ // of a\n  "cmesh": 2,')


def test_a_field_is_changed_where_it_stands() -> None:
    text = '{"mcpServers": {"cmesh": {"command": "old", /* mine */ "timeout": 5}}}'
    assert put(text, (*PATH, "command"), "new") == text.replace("old", "new")


def test_a_blank_text_becomes_an_object() -> None:
    assert read(put(" \n", PATH, ENTRY)) == {"mcpServers": {"cmesh": ENTRY}}
    assert drop("", PATH) == ""


def test_what_is_not_there_is_dropped_without_a_change() -> None:
    for text in TEXTS.values():
        assert drop(text, PATH) == text


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('{\n  "a": 1\n  "b": 2\n}', 3, "`,` or `}` is expected"),
        ('{"a": 1, "a": 2}', 1, "`a` stands twice in one object"),
        ("{'a': 1}", 1, "a text in double quotes is expected"),
        ('{\n"a": nope}', 2, "a value is expected"),
        ('{"a": 01}', 1, "`01` is no value"),
        ('{"a": 1}\nmore', 2, "nothing more is expected here"),
        ('{"a" 1}', 1, "`:` is expected"),
        ('{"a": "b\n"}', 1, "a value is expected"),
        ("{", 1, "a text in double quotes is expected"),
        ("[" * 300, 1, "nested too deeply"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, line: int, expected: str) -> None:
    with pytest.raises(JsoncMistake) as raised:
        parse(text)
    found = raised.value
    if expected != "a value is expected" or "nope" in text:
        assert found.expected == expected
    assert found.line == line


def test_a_file_that_holds_no_object_is_not_changed() -> None:
    with pytest.raises(TypeError, match="no JSON object"):
        read("[1]")
    with pytest.raises(TypeError, match="`mcpServers` is no JSON object"):
        put('{"mcpServers": []}', PATH, ENTRY)
