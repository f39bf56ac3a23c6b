"""Structured answers: which JSON Schemas (draft 2020-12) are taken, and whether an answer fits one.

Pure, and the same on both sides: the worker asks before it signs, the caller when it came.
INVARIANT: neither a schema nor an answer can make this run long. What could is refused by name
(`pattern` runs a regular expression), references stay inside the schema, and all that is compared
is counted. Still up to about a second at the worst; for a thread.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, cast

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from cmesh.errors import AnswerInvalid, UsageError
from cmesh.text import one_line, scrub

__all__ = [
    "ANSWER_BYTES",
    "DIALECT",
    "SCHEMA_BYTES",
    "canonical",
    "check_answer",
    "check_schema",
    "last_object",
    "schema_text",
]

SCHEMA_BYTES = 16 * 1024
"""Of a schema as JSON without blanks: it is one argument of some programs."""

SCHEMA_DEEP = 24
ANSWER_BYTES = 16 * 1024
ANSWER_DEEP = 12
STEPS_MOST = 250_000
"""Keywords that are looked at for one answer, each more by what it compares."""

REASON_CHARACTERS = 400
STARTS_MOST = 2_000
"""Places of a text at which an object is looked for."""

SCAN_CHARACTERS = 2_000_000
"""Of a text, read for objects that are none: each place could be read to the text's end."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_ONE = ("items", "contains", "additionalProperties", "propertyNames", "if", "then", "else", "not")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions", "dependentSchemas")
_REFUSED = {
    "pattern": "a regular expression can take without end; say what is meant in `description`",
    "patternProperties": "a regular expression can take without end; use `additionalProperties`",
    "unevaluatedProperties": "use `additionalProperties`",
    "unevaluatedItems": "use `items`",
    "$dynamicRef": "use `$ref` to `#/$defs/…`",
    "$recursiveRef": "use `$ref` to `#/$defs/…`",
    "$dynamicAnchor": "use `$ref` to `#/$defs/…`",
    "$anchor": "use `$ref` to `#/$defs/…`",
    "$id": "leave it out; nothing is fetched",
    "$vocabulary": "leave it out",
    "$schema": "leave it out of all but the top",
}

Schema = Mapping[str, Any]


def canonical(value: object) -> str:
    """Return a JSON value as text without blanks, its keys sorted."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def schema_text(schema: Schema) -> str:
    """Return a caller's schema as it is sent; empty = it asks for none.

    Raises:
        UsageError: as `check_schema`.
    """
    if not schema:
        return ""
    try:
        text = canonical(schema)
    except (ValueError, TypeError, RecursionError):
        raise _wrong("", "it is no JSON, or is nested too deep") from None
    check_schema(text)
    return text


def check_schema(text: str) -> None:
    """Check that answers can be held to a schema.

    Raises:
        UsageError: it is too large or too deep, no JSON Schema, or uses what is not taken; says
            where, and what to write instead.
    """
    if len(text.encode("utf-8", "replace")) > SCHEMA_BYTES:
        raise _wrong("", f"it has more than {SCHEMA_BYTES} bytes")
    if scrub(text) != text:
        raise _wrong("", "it holds control characters, or what is no text")
    schema = _loaded(text)
    if schema is None:
        raise _wrong("", "it is no JSON object")
    if schema.get("$schema", DIALECT) != DIALECT:
        raise _wrong("/$schema", "only draft 2020-12 is taken; leave `$schema` out")
    if schema.get("type") != "object":
        raise _wrong("/type", 'an answer is an object: the top needs `"type": "object"`')
    if _deeper(schema, SCHEMA_DEEP):
        raise _wrong("", f"it is nested deeper than {SCHEMA_DEEP}")
    # INVARIANT: a part that names a dialect, the top too when a part refers to it, would be checked
    # by that dialect's own rules, which nobody counts.
    schema.pop("$schema", None)
    places = dict(_subschemas(schema, "#"))
    for where, part in places.items():
        _check_part(where, part, places)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "".join(f"/{part}" for part in error.absolute_path)
        raise _wrong(where, one_line(error.message, 200)) from None
    except (RecursionError, ArithmeticError):
        raise _wrong("", "it cannot be checked") from None


def check_answer(text: str, schema: str) -> None:
    """Check an answer, as JSON text, against a schema that `check_schema` has taken.

    Raises:
        AnswerInvalid: it is no object, too large, or breaks the schema; says where and by which
            rule, in one scrubbed line.
    """
    if len(text.encode("utf-8", "replace")) > ANSWER_BYTES:
        raise AnswerInvalid(f"the answer has more than {ANSWER_BYTES} bytes")
    answer, rules = _loaded(text), _loaded(schema)
    if answer is None or rules is None:
        raise AnswerInvalid("the answer is no JSON object")
    rules.pop("$schema", None)
    if _deeper(answer, ANSWER_DEEP):
        raise AnswerInvalid(f"the answer is nested deeper than {ANSWER_DEEP}")
    counted = _counted()
    try:
        validator = counted(rules, registry=cast("Any", Registry)())
        found = next(cast("Iterator[ValidationError]", validator.iter_errors(answer)), None)
    except (_TooMuch, RecursionError):
        raise AnswerInvalid("checking the answer takes too long; make the schema simpler") from None
    except (ArithmeticError, Unresolvable):
        raise AnswerInvalid("the answer cannot be checked by this schema") from None
    if found is not None:
        said = f"`{found.json_path}` breaks `{found.validator}`: {found.message}"
        raise AnswerInvalid(one_line(said, REASON_CHARACTERS))


def last_object(text: str) -> dict[str, object] | None:
    """Return the last JSON object that stands in a text, whatever is around it; None = none does."""
    decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
    found: dict[str, object] | None = None
    start, tries, left = text.find("{"), 0, SCAN_CHARACTERS
    while start >= 0 and tries < STARTS_MOST and left > 0:
        tries += 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            read = error.pos if isinstance(error, json.JSONDecodeError) else len(text)
            end, left = start + 1, left - (read - start)
        else:
            found = cast("dict[str, object]", value)
        start = text.find("{", end)
    return found


class _TooMuch(Exception):
    """Raised when an answer has used up its steps."""


Rule = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


def _counted() -> Any:
    """Return a validator whose rules are counted, each by the size of what it compares.

    Messages hold what was compared, so the count bounds their memory as well.
    """
    left, sizes = STEPS_MOST, dict[int, int]()

    def weight(value: object) -> int:
        if not isinstance(value, dict | list):
            return len(value) if isinstance(value, str) else 1
        whole = cast("object", value)
        if id(whole) not in sizes:  # it lives as long as the check
            sizes[id(whole)] = len(canonical(whole))
        return sizes[id(whole)]

    def counted(rule: Rule) -> Rule:
        def call(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
            nonlocal left
            left -= 1 + (weight(value) + weight(instance)) // 64
            if left < 0:
                raise _TooMuch
            return rule(validator, value, instance, schema) or ()

        return call

    rules = cast("Mapping[str, Rule]", Draft202012Validator.VALIDATORS)
    # INVARIANT: what `check_schema` refuses is never run, should it come by an unseen way.
    rules = {**rules, "uniqueItems": _unique, **dict.fromkeys(_REFUSED, _nothing)}
    extend = cast("Any", validators).extend
    return extend(Draft202012Validator, {name: counted(rule) for name, rule in rules.items()})


def _nothing(*_asked: object) -> Iterator[ValidationError]:
    return iter(())


def _unique(_validator: Any, wanted: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """Look for equal items by their text: comparing each with each would take too long."""
    if wanted and isinstance(instance, list):
        items = cast("list[object]", instance)
        if len({canonical(item) for item in items}) < len(items):
            yield ValidationError("it has equal items")


def _check_part(where: str, part: object, places: Mapping[str, object]) -> None:
    if not isinstance(part, dict):
        return
    rules = cast("Schema", part)
    for name, instead in _REFUSED.items():
        if name in rules:
            raise _wrong(f"{where}/{name}", f"`{name}` is not taken: {instead}")
    named = rules.get("dependentRequired")
    lists = {"required": rules.get("required"), "type": rules.get("type")}
    lists |= cast("Schema", named) if isinstance(named, dict) else {}
    for name, words in lists.items():
        # Compared each with each, where they cannot be put in order.
        if isinstance(words, list) and not all(
            isinstance(one, str) for one in cast("list[object]", words)
        ):
            raise _wrong(f"{where}/{name}", "it lists names, and nothing else")
    reference = rules.get("$ref")
    # INVARIANT: what a reference leads to was looked at. Who follows it reads `%2F` as a slash, so
    # that one with `%` could lead into data: to a `pattern` that nobody has seen.
    if reference is not None and (reference not in places or "%" in str(reference)):
        raise _wrong(
            f"{where}/$ref", "a `$ref` leads to a schema inside this one, such as `#/$defs/NAME`"
        )


def _subschemas(schema: object, where: str) -> Iterator[tuple[str, object]]:
    """Yield each schema inside a schema with its pointer; data such as `enum` is none."""
    yield where, schema
    if not isinstance(schema, dict):
        return
    rules = cast("Schema", schema)
    for name in _ONE:
        if name in rules:
            yield from _subschemas(rules[name], f"{where}/{name}")
    for name in _LISTS:
        if isinstance(parts := rules.get(name), list):
            for index, part in enumerate(cast("list[object]", parts)):
                yield from _subschemas(part, f"{where}/{name}/{index}")
    for name in _MAPS:
        if isinstance(parts := rules.get(name), dict):
            for key, part in cast("Schema", parts).items():
                escaped = key.replace("~", "~0").replace("/", "~1")
                yield from _subschemas(part, f"{where}/{name}/{escaped}")


def _loaded(text: str) -> dict[str, Any] | None:
    try:
        value: object = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        inside = list(cast("Mapping[str, object]", value).values())
    elif isinstance(value, list):
        inside = cast("list[object]", value)
    else:
        return False
    return levels == 0 or any(_deeper(item, levels - 1) for item in inside)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"`{text}` is no JSON number")


def _wrong(where: str, why: str) -> UsageError:
    place = one_line(where.removeprefix("#"), 200)
    return UsageError(f"the answer's schema{f' at `{place}`' if place else ''}: {why}")
