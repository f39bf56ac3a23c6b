"""The values of `--param`, bound to a statement and never a part of it. Pure."""

import re
from collections.abc import Sequence

from cmesh.errors import UsageError
from cmesh.text import one_line

__all__ = ["Given", "Value", "bound"]

Value = str | int | float | bool | None
Given = list[Value] | dict[str, Value]
"""In order for `?`, or by name for `$name`."""

_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63})=(.*)", re.DOTALL)
# No exponent and no leading zero: `12e4567` and `007` are rather ids than numbers.
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,30})(\.\d{1,30})?")
_WORDS: dict[str, Value] = {"true": True, "false": False, "null": None}
_SHOWN = 40


def bound(texts: Sequence[str]) -> Given:
    """Return what `NAME=VALUE` or `VALUE`, given again and again, binds.

    `5`, `-1.5`, `true`, `false` and `null` are what they are called; all else is text, and so is
    what stands in double quotes.

    Raises:
        UsageError: some have names and some have none, or a name comes twice.
    """
    pairs = [_parted(text) for text in texts]
    named = [name for name, _value in pairs if name]
    if not named:
        return [value for _name, value in pairs]
    if len(named) < len(pairs):
        loose = next(text for text, (name, _) in zip(texts, pairs, strict=True) if not name)
        raise UsageError(
            f"`--param {one_line(loose, _SHOWN)}` has no name, and others have one",
            hint="name all for `$name`, or none for `?`",
        )
    for name in named:
        if named.count(name) > 1:
            raise UsageError(f"`--param {name}` is given twice", hint="give it once")
    return {name: value for name, value in pairs if name}


def _parted(text: str) -> tuple[str, Value]:
    found = _NAMED.fullmatch(text)
    return (found[1], _value(found[2])) if found else ("", _value(text))


def _value(text: str) -> Value:
    if text in _WORDS:
        return _WORDS[text]
    found = _NUMBER.fullmatch(text)
    if found:
        return float(text) if found[2] else int(text)
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    return text
