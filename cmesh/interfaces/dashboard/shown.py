"""How values are shown on pages: the templates' filters. Pure.

Autoescape makes every text harmless as HTML; these make it harmless for the eye, and say by
classes, never by styles, what the style sheet colours.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime

from markupsafe import Markup

from cmesh.interfaces.age import age
from cmesh.text import cut, one_line, reveal

__all__ = ["FILTERS", "bytes_of", "count", "duration", "line", "moment", "text", "usd", "whole"]

TEXT_CHARACTERS = 20_000
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86_400
_KIB = 1024
_KIND = re.compile("[a-z_]{1,32}")


def text(value: object, limit: int = TEXT_CHARACTERS) -> str:
    """Return a remote text to read, with what cannot be seen written out, cut in the middle."""
    return cut(reveal(str(value)), limit)


def whole(value: object) -> str:
    """Return a text that a person judges, with what cannot be seen written out: nothing is cut."""
    return reveal(str(value))


def line(value: object, limit: int = 200) -> str:
    """Return a remote text as one line."""
    return one_line(reveal(str(value)), limit)


def moment(value: datetime | None) -> Markup | str:
    """Return a time as an element that the browser shows in its own zone."""
    if value is None:
        return ""
    exact = value.isoformat(timespec="seconds")
    words = value.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}">{}</time>').format(exact, words)


def duration(seconds: float | None) -> str:
    """Return seconds as people read them."""
    if seconds is None:
        return ""
    whole = int(seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return _two(whole // _MINUTE_S, "min", whole % _MINUTE_S, "s")
    if whole < _DAY_S:
        return _two(whole // _HOUR_S, "h", whole % _HOUR_S // _MINUTE_S, "min")
    return _two(whole // _DAY_S, "d", whole % _DAY_S // _HOUR_S, "h")


def _two(large: int, unit: str, small: int, smaller: str) -> str:
    return f"{large} {unit} {small} {smaller}" if small else f"{large} {unit}"


def bytes_of(value: float) -> str:
    """Return a number of bytes in the unit that keeps it short."""
    for unit in ("B", "KiB", "MiB"):
        if value < _KIB:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= _KIB
    return f"{value:.1f} GiB"


def usd(value: float | None) -> str:
    """Return US dollars; empty for not told."""
    if value is None:
        return ""
    return f"${value:,.2f}" if value >= 0.01 or value == 0 else f"${value:.4f}"


def count(value: int | None) -> str:
    """Return a number with its thousands apart."""
    return "" if value is None else f"{value:,}".replace(",", "\u202f")


def words(value: object) -> str:
    """Return a name of ours, such as a state, as words."""
    return str(value).replace("_", " ")


def event_kind(value: object) -> str:
    """Return a kind of event as a class and a word; a peer may name any."""
    kind = str(value)
    return kind if _KIND.fullmatch(kind) else "other"


def as_json(value: object) -> str:
    """Return data as JSON to read."""
    return text(json.dumps(value, indent=2, ensure_ascii=False))


def short_id(value: str) -> str:
    """Return the end of a task's id, which tells it from others better than its beginning."""
    return f"…{value[-8:]}"


FILTERS: Mapping[str, Callable[..., object]] = {
    "shown": line,
    "shown_lines": text,
    "whole": whole,
    "moment": moment,
    "ago": age,
    "duration": duration,
    "bytes": bytes_of,
    "usd": usd,
    "count": count,
    "words": words,
    "short_id": short_id,
    "event_kind": event_kind,
    "as_json": as_json,
}
