"""What is wrong with a table, and where: pydantic's findings in the words of a configuration.

Knows no table by name; which ones there are is `cmesh.policy.tables`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cmesh.errors import ConfigError

__all__ = ["Location", "PolicyError", "Problem", "key_of", "known_keys", "problems"]

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
    """

    where: Location
    expected: str
    unknown: bool = False


def problems(error: ValidationError) -> list[Problem]:
    """Return what pydantic found, unknown keys first: they often explain missing ones."""
    found = [_problem(item) for item in error.errors(include_url=False, include_context=True)]
    return sorted(found, key=lambda problem: not problem.unknown)


def key_of(where: Location) -> str:
    """Return the key's path as people write it: `inbound.allow[0].peers[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")


def known_keys(model: type[BaseModel], where: Location) -> list[str]:
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
    where, expected = item["loc"], _expected(item)
    if where and where[-1] == _KEY_ITSELF:
        return Problem(where=where[:-1], expected=f"{expected} as its name")
    return Problem(where=where, expected=expected, unknown=item["type"] == "extra_forbidden")


def _expected(item: ErrorDetails) -> str:
    kind = item["type"]
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return words.format(item.get("ctx", {})[bound]).replace("'", '"')
    return _EXPECTED.get(kind) or item["msg"].removeprefix("Input should be ")


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
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
