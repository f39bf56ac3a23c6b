"""JSON as editors keep it: with comments and trailing commas, and where each part stands. Pure.

Reads only; `jsonc_edit` writes. A document that a strict reader takes is read the same way. What
no reader agrees on, such as a name that stands twice in one object, is a mistake here.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, cast

__all__ = ["JsoncMistake", "Member", "Node", "parse", "skip_trivia"]

DEPTH_MOST = 200
"""Objects and lists inside one another; the deepest real files have about ten."""

_TRIVIA = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_WORD = re.compile(r"-?[0-9][0-9eE+.-]*|true|false|null")


class JsoncMistake(ValueError):
    """Raised when a text is no JSON, with or without comments.

    Attributes:
        line: from 1, where it was found.
        expected: what is wrong, for people.
    """

    def __init__(self, expected: str, line: int) -> None:
        super().__init__(f"line {line}: {expected}")
        self.expected = expected
        self.line = line


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value in a text.

    Attributes:
        start: offset of its first character.
        end: offset behind its last one.
        value: what it means; of an object and a list, all that is in it.
        members: of an object, in the order of the text.
        is_object: whether it is one; an object may have no members.
    """

    start: int
    end: int
    value: Any
    members: tuple["Member", ...] = ()
    is_object: bool = False

    def member(self, name: str) -> "Member | None":
        """Return the member of that name."""
        return next((one for one in self.members if one.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A name in an object, and its value.

    Attributes:
        start: offset of the name's quote.
    """

    name: str
    start: int
    node: Node


def parse(text: str) -> Node:
    """Return the one value of a whole text.

    Raises:
        JsoncMistake: the text is no JSON, says a name twice, or is nested too deeply.
    """
    reader = _Reader(text)
    start = skip_trivia(text, 0)
    node = reader.value(start, 0)
    rest = skip_trivia(text, node.end)
    if rest != len(text):
        raise reader.mistake("nothing more is expected here", rest)
    return node


def skip_trivia(text: str, at: int) -> int:
    """Return the offset behind blanks and comments that begin at `at`."""
    found = _TRIVIA.match(text, at)
    return found.end() if found else at


class _Reader:
    """One text being read; every method takes an offset and returns what begins there."""

    def __init__(self, text: str) -> None:
        self._text = text

    def mistake(self, expected: str, at: int) -> JsoncMistake:
        return JsoncMistake(expected, self._text.count("\n", 0, at) + 1)

    def value(self, at: int, depth: int) -> Node:
        if depth > DEPTH_MOST:
            raise self.mistake("nested too deeply", at)
        first = self._text[at : at + 1]
        if first == "{":
            return self._object(at, depth)
        if first == "[":
            return self._list(at, depth)
        if first == '"':
            word, end = self._string(at)
            return Node(start=at, end=end, value=word)
        found = _WORD.match(self._text, at)
        if found is None:
            raise self.mistake("a value is expected", at)
        return Node(start=at, end=found.end(), value=self._scalar(found[0], at))

    def _object(self, at: int, depth: int) -> Node:
        members: dict[str, Member] = {}
        here = skip_trivia(self._text, at + 1)
        while self._text[here : here + 1] != "}":
            name, end = self._string(here)
            colon = skip_trivia(self._text, end)
            if self._text[colon : colon + 1] != ":":
                raise self.mistake("`:` is expected", colon)
            if name in members:
                raise self.mistake(f"`{name}` stands twice in one object", here)
            node = self.value(skip_trivia(self._text, colon + 1), depth + 1)
            members[name] = Member(name=name, start=here, node=node)
            here = self._next(node.end, "}")
        return Node(
            start=at,
            end=here + 1,
            value={name: one.node.value for name, one in members.items()},
            members=tuple(members.values()),
            is_object=True,
        )

    def _list(self, at: int, depth: int) -> Node:
        items: list[Any] = []
        here = skip_trivia(self._text, at + 1)
        while self._text[here : here + 1] != "]":
            node = self.value(here, depth + 1)
            items.append(node.value)
            here = self._next(node.end, "]")
        return Node(start=at, end=here + 1, value=items)

    def _next(self, at: int, close: str) -> int:
        """Return where the next part begins: behind a comma, or at the closing mark."""
        here = skip_trivia(self._text, at)
        if self._text[here : here + 1] == ",":
            return skip_trivia(self._text, here + 1)
        if self._text[here : here + 1] != close:
            raise self.mistake(f"`,` or `{close}` is expected", here)
        return here

    def _string(self, at: int) -> tuple[str, int]:
        found = _STRING.match(self._text, at)
        if found is None:
            raise self.mistake("a text in double quotes is expected", at)
        return cast("str", self._scalar(found[0], at)), found.end()

    def _scalar(self, word: str, at: int) -> Any:
        try:
            return json.loads(word)
        except ValueError:
            raise self.mistake(f"`{word[:40]}` is no value", at) from None
