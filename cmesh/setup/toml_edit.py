"""Changes one table of a TOML text and leaves every other line as it was. Pure.

Works on whole statements: a header, or a key with its value over as many lines as it takes.
INVARIANT: what comes out is read again and must mean what was asked, and no more; a form that
this file does not master ends in `TomlUnsuited`, never in a wrong file.
"""

import copy
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from cmesh.tomltext import read_table

__all__ = ["TomlUnsuited", "drop", "put", "read"]

Path = tuple[str, ...]

_NAME = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)"""
_KEY = re.compile(rf"[ \t]*({_NAME}(?:[ \t]*\.[ \t]*{_NAME})*)[ \t]*=")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_TABLE_DEPTH = 2
"""How deep a new mapping becomes a table of its own; deeper it stands on its key's line."""

_VALUE_LINES = 2000
"""Lines that one value may take; longer ones are not looked through."""


class TomlUnsuited(ValueError):
    """Raised when a text has a form in which the change cannot be made safely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statement:
    """A header, or a key with its value.

    Attributes:
        path: of the table, or of the key from the root.
        table: path of the header it stands below, itself for a header.
        first: index of its first line.
        last: index behind its last line.
    """

    path: Path
    table: Path
    is_header: bool
    first: int
    last: int


def read(text: str) -> dict[str, Any]:
    """Return the table of a whole text.

    Raises:
        TomlMistake: it is no TOML, or says a key twice.
    """
    return read_table(text)


def put(text: str, path: Path, value: Any) -> str:
    """Return the text with `value` at `path`; a mapping that is new becomes a table at the end.

    Raises:
        TomlMistake: the text is no TOML.
        TomlUnsuited: it cannot be done by whole lines.
    """
    table = read(text)
    wanted = _with(table, path, value)
    lines = text.splitlines(keepends=True)
    statements = list(_statements(lines))
    newline = "\r\n" if "\r\n" in text else "\n"
    fields = _fields(value)
    if fields is not None and any(one.is_header and one.path == path for one in statements):
        for name, one in fields.items():
            text = put(text, (*path, name), one)
        return _checked(text, wanted, path)
    found = [one for one in statements if one.path == path and not one.is_header]
    holder = [one for one in statements if one.path == path[:-1] and one.is_header]
    if found:
        key = _KEY.match(lines[found[0].first])
        written = f"{key[0] if key else _name(path[-1]) + ' ='} {_value(value)}{newline}"
        lines[found[0].first : found[0].last] = [written]
    elif fields is not None and _get(table, path) is None and len(path) == _TABLE_DEPTH:
        lines = [*_ended(lines, newline), *_block(path, fields, newline, first=not text)]
    elif holder:
        last = max(one.last for one in statements if one.table == holder[0].path)
        lines = _ended(lines, newline) if last == len(lines) else lines
        lines.insert(last, f"{_name(path[-1])} = {_value(value)}{newline}")
    else:
        raise TomlUnsuited(f"`{'.'.join(path)}` stands in a form that cannot be changed safely")
    return _checked("".join(lines), wanted, path)


def drop(text: str, path: Path) -> str:
    """Return the text without what is at `path`, and without the blank line in front of it.

    Raises:
        TomlMistake: the text is no TOML.
        TomlUnsuited: it cannot be done by whole lines.
    """
    table = read(text)
    if _get(table, path) is None:
        return text
    lines = text.splitlines(keepends=True)
    gone = [one for one in _statements(lines) if one.path[: len(path)] == path]
    for one in reversed(gone):
        first = one.first
        if one.is_header and first and not lines[first - 1].strip():
            first -= 1
        del lines[first : one.last]
    left = "".join(lines)
    wanted = _without(table, path)
    if not _get(wanted, path[:-1]) and _get(read(left), path[:-1]) is None:
        wanted = _without(wanted, path[:-1])  # a table that was there only as the way to this one
    return _checked(left, wanted, path)


def _block(path: Path, fields: Mapping[str, object], newline: str, *, first: bool) -> list[str]:
    header = f"[{'.'.join(_name(one) for one in path)}]"
    # Always one blank line in front, so that `drop` knows what came with the table.
    lines = [*([] if first else [""]), header]
    lines += [f"{_name(name)} = {_value(value)}" for name, value in fields.items()]
    return [f"{line}{newline}" for line in lines]


def _ended(lines: list[str], newline: str) -> list[str]:
    """Return the lines with an end behind the last one."""
    if lines and not lines[-1].endswith("\n"):
        return [*lines[:-1], lines[-1] + newline]
    return lines


def _statements(lines: list[str]) -> Iterator[_Statement]:
    """Yield each header and each key of a text that is known to be TOML."""
    table: Path = ()
    at = 0
    while at < len(lines):
        line = lines[at].strip()
        if not line or line.startswith("#"):
            at += 1
        elif line.startswith("["):
            table = _only_path(read_table(line))
            yield _Statement(path=table, table=table, is_header=True, first=at, last=at + 1)
            at += 1
        else:
            end = _value_end(lines, at)
            key = _KEY.match(lines[at])
            if key is None:
                raise TomlUnsuited(f"line {at + 1} is in a form that is not known here")
            path = (*table, *_only_path(read_table(f"{key[1]} = 0")))
            yield _Statement(path=path, table=table, is_header=False, first=at, last=end)
            at = end


def _value_end(lines: list[str], at: int) -> int:
    """Return the index behind the value's last line: the first at which it is complete."""
    for end in range(at + 1, min(len(lines), at + _VALUE_LINES) + 1):
        try:
            tomllib.loads("".join(lines[at:end]))
        except ValueError:
            continue
        return end
    raise TomlUnsuited(f"the value in line {at + 1} is too long to look through")


def _only_path(table: Mapping[str, Any]) -> Path:
    """Return the one way down a table that a header or a dotted key makes."""
    path: list[str] = []
    here: Any = table
    while isinstance(here, dict | list) and here:
        if isinstance(here, list):
            here = cast("list[Any]", here)[-1]
            continue
        name, here = next(iter(cast("dict[str, Any]", here).items()))
        path.append(name)
    return tuple(path)


def _checked(text: str, wanted: Mapping[str, Any], path: Path) -> str:
    try:
        same = tomllib.loads(text) == wanted
    except ValueError:
        same = False
    if not same:
        raise TomlUnsuited(f"`{'.'.join(path)}` stands in a form that cannot be changed safely")
    return text


def _get(table: Mapping[str, Any], path: Path) -> object:
    here: Any = table
    for name in path:
        if not isinstance(here, dict) or name not in here:
            return None
        here = cast("dict[str, Any]", here)[name]
    return cast("object", here)


def _with(table: dict[str, Any], path: Path, value: object) -> dict[str, Any]:
    """Return the table with a value at `path`."""
    whole = copy.deepcopy(table)
    here = whole
    for name in path[:-1]:
        below = here.setdefault(name, {})
        if not isinstance(below, dict):
            raise TomlUnsuited(f"`{name}` is no table")
        here = cast("dict[str, Any]", below)
    here[path[-1]] = value
    return whole


def _without(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the table without what is at `path`."""
    whole = copy.deepcopy(table)
    way = [whole]
    for name in path[:-1]:
        way.append(way[-1][name])
    del way[-1][path[-1]]
    return whole


def _fields(value: object) -> Mapping[str, Any] | None:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None


def _name(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    """Return a value in TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        # TOML's basic string is JSON's, but for DEL, which must be written out.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if (fields := _fields(value)) is not None:
        inner = ", ".join(f"{_name(name)} = {_value(one)}" for name, one in fields.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one) for one in cast('list[object]', value))}]"
    raise TypeError(f"a {type(value).__name__} is no value of TOML")
