"""What is wrong with a table, and where: pydantic's findings in the words of a configuration.

Knows no table by name; which ones there are is `cmesh.policy.tables`'s and the manifest's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from cmesh.errors import ConfigError
from cmesh.nearest import did_you_mean, nearest

__all__ = ["Location", "PolicyError", "Problem", "describe", "key_of", "problems", "wanted"]

Location = tuple[str | int, ...]
"""Where a value stands: keys, and indexes from 0 into lists."""


class PolicyError(ConfigError):
    """Raised when rules are not of the form or make no sense.

    Attributes:
        where: the place inside the file, for example `("inbound", "allow", 0, "peers", 1)`.
        key: the same as people write it: `inbound.allow[0].peers[1]`.
        expected: what should stand there.
    """

    def __init__(self, where: Location, expected: str) -> None:
        super().__init__(f"`{key_of(where)}`: {expected}")
        self.where = where
        self.key = key_of(where)
        self.expected = expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a value.

    Attributes:
        where: the value, or the unknown or missing key.
        expected: what should stand there, for people.
        unknown: the key itself is not known at this place.
        meant: the question which of the allowed words was meant; empty when none is near.
    """

    where: Location
    expected: str
    unknown: bool = False
    meant: str = ""


def problems(error: ValidationError) -> list[Problem]:
    """Return what pydantic found, unknown keys first: they often explain missing ones."""
    found = [_problem(item) for item in error.errors(include_url=False, include_context=True)]
    return sorted(found, key=lambda problem: not problem.unknown)


def describe(problem: Problem, model: type[BaseModel]) -> str:
    """Return what is wrong in one clause; for an unknown key, with the nearest known one."""
    if not problem.unknown:
        return f"expected {problem.expected}" + (f"; {problem.meant}" if problem.meant else "")
    known = _known_keys(model, problem.where)
    near = nearest(str(problem.where[-1]), known, most=1)
    if near:
        return f"unknown key; did you mean `{near[0]}`?"
    return f"unknown key; known here: {', '.join(f'`{key}`' for key in known)}"


def key_of(where: Location) -> str:
    """Return the key's path as people write it: `inbound.allow[0].peers[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_bare(part)}" for part in where)
    return text.removeprefix(".")


def wanted(words: str, *at: str) -> PydanticCustomError:
    """Return the error that `words` should stand at a value, or at the key `at` of a table."""
    return PydanticCustomError("wanted", "{words}", {"words": words, _AT: at})


def _bare(part: str) -> str:
    return part if _BARE_KEY.fullmatch(part) else f'"{part}"'


def _known_keys(model: type[BaseModel], where: Location) -> list[str]:
    """Return the keys that the table at `where`'s parent knows."""
    current = model
    for part in where[:-1]:
        if isinstance(part, str) and part in current.model_fields:
            current = _table_in(current.model_fields[part].annotation) or current
    return list(current.model_fields)


def _table_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner: Sequence[Any] = get_args(annotation)
    return next((table for part in inner if (table := _table_in(part))), None)


def _problem(item: ErrorDetails) -> Problem:
    # A rule over a whole table says itself at which of its keys to look.
    where, expected = (*item["loc"], *item.get("ctx", {}).get(_AT, ())), _expected(item)
    meant = _meant(item)
    if where and where[-1] == _KEY_ITSELF:
        where, expected = where[:-1], f"{expected} as its name"
    if item["type"] == "invalid-json-value":
        where = _without_kinds(where)
    unknown = item["type"] == "extra_forbidden"
    return Problem(where=where, expected=expected, unknown=unknown, meant=meant)


def _without_kinds(where: Location) -> Location:
    """Return a place inside of a free JSON value without pydantic's word before each step in it."""
    if len(where) > 1 and where[-2] in ("dict", "list"):
        return (*_without_kinds(where[:-2]), where[-1])
    return where


def _expected(item: ErrorDetails) -> str:
    kind = item["type"]
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        text = words.format(item.get("ctx", {})[bound]).replace("'", '"')
        return text if len(_choices(item)) != 1 else text.removeprefix("one of ")
    text = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return _EXPECTED.get(kind, text)


def _meant(item: ErrorDetails) -> str:
    given = item["input"]
    return did_you_mean(given, _choices(item), most=1) if isinstance(given, str) else ""


def _choices(item: ErrorDetails) -> list[str]:
    """Return the words that may stand there, when there are only some."""
    if item["type"] not in ("enum", "literal_error"):
        return []
    words = str(item.get("ctx", {})["expected"]).replace(" or ", ", ").split(", ")
    return [word.strip("'") for word in words]


_AT = "at"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_KEY_ITSELF = "[key]"  # pydantic's last location of an error about a key of a free table
_BOUNDS = {
    "enum": ("one of {}", "expected"),
    "literal_error": ("one of {}", "expected"),
    "too_short": ("at least {} item", "min_length"),
    "too_long": ("at most {} items", "max_length"),
    "string_too_short": ("at least {} character", "min_length"),
    "string_too_long": ("at most {} characters", "max_length"),
    "greater_than": ("more than {}", "gt"),
    "greater_than_equal": ("at least {}", "ge"),
    "less_than_equal": ("at most {}", "le"),
    "string_pattern_mismatch": ("a text of the form {}", "pattern"),
}
_EXPECTED = {
    "missing": "this key",
    "extra_forbidden": "a known key",
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "invalid-json-value": "a text, a number, true or false, a list or a table",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
