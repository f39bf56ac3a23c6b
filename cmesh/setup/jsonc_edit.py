"""Changes one place of a JSON text and leaves every other character as it was. Pure.

INVARIANT: `drop` takes back what `put` added, to the character, where nothing else was changed.
So a new member comes last, in the form of those beside it, and a comma stands where it must only.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from cmesh.setup.jsonc import Member, Node, parse, skip_trivia

__all__ = ["drop", "put", "read"]

_LINE_REST = re.compile(r"(?:[ \t]+|/\*[^\r\n]*?\*/)*(?://[^\r\n]*)?(?=[\r\n]|$)")
_LEADING = re.compile(r"[ \t]*")
_DEFAULT_STEP = "  "


def read(text: str) -> dict[str, Any]:
    """Return the object that a text holds; a text of blanks only counts as an empty one.

    Raises:
        JsoncMistake: it is no JSON.
        TypeError: it holds something else than an object.
    """
    if not text.strip():
        return {}
    node = parse(text)
    if not node.is_object:
        raise TypeError("the file holds no JSON object")
    return cast("dict[str, Any]", node.value)


def put(text: str, path: tuple[str, ...], value: object) -> str:
    """Return the text with `value` at `path`; objects on the way are made.

    Raises:
        JsoncMistake: the text is no JSON.
        TypeError: something else than an object is on the way.
    """
    if not text.strip():
        newline = "\r\n" if "\r\n" in text else "\n"
        nested: object = value
        for name in reversed(path):
            nested = {name: nested}
        return _render(nested, "", _DEFAULT_STEP, newline) + newline
    node = parse(text)
    for depth, name in enumerate(path):
        if not node.is_object:
            raise TypeError(f"`{'.'.join(path[:depth]) or 'the file'}` is no JSON object")
        found = node.member(name)
        if found is None:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _insert(text, node, name, value)
        node = found.node
    indent = _indent_at(text, node.start)
    rendered = _render(value, indent, _step(text), _newline(text))
    return text[: node.start] + rendered + text[node.end :]


def drop(text: str, path: tuple[str, ...]) -> str:
    """Return the text without what is at `path`; what is not there is no error.

    Raises:
        JsoncMistake: the text is no JSON.
    """
    if not text.strip():
        return text
    node = parse(text)
    for name in path[:-1]:
        found = node.member(name)
        if found is None:
            return text
        node = found.node
    gone = node.member(path[-1])
    return text if gone is None else _remove(text, node, gone)


def _insert(text: str, parent: Node, name: str, value: object) -> str:
    """Return the text with a new last member of an object."""
    newline, step = _newline(text), _step(text)
    outer = _indent_at(text, parent.start)
    inner = _member_indent(text, parent) or outer + step
    if not parent.members:
        return _insert_first(text, parent, name, value, (outer, inner, step, newline))
    last = parent.members[-1].node.end
    if newline not in text[parent.start : parent.members[-1].start]:
        piece = f", {_quoted(name)}: {json.dumps(value, ensure_ascii=False)}"
        return text[:last] + piece + text[last:]
    member = f"{newline}{inner}{_quoted(name)}: {_render(value, inner, step, newline)}"
    comma = skip_trivia(text, last)
    if text[comma] == ",":
        at = _line_rest(text, comma + 1)
        return text[:at] + member + "," + text[at:]
    at = _line_rest(text, last)
    return text[:last] + "," + text[last:at] + member + text[at:]


def _insert_first(
    text: str, parent: Node, name: str, value: object, form: tuple[str, str, str, str]
) -> str:
    outer, inner, step, newline = form
    member = f"{newline}{inner}{_quoted(name)}: {_render(value, inner, step, newline)}"
    inside = text[parent.start + 1 : parent.end - 1]
    # What stands in the empty object, blanks or a comment, stays in front of the new member.
    kept = inside.rstrip()
    tail = inside[len(kept) :]
    if newline not in tail:
        tail = f"{newline}{outer}"
    return text[: parent.start + 1] + kept + member + tail + text[parent.end - 1 :]


def _remove(text: str, parent: Node, gone: Member) -> str:
    """Return the text without one member, its comma, and the blanks that came with it."""
    at = parent.members.index(gone)
    after = skip_trivia(text, gone.node.end)
    has_comma = text[after] == ","
    if at == 0:
        return _remove_first(text, parent, gone, after + 1 if has_comma else gone.node.end)
    before = parent.members[at - 1].node.end
    comma = skip_trivia(text, before)
    # A comment behind the member before, on its line, is that one's.
    start = _line_rest(text, comma + 1)
    start = start if start < gone.start else comma + 1
    if has_comma:
        return text[:start] + text[after + 1 :]
    return text[:comma] + text[comma + 1 : start] + text[gone.node.end :]


def _remove_first(text: str, parent: Node, gone: Member, end: int) -> str:
    blanks = len(text[parent.start + 1 : gone.start]) - len(
        text[parent.start + 1 : gone.start].rstrip()
    )
    start = gone.start - blanks
    if len(parent.members) > 1:
        return text[:start] + text[end:]
    rest = text[end : parent.end - 1]
    kept = text[parent.start + 1 : start]
    return text[:start] + (rest if kept.strip() or rest.strip() else "") + text[parent.end - 1 :]


def _line_rest(text: str, at: int) -> int:
    """Return the end of a comment that stands behind `at` on its line; `at` without one."""
    found = _LINE_REST.match(text, at)
    return found.end() if found and found[0].strip() else at


def _render(value: object, indent: str, step: str, newline: str) -> str:
    """Return a value in several lines, as editors write it; lists of texts stay on one."""
    if not isinstance(value, Mapping) or not value:
        return json.dumps(value, ensure_ascii=False)
    fields = cast("Mapping[str, object]", value)
    lines = [
        f"{indent}{step}{_quoted(name)}: {_render(one, indent + step, step, newline)}"
        for name, one in fields.items()
    ]
    return f"{{{newline}{f',{newline}'.join(lines)}{newline}{indent}}}"


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _step(text: str) -> str:
    """Return what one level is indented by, as the first member of the text tells."""
    node = parse(text)
    found = _member_indent(text, node) if node.members else None
    return found or _DEFAULT_STEP


def _member_indent(text: str, parent: Node) -> str | None:
    """Return the blanks in front of an object's first member; None = it shares a line."""
    if not parent.members or "\n" not in text[parent.start : parent.members[0].start]:
        return None
    return _indent_at(text, parent.members[0].start)


def _indent_at(text: str, at: int) -> str:
    """Return the blanks that the line of `at` begins with."""
    line = text.rfind("\n", 0, at) + 1
    found = _LEADING.match(text, line, at)
    return found[0] if found else ""
