"""JSON lines for the relay without the `json` package; standard library only.

The C cores of `json` are used directly: importing `json` loads `re` and
`enum`, which is 14 ms of a 40 ms start.
"""

from _json import encode_basestring, encode_basestring_ascii, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, cast
else:

    def cast(_type: object, value: object) -> object:
        """Stand in for `typing.cast`; importing `typing` costs 8 ms."""
        return value


__all__ = ["LINE_BYTES", "Lines", "as_object", "cast", "dump", "literal", "parse"]

LINE_BYTES = 8 * 1024 * 1024


class Lines:
    """Splits a stream into lines; `rest` is what has no newline yet."""

    def __init__(self) -> None:
        self.rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes of any cut; return the lines they complete, without empty ones."""
        if b"\n" not in data:
            self.rest += data
            return []
        *lines, rest = data.split(b"\n")
        lines[0] = bytes(self.rest) + lines[0]
        self.rest = bytearray(rest)
        return [line for line in lines if line.strip()]


class _Numbers:
    """What the C scanner reads from its context (CPython's `json.decoder.JSONDecoder`)."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner takes an attribute


_context: "Any" = _Numbers()
_scan = make_scanner(_context)


def parse(line: bytes) -> object:
    """Return the one JSON value in `line`.

    Raises:
        ValueError: not UTF-8, not JSON, or more than one value.
        RecursionError: nested too deeply.
    """
    text = line.decode().strip(" \t\r\n")
    try:
        value, end = _scan(text, 0)
    except (StopIteration, SystemError):
        # Not JSON. The scanner raises json.decoder's own error, and a SystemError while that is
        # not loaded (CPython's `raise_errmsg`), so `json` has the last word.
        import json

        return json.loads(text)
    if end != len(text):
        raise ValueError("more than one JSON value")
    return value


def dump(value: object, text: "Callable[[str], str]" = encode_basestring_ascii) -> str:
    """Return `value` as JSON on one line, each string through `text`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return "{" + ",".join(f"{text(key)}:{dump(item, text)}" for key, item in pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(dump(item, text) for item in cast("list[object]", value)) + "]"
    return repr(value)


def literal(value: object) -> str:
    """Return `value` as it stands in a literal call: readable JSON, but None, True and False."""
    plain = value is None or isinstance(value, bool)
    return repr(value) if plain else dump(value, encode_basestring)


def as_object(value: object) -> dict[str, object]:
    """Return a JSON object as it is, and an empty one for anything else."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
