"""Changes of a person's config.toml: what is asked for, and not a byte more."""

import tomllib

import pytest

from cmesh.configfile import starter_config
from cmesh.errors import ConfigError
from cmesh.setup.configtext import diff, rule_text, with_rule, with_value, without_block

MINE = '# mine\n[node]   # the node\nhostname = "a"  # its name\n\n[worker]\nconcurrent = 3\n'
RULE = rule_text("inbound", {"name": "one", "peers": ["node:nA"], "limits": {"per_day": 5}})


@pytest.mark.parametrize(
    ("text", "table", "key", "value", "expected"),
    [
        (MINE, "node", "hostname", "b", MINE.replace('"a"', '"b"')),
        (MINE, "node", "hostname", "a", MINE),
        (MINE, "store", "keep_text", "30d", MINE + '\n[store]\nkeep_text = "30d"\n'),
        ("", "store", "keep_text", "30d", '[store]\nkeep_text = "30d"\n'),
        ("[node]", "node", "hostname", "b", '[node]\nhostname = "b"\n'),
        ('node.hostname = "a"\n', "node", "hostname", "b", 'node.hostname = "b"\n'),
        ("[node]\nhostname = 'a#b' # c\n", "node", "hostname", "b", '[node]\nhostname = "b" # c\n'),
        ("[node]\r\nhostname='a'\r\n", "node", "hostname", "b", '[node]\r\nhostname="b"\r\n'),
        (
            MINE,
            "node",
            "control_url",
            'https://h/?a="b"',
            MINE.replace("node\n", 'node\ncontrol_url = "https://h/?a=\\"b\\""\n', 1),
        ),
    ],
)
def test_a_value_is_set_and_everything_else_stays(
    text: str, table: str, key: str, value: str, expected: str
):
    after = with_value(text, table, key, value)
    assert after == expected
    assert tomllib.loads(after)[table][key] == value


@pytest.mark.parametrize(
    "text",
    [
        'node = { hostname = "a" }\n',
        '[node]\nhostname = """\na"""\n',
        "node = 3\n",
        'x = """\n[node]\n"""\nnode.other.hostname = 1\n"node".hostname = """a\n"""\n',
    ],
)
def test_a_form_that_cannot_be_changed_alone_is_refused(text: str):
    with pytest.raises(ConfigError) as caught:
        with_value(text, "node", "hostname", "b")
    assert "cmesh policy show" in caught.value.hint


@pytest.mark.parametrize("text", ["[node", "a = 1\na = 2\n", "\ufeff[node]\n"])
def test_what_is_no_toml_is_refused_and_named(text: str):
    with pytest.raises(ConfigError, match=r"config.toml line \d"):
        with_value(text, "node", "hostname", "b")


def test_a_header_inside_a_long_text_is_no_header():
    text = 'x = """\n[node]\n"""\n'
    assert with_value(text, "node", "hostname", "b") == text + '\n[node]\nhostname = "b"\n'


@pytest.mark.parametrize("text", ["", MINE, MINE.rstrip("\n"), starter_config("box")])
def test_a_rule_is_added_at_the_end_and_taken_out_again(text: str):
    after = with_rule(text, "inbound", RULE)
    assert after.startswith(text)
    assert tomllib.loads(after)["inbound"]["allow"][0]["limits"] == {"per_day": 5}
    back = without_block(after, RULE)
    assert back is not None
    assert back.rstrip("\n") == text.rstrip("\n")


def test_a_rule_beside_others_leaves_them():
    two = with_rule(with_rule("", "outbound", RULE.replace("inbound", "outbound")), "inbound", RULE)
    three = with_rule(two, "inbound", RULE.replace('"one"', '"two"'))
    names = [rule["name"] for rule in tomllib.loads(three)["inbound"]["allow"]]
    assert names == ["one", "two"]
    back = without_block(three, RULE)
    assert back is not None
    assert [rule["name"] for rule in tomllib.loads(back)["inbound"]["allow"]] == ["two"]


def test_rules_in_a_list_of_their_own_are_not_added_to():
    with pytest.raises(ConfigError):
        with_rule('inbound = { allow = [{ name = "x", peers = ["*"] }] }\n', "inbound", RULE)


def test_a_rule_that_was_changed_since_is_not_taken_out():
    assert without_block(with_rule(MINE, "inbound", RULE).replace("5", "6"), RULE) is None


def test_a_diff_names_a_file_that_is_not_there():
    assert diff(None, "a = 1\n", "c").startswith("--- (no file)\n+++ c (after)\n")
    assert diff("a = 1\n", "a = 1\n", "c") == ""
