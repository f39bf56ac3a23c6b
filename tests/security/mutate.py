"""Damaged inputs made of recorded ones: by bytes, and by what the bytes mean. Pure, by a seed.

Used by the fuzzers beside it. Half of what comes out still has the form of JSON or TOML, so that
it gets past the parser and tries what stands behind it.
"""

import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any, cast

__all__ = ["HOSTILE_TEXTS", "damaged_bytes", "damaged_json", "damaged_text"]

HOSTILE_TEXTS = (
    "",
    " ",
    "\0",
    "\x1b]52;c;aGk=\x07",
    "\u202e\u2066\u200b",
    "\U000e0041\U000e007f",
    "\ufeff\uffff",
    "../../etc/passwd",
    "/",
    "~root",
    "$(id)",
    "%s%n%x",
    "'; DROP TABLE log; --",
    "nan",
    "0193a5c0-0000-7000-8000-000000000001",
    "2026-13-45T99:99:99Z",
    "9" * 400,
    "a" * 5_000,
    "é" * 2_000,
)
"""Texts that parsers, terminals, shells and databases have stumbled over."""

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.1, -0.0, 1e308),
    *([], {}, [[]], [{}], {"": ""}, {"type": "submit"}, [0] * 3_000),
)
# Written by hand: what `json` would not write, and what JSON in no form allows.
_RAW = (
    *("NaN", "-Infinity", "1e999", "1E400", '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', "01"),
    *("'x'", "undefined", '"a" "b"', "[1,]", '{"a":1,"a":2}', "\t", "/**/1", "1_0", "0x10", "+1"),
    *("[" * 600, '{"a":' * 600, "[" * 200 + "]" * 200),
)
_HOLE = "\x01hole\x01"


def damaged_bytes(chance: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return `data` with a few things done to its bytes, perhaps with a piece of another input."""
    out = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(out) + 1)
        match chance.randrange(7):
            case 0:
                del out[at:]
            case 1:
                del out[at : at + chance.randrange(1, 20)]
            case 2:
                out[at:at] = chance.randbytes(chance.randrange(1, 40))
            case 3:
                out[at:at] = out[at : at + chance.randrange(1, 300)] * chance.randrange(1, 4)
            case 4:
                other = chance.choice(others)
                out[at:] = other[chance.randrange(len(other) + 1) :]
            case _:
                for _ in range(chance.randrange(1, 8)):
                    if out:
                        out[chance.randrange(len(out))] = chance.randrange(256)
    return bytes(out)


def damaged_text(chance: random.Random, text: str, others: Sequence[str]) -> str:
    """Return `text` with its characters damaged; may hold lone surrogates."""
    data = damaged_bytes(chance, text.encode(), [other.encode() for other in others[:1]])
    if chance.randrange(4) == 0:
        at = chance.randrange(len(text) + 1)
        return text[:at] + chance.choice(HOSTILE_TEXTS) + text[at:]
    return data.decode("utf-8", chance.choice(("replace", "surrogateescape")))


def damaged_json(chance: random.Random, frame: str, others: Sequence[str]) -> str:
    """Return a JSON object with values of another kind, other keys, or another's type."""
    value = json.loads(frame)
    raw = ""
    for _ in range(chance.randrange(1, 4)):
        holders = list(_holders(value))
        if not holders:
            break
        holder, key = chance.choice(holders)
        old: Any = copy.deepcopy(holder[key])
        match chance.randrange(8):
            case 0:
                holder.pop(key)
            case 1 if isinstance(holder, dict):
                holder[chance.choice(HOSTILE_TEXTS)] = old
            case 2:
                other = json.loads(chance.choice(others))
                holder[key] = chance.choice([*(h[k] for h, k in _holders(other)), other])
            case 3:
                value["type"] = json.loads(chance.choice(others)).get("type")
            case 4:
                raw, holder[key] = chance.choice(_RAW), _HOLE
            case 5:
                holder[key] = copy.deepcopy(chance.choice(_VALUES))
            case 6 if isinstance(old, list):
                holder[key] = cast("list[Any]", old) * chance.randrange(2, 300)
            case _:
                holder[key] = chance.choice(HOSTILE_TEXTS)
    return json.dumps(value, ensure_ascii=chance.randrange(2) == 0).replace(
        json.dumps(_HOLE), raw or "1"
    )


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of every value below."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(cast("dict[str, Any]", value).items())
    elif isinstance(value, list):
        pairs = list(enumerate(cast("list[Any]", value)))
    for key, item in pairs:
        yield value, key
        yield from _holders(item)
