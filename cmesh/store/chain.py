"""The hash chain of the log: canonical JSON, salted digests, links. Pure.

A row's canonical text holds digests of texts, never the texts, so that a text can be
erased later without breaking the chain. Nothing here reads or writes a file.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import cast

from cmesh.errors import StoreError

__all__ = [
    "GENESIS",
    "canonical",
    "canonical_row",
    "clean",
    "digest",
    "from_micros",
    "link",
    "micros",
    "plain",
    "stored_json",
]

GENESIS = bytes(32)
"""The hash before the first row."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_S = 86_400
_ORDERS_KEPT = 256  # there are a few for each table
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(value: Mapping[str, object]) -> str:
    """Return JSON with sorted keys and no spaces; the same value always gives the same text.

    Floats become strings (their shortest decimal form): their JSON text differs
    between writers, and a chain must be checkable by any of them.

    Raises:
        StoreError: a value has no JSON form.
    """
    tidy = plain(value, number=repr)
    return _JSON.encode(tidy)


def canonical_row(fields: Mapping[str, object]) -> str:
    """Return what `canonical` does, in a third of its time, of a row's fields.

    They are JSON values already, with clean texts, and no float is within another one.
    """
    from pydantic_core import to_json  # the database process, which needs no row's text, has none

    tidy = {
        name: repr(value) if type(value := fields[name]) is float else value
        for name in _ordered(tuple(fields))
    }
    return to_json(tidy).decode()


@lru_cache(_ORDERS_KEPT)
def _ordered(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(names))


def stored_json(value: Mapping[str, object] | Sequence[object]) -> str:
    """Return JSON as a column holds it; unlike the canonical form it keeps floats.

    Raises:
        StoreError: a value has no JSON form; NaN and infinity have none.
    """
    if not value:
        return "[]" if isinstance(value, Sequence) else "{}"
    tidy = plain(value, number=_finite)
    return _JSON.encode(tidy)


def link(previous: bytes, canon: str) -> bytes:
    """Return SHA-256 over the previous row's hash and this row's canonical text."""
    return hashlib.sha256(previous + canon.encode()).digest()


def digest(salt: str, name: str, text: str) -> str:
    """Return the hex digest that stands for a text in the chain.

    `salt` is random per row and erased with the text: without it, short texts could be guessed.
    """
    return hashlib.sha256(f"{salt}:{name}:{text}".encode()).hexdigest()


def clean(text: str) -> str:
    """Return `text` without what UTF-8 or a text column cannot carry: surrogates and NUL."""
    if "\0" not in text and (text.isascii() or _encodable(text)):
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def micros(moment: datetime) -> int:
    """Return microseconds since 1970 UTC; exact, unlike a float timestamp."""
    since = moment - _EPOCH
    # A third of the time that a division takes.
    return (since.days * _DAY_S + since.seconds) * 1_000_000 + since.microseconds


def from_micros(value: int) -> datetime:
    """Return the moment `micros` came from, in UTC."""
    return _EPOCH + timedelta(microseconds=value)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain(value: object, *, number: Callable[[float], object]) -> object:
    """Return `value` as JSON types with clean texts; `number` gives a float's form."""
    if type(value) is str:  # nearly all there is, ahead of the slow look at abstract types
        return clean(value)
    match value:
        case None | bool() | int():
            return value
        case str():
            return clean(str(value))
        case float():
            return number(value)
        case datetime():
            return value.isoformat()
        case Mapping():
            items = cast("Mapping[object, object]", value).items()
            return {clean(str(key)): plain(item, number=number) for key, item in items}
        case Sequence() if not isinstance(value, bytes | bytearray):
            return [plain(item, number=number) for item in cast("Sequence[object]", value)]
        case _:
            raise StoreError(f"a record holds a `{type(value).__name__}`, which has no JSON form")


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise StoreError(f"a record holds the number `{value}`, which has no JSON form")
    return value
