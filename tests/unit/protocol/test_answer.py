"""Which schemas are taken, and which answers fit; what would take too long is refused."""

import json
from typing import Any

import pytest

from cmesh.errors import AnswerInvalid, UsageError
from cmesh.protocol.answer import (
    ANSWER_BYTES,
    DIALECT,
    SCHEMA_BYTES,
    canonical,
    check_answer,
    check_schema,
    last_object,
    schema_text,
)

COUNT = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}


def taken(**more: Any) -> str:
    return schema_text({"type": "object"} | more)


def doubled(levels: int) -> dict[str, Any]:
    """Return a small schema whose parts are looked at 2**levels times."""
    more = {
        f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$ref": "#/$defs/d0", "$defs": more | {f"d{levels}": {"type": "object"}}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


def test_none_is_no_schema_and_the_same_one_is_the_same_text() -> None:
    assert schema_text({}) == ""
    assert schema_text({"type": "object", "required": ["a"]}) == taken(required=["a"])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"type": "array"}, "/type"),
    ({"$schema": "http://json-schema.org/draft-07/schema#"}, "2020-12"),
    ({"properties": {"a": {"type": "number of things"}}}, "/properties/a/type"),
    ({"properties": {"a": {"pattern": "(a+)+$"}}}, "`pattern` is not taken"),
    ({"patternProperties": {"(a+)+$": {}}}, "`patternProperties`"),
    ({"allOf": [{"unevaluatedProperties": False}]}, "/allOf/0/unevaluatedProperties"),
    ({"$id": "https://example.com/"}, "`$id`"),
    ({"$ref": "https://example.com/schema.json"}, "/$ref"),
    ({"items": {"$ref": "file:///etc/passwd"}}, "inside this one"),
    ({"$ref": "#/$defs/none"}, "inside this one"),
    ({"$ref": "#/const", "const": {"pattern": "(a+)+$"}}, "inside this one"),
    ({"$ref": 5}, "inside this one"),
    # Lists that cannot be sorted, of which each item would be compared with each.
    ({"required": [{str(number): 0} for number in range(1_400)]}, "it lists names"),
    ({"not": {"type": [{"a": 0}, "string"]}}, "/not/type"),
    ({"dependentRequired": {"a": ["b", {}]}}, "it lists names"),
    # A dialect's own rules are not counted.
    ({"properties": {"a": doubled(60) | {"$schema": DIALECT}}}, "/properties/a/$schema"),
    ({"items": {"$schema": "http://json-schema.org/draft-07/schema#"}}, "/items/$schema"),
    # Who follows it reads a slash there, and comes to what nobody has looked at.
    (
        {
            "$ref": "#/$defs/a%2Fb",
            "$defs": {"a%2Fb": {}, "a": {"b": {"properties": {"x": {"pattern": "^(a+)+$"}}}}},
        },
        "inside this one",
    ),
    ({"title": "x" * SCHEMA_BYTES}, f"{SCHEMA_BYTES} bytes"),
    ({"if": nested(30)}, "deeper"),
    ({"title": "\u202e"}, "control"),
    ({"title": "\ud800"}, "control"),
    ({"minimum": float("nan")}, "no JSON object"),
    ({"maximum": set[int]()}, "no JSON"),
]


@pytest.mark.parametrize(("more", "said"), REFUSED)
def test_what_is_not_taken_is_named(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match="the answer's schema") as refused:
        taken(**more)
    assert said in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "true", "{", "[" * 100_000, '{"type":"object"} x'])
def test_a_text_of_a_peer_that_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        check_schema(text)


def test_a_property_may_have_the_name_of_a_rule_and_a_reference_may_stay_inside() -> None:
    text = taken(
        properties={"pattern": {"$ref": "#/$defs/a~1b"}, "$id": {"enum": [{"$ref": "x"}]}},
        **{"$defs": {"a/b": {"type": "string", "format": "email"}}},
    )
    check_answer('{"pattern": "no address: formats are not looked at"}', text)
    with pytest.raises(AnswerInvalid, match=r"`\$\.pattern` breaks `type`"):
        check_answer('{"pattern": 1}', text)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"count": "two"}', "`$.count` breaks `type`"),
        ("{}", "breaks `required`"),
        ("[]", "no JSON object"),
        ('{"count": NaN}', "no JSON object"),
        ('{"count": 1e999}', "no JSON object"),
        ('{"count": ' + "9" * 5_000 + "}", "no JSON object"),
        (json.dumps({"count": 1, "x": "x" * ANSWER_BYTES}), f"{ANSWER_BYTES} bytes"),
        ('{"count": 1, "x": ' + "[" * 20 + "]" * 20 + "}", "deeper"),
        ('{"count": 1, "x": ' + "[" * 5_000 + "]" * 5_000 + "}", "JSON object"),
    ],
)
def test_an_answer_that_does_not_fit_says_where_and_why(answer: str, said: str) -> None:
    with pytest.raises(AnswerInvalid) as refused:
        check_answer(answer, canonical(COUNT))
    assert said in str(refused.value)


def test_a_reason_is_one_short_harmless_line() -> None:
    name = "a\u202e\n\x1b[31m" * 200
    with pytest.raises(AnswerInvalid) as refused:
        check_answer(canonical({name: 1}), taken(additionalProperties=False))
    said = str(refused.value)
    assert len(said) < 500
    assert not {"\u202e", "\n", "\x1b"} & set(said)


@pytest.mark.parametrize(
    "more",
    [
        doubled(60),
        {"$ref": "#"},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        {"additionalProperties": {"anyOf": [{"items": {"enum": ["x" * 190] * 40}}] * 2}},
    ],
)
def test_a_schema_without_end_is_ended(more: dict[str, Any]) -> None:
    for text in (taken(**more), taken(**more, **{"$schema": DIALECT})):
        with pytest.raises(AnswerInvalid, match="takes too long"):
            check_answer(canonical({"a": ["y"] * 3_900}), text)


def test_an_expression_that_nobody_has_looked_at_is_not_run() -> None:
    unchecked = canonical({"type": "object", "properties": {"x": {"pattern": "^(a+)+$"}}})
    check_answer(canonical({"x": "a" * 60 + "!"}), unchecked)  # else for longer than anybody lives


def test_a_text_full_of_objects_that_are_none_is_not_read_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = 0
    decode = json.JSONDecoder.raw_decode

    def counted(self: json.JSONDecoder, text: str, idx: int = 0) -> Any:
        nonlocal read
        try:
            return decode(self, text, idx)
        except json.JSONDecodeError as error:
            read += error.pos - idx
            raise

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", counted)
    assert last_object('{"a":' * 900 + "[" + "1," * 30_000) is None
    assert 0 < read < 2_200_000


def test_equal_items_are_found_in_a_long_list_of_objects() -> None:
    text = taken(properties={"a": {"uniqueItems": True}})
    items = [{"n": index} for index in range(1_200)]
    check_answer(canonical({"a": items}), text)
    with pytest.raises(AnswerInvalid, match="uniqueItems"):
        check_answer(canonical({"a": [*items, items[0]]}), text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Here it is:\n```json\n{"a": {"b": "}"}}\n```\nDone.', {"a": {"b": "}"}}),
        ('first {"a": 1}, no: {"a": 2}', {"a": 2}),
        ('{"a": 1} and {broken', {"a": 1}),
        ("no object {here}", None),
        ("[1, 2]", None),
        ('{"a": NaN}', None),
        ("{" * 50_000, None),
        ('{"a":' * 10_000, None),
        ("", None),
    ],
)
def test_the_last_object_of_a_text_is_found(text: str, found: object) -> None:
    assert last_object(text) == found
