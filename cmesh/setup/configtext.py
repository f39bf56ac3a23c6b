"""Changes of a `config.toml` that a person may have written: comments, order and layout stay. Pure.

Each change is checked by what the text means before and after: one that would change anything
else than it should is refused, and the person writes it.
"""

import copy
import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, cast

from cmesh.errors import ConfigError
from cmesh.tomltext import TomlMistake, line_of, read_table

__all__ = [
    "diff",
    "rule_names",
    "rule_text",
    "with_rule",
    "with_value",
    "without_block",
    "without_value",
]

_STRING = r""""(?:[^"\\]|\\.)*"|'[^']*'|[^#\s\[{]+"""
_VALUE = re.compile(rf"^(\s*[^=#]+?\s*=\s*)(?:{_STRING})(\s*(?:#.*)?)$")


def with_value(text: str, table: str, key: str, value: str) -> str:
    """Return the text with `key` of `[table]` set to a string; its comment stays.

    Raises:
        ConfigError: the text is no TOML, or has the key in a form that is not changed here.
    """
    before = _table(text)
    wanted = copy.deepcopy(before)
    inner = wanted.setdefault(table, {})
    if not isinstance(inner, dict):
        raise _refused(f"`{table}` is no table")
    cast("dict[str, Any]", inner)[key] = value
    if wanted == before:
        return text
    after = _spliced(text, before, (table, key), _quoted(value))
    return _checked(after, wanted, f"`{key}` of [{table}]")


def without_value(text: str, table: str, key: str) -> str:
    """Return the text without `key` of `[table]`, which has a line of its own, or has it not.

    Raises:
        ConfigError: the text is no TOML, or has the key in a form that is not changed here.
    """
    wanted = copy.deepcopy(_table(text))
    inner = wanted.get(table)
    if not isinstance(inner, dict) or key not in inner:
        return text
    del cast("dict[str, Any]", inner)[key]
    lines = text.splitlines(keepends=True)
    at = line_of(text, (table, key))
    if at is None or _VALUE.match(lines[at - 1].rstrip("\r\n")) is None:
        raise _refused(f"`{key}` of [{table}] stands in a form that is not changed here")
    del lines[at - 1]
    return _checked("".join(lines), wanted, f"`{key}` of [{table}]")


def with_rule(text: str, direction: str, block: str) -> str:
    """Return the text with a rule, as `rule_text` makes it, at its end.

    It has the line ends of the text.

    Raises:
        ConfigError: the text is no TOML, or lists its rules in a form that is not added to here.
    """
    wanted = copy.deepcopy(_table(text))
    rules = wanted.setdefault(direction, {}).setdefault("allow", [])
    rules.append(read_table(block)[direction]["allow"][0])  # type: ignore[index]
    between = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    added = between + block
    if "\r\n" in text:
        added = added.replace("\n", "\r\n")
    return _checked(text + added, wanted, f"[[{direction}.allow]]")


def without_block(text: str, block: str) -> str | None:
    """Return the text without a rule that stands in it once, letter by letter; None = it does not.

    The empty line before it goes too.
    """
    for end in ("\n", "\r\n"):
        there = block.replace("\n", end)
        if text.count(there) == 1:
            head, _, tail = text.partition(there)
            spaced = head.endswith(end * 2) or head == end
            return head.removesuffix(end) + tail if spaced else head + tail
    return None


def rule_text(direction: str, fields: Mapping[str, object], *, comment: str = "") -> str:
    """Return the text of an allow rule; values are strings, numbers, lists or tables of those."""
    above = [f"# {comment}"] if comment else []
    lines = [f"{key} = {_literal(value)}" for key, value in fields.items()]
    return "\n".join([*above, f"[[{direction}.allow]]", *lines]) + "\n"


def rule_names(text: str) -> frozenset[str]:
    """Return the names of all rules of a file that is known to be usable."""
    table = _table(text)
    return frozenset(
        str(rule.get("name"))
        for direction in ("inbound", "outbound")
        for rules in table.get(direction, {}).values()
        for rule in rules
    )


def diff(before: str | None, after: str | None, name: str) -> str:
    """Return what changes, as a unified diff; empty = nothing."""
    old, new = (before or "").splitlines(keepends=True), (after or "").splitlines(keepends=True)
    lines = difflib.unified_diff(
        old,
        new,
        f"{name} (now)" if before is not None else "(no file)",
        f"{name} (after)" if after is not None else "(no file)",
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _spliced(text: str, before: Mapping[str, Any], where: tuple[str, str], literal: str) -> str:
    table, key = where
    lines = text.splitlines(keepends=True)
    header = line_of(text, (table,))
    if key in before.get(table, {}):
        at = line_of(text, where)
        found = _VALUE.match(lines[at - 1].rstrip("\r\n")) if at is not None else None
        if at is None or at == header or found is None:
            raise _refused(f"`{key}` of [{table}] stands in a form that is not changed here")
        end = lines[at - 1][len(lines[at - 1].rstrip("\r\n")) :]
        lines[at - 1] = f"{found[1]}{literal}{found[2]}{end}"
        return "".join(lines)
    if header is not None:
        if not lines[header - 1].endswith("\n"):
            lines[header - 1] += "\n"
        lines.insert(header, f"{key} = {literal}\n")
        return "".join(lines)
    between = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return f"{text}{between}[{table}]\n{key} = {literal}\n"


def _checked(after: str, wanted: Mapping[str, Any], what: str) -> str:
    """Return the text if it means exactly what is wanted.

    INVARIANT: nothing of a person's file is changed in its meaning but what was asked for.
    """
    try:
        if read_table(after) == wanted:
            return after
    except TomlMistake:
        pass
    raise _refused(f"{what} cannot be put in without changing the rest of the file")


def _table(text: str) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", read_table(text))
    except TomlMistake as mistake:
        at = f" line {mistake.line}" if mistake.line else ""
        raise ConfigError(
            f"config.toml{at}: {mistake.expected}", hint="run `cmesh policy show`, mend the file"
        ) from None


def _refused(why: str) -> ConfigError:
    return ConfigError(why, hint="change config.toml yourself; `cmesh policy show` reads it back")


def _literal(value: object) -> str:
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return "{ " + ", ".join(f"{key} = {_literal(item)}" for key, item in pairs) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_literal(item) for item in cast("list[object]", value)) + "]"
    if isinstance(value, str):
        return _quoted(value)
    return json.dumps(value)


def _quoted(value: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
