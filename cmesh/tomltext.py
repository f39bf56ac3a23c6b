"""TOML that a person wrote: the table in it, and in which line a mistake stands. Pure."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from cmesh.policy.mistakes import Location

__all__ = ["TomlMistake", "line_of", "read_table", "rule_lines"]

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class TomlMistake(ValueError):
    """Raised when a text is no TOML.

    Attributes:
        line: from 1; None when the mistake stands in no line.
        expected: what is wrong, for people.
    """

    def __init__(self, expected: str, line: int | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.line = line


def read_table(text: str) -> dict[str, object]:
    """Return the table of a whole text.

    Raises:
        TomlMistake: it is no TOML.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise TomlMistake("nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or a number too long for int()
        message = str(error)
        at = _PLACE.search(message)
        if at is None:
            raise TomlMistake(f"not TOML: {message}") from None
        last = text.count("\n") + 1
        line, column = (int(at[1]), f", column {at[2]}") if at[1] else (last, "")
        raise TomlMistake(f"not TOML: {message[: at.start()]}{column}", line) from None


def line_of(text: str, where: Location) -> int | None:
    """Return the line (from 1) where a key stands, or of the nearest table around it.

    None when not even its table is in the text. Reads headers and keys only, so
    it also works on a file whose values are wrong.
    """
    lines: dict[Location, int] = {}
    for number, place in _places(text):
        lines.setdefault(place, number)
    for length in range(len(where), 0, -1):
        if where[:length] in lines:
            return lines[where[:length]]
    return None


def rule_lines(text: str) -> dict[tuple[str, str], int]:
    """Return the line of each policy rule's header, by direction and name.

    Raises:
        ValueError: it is no TOML. A text that is no `config.toml` raises what it likes.
    """
    found: dict[tuple[str, str], int] = {}
    table: dict[str, Any] = tomllib.loads(text)
    for direction in ("inbound", "outbound"):
        for effect, rules in table.get(direction, {}).items():
            for index, rule in enumerate(rules):
                line = line_of(text, (direction, effect, index))
                if line is not None:
                    found[direction, rule["name"]] = line
    return found


_NAME = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)"""
_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*(\]\]?)\s*(#.*)?$")
_KEY = re.compile(rf"^\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_PART = re.compile(_NAME)
_LONG_STRING = re.compile(r'"""|\'\'\'')


def _places(text: str) -> Iterator[tuple[int, Location]]:
    """Yield each header's and key's line and place; texts over several lines are skipped."""
    counts: dict[Location, int] = {}
    table: Location = ()
    quote = ""
    for number, line in enumerate(text.splitlines(), start=1):
        inside = bool(quote)
        for mark in _LONG_STRING.findall(line):
            quote = mark if not quote else "" if mark == quote else quote
        if inside:
            continue
        if header := _HEADER.match(line):
            table = _enter(_parts(header[2]), counts, again=header[1] == "[[")
            yield number, table
        elif key := _KEY.match(line):
            yield number, (*table, *_parts(key[1]))


def _enter(parts: Location, counts: dict[Location, int], *, again: bool) -> Location:
    """Return the place of a header, with the index of each list of tables on the way."""
    place: Location = ()
    for index, part in enumerate(parts):
        place = (*place, part)
        if again and index == len(parts) - 1:
            counts[place] = counts.get(place, -1) + 1
        if place in counts:
            place = (*place, counts[place])
    return place


def _parts(text: str) -> Location:
    return tuple(part.strip("\"'") for part in _PART.findall(text))
