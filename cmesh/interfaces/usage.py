"""Failed validations as one sentence a person can act on: what is wrong, what would be right.

Pure. Never repeats free text: only words that should have been one of a few choices.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from cmesh.errors import UsageError
from cmesh.nearest import did_you_mean
from cmesh.text import one_line

__all__ = ["Labels", "usage_error"]

Labels = Callable[[str], str]
"""Gives a field the name that the asker knows it by, for example `--timeout`."""

_SHOWN_PROBLEMS = 3
_SECONDS = frozenset({"timeout_s", "wait_s", "start_within_s"})
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))
_NUMBERS = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
}
_WORD = re.compile(r"[A-Za-z0-9._: -]{1,40}")

# Fields whose form is a pattern: what they are called, and what would be right.
_FORMS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "task_id": (
            "is no task id",
            "give a task's id or at least 4 characters of it; `cmesh tasks` lists them",
        ),
        "group": ("is no group", "give `g-` and what follows; `cmesh tasks` has it as GROUP"),
        "runner": (
            "is no runner's name",
            "write a name such as `claude` or `command:NAME`, see `cmesh peers`",
        ),
        "name": (
            "is no runner's name",
            "lower-case letters, digits, `_` and `-`, at most 32; `cmesh runners list` lists them",
        ),
        "program": ("is no program", "a name, or an absolute path"),
        "keep_text": ("is no time", "write 30d, 90d or forever"),
    }
)


def usage_error(error: ValidationError, labels: Labels = str, *, echo: bool = False) -> UsageError:
    """Return the short form of a failed validation, each field once.

    With `echo` it repeats a short word that is none of a field's choices; never
    longer text, and for an agent's or another program's call nothing: it may be a secret.
    """
    by_field: dict[str, list[Any]] = {}
    for problem in error.errors(include_url=False):
        field = str(problem["loc"][0]) if problem["loc"] else ""
        by_field.setdefault(field, []).append(problem)
    shown: list[str] = []
    hint = ""
    for field, problems in list(by_field.items())[:_SHOWN_PROBLEMS]:
        text, step = _problem(field, problems, labels, echo=echo)
        shown.append(text)
        hint = hint or step
    if len(by_field) > _SHOWN_PROBLEMS:
        shown.append(f"and {len(by_field) - _SHOWN_PROBLEMS} more")
    return UsageError("; ".join(shown) or "the arguments are not valid", hint=hint or None)


def _problem(field: str, problems: Sequence[Any], labels: Labels, *, echo: bool) -> tuple[str, str]:
    """Return what is wrong with a field, and the next step if there is one to name."""
    first = problems[0]
    label = one_line(labels(field), 80)
    choices = _choices(problems)
    given = str(first["input"])
    value = f"`{given}`" if echo and _WORD.fullmatch(given) else "what was given"
    if choices:
        meant = did_you_mean(given, choices, most=1)
        step = f"{meant} one of {', '.join(choices)}".lstrip()
        return f"`{label}`: {value} is not known", step
    if field in _FORMS and first["type"].startswith("string_"):
        what, step = _FORMS[field]
        return f"`{label}`: {value} {what}", step
    return f"`{label}`: {_wanted(first)}", ""


def _choices(problems: Sequence[Any]) -> list[str]:
    """Return the words that a field allows, when it allows only some."""
    if any(problem["type"] not in ("enum", "literal_error") for problem in problems):
        return []
    expected = [str(problem["ctx"]["expected"]) for problem in problems]
    words = [part for text in expected for part in text.replace(" or ", ", ").split(", ")]
    return list(dict.fromkeys(word.strip("'") for word in words))


def _wanted(problem: Any) -> str:
    kind, context = str(problem["type"]), problem.get("ctx", {})
    match kind:
        case "greater_than_equal":
            return f"at least {context['ge']}"
        case "less_than_equal":
            most = context["le"]
            return f"at most {_span(most) if problem['loc'][-1] in _SECONDS else most}"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long" | "too_long":
            return f"too long, at most {context['max_length']}"
        case "extra_forbidden":
            return "no such argument"
        case "missing":
            return "is missing"
        case _:
            text = _NUMBERS.get(kind) or one_line(str(problem["msg"]), 200)
            return text[:1].lower() + text[1:]


def _span(seconds: int) -> str:
    """Return seconds, and in brackets the same as people write it on the command line."""
    for size, unit in _UNITS:
        if seconds >= size and seconds % size == 0:
            return f"{seconds:g} seconds ({seconds // size:g}{unit})"
    return f"{seconds:g} seconds"
