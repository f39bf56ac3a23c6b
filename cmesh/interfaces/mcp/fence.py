"""The fence around remote text: what another machine wrote reaches a model marked as data."""

import json
import re
import secrets

from cmesh.text import cut, defang, fence, one_line

__all__ = ["Fence", "cut_json", "json_length", "plain"]

TOKEN = re.compile(r"[A-Za-z0-9@._:/+~-]{1,253}")


class Fence:
    """Marks remote text in one result; every result has its own nonce."""

    def __init__(self, nonce: str | None = None) -> None:
        self._nonce = nonce or secrets.token_hex(8)

    def text(self, text: str, source: str, limit: int) -> str:
        """Return `text` cut to `limit` characters of JSON, as data; empty stays empty."""
        return self.whole(cut_json(text, limit), source) if text else ""

    def whole(self, text: str, source: str, *, what: str = "Output of peer") -> str:
        """Return `text` as data, uncut; the caller has limited it."""
        named = source if TOKEN.fullmatch(source) else "(unnamed)"
        return fence(text, source=named, nonce=self._nonce, what=what)

    def name(self, text: str, source: str) -> str:
        """Return an identifier as it is and anything else, such as free text, as data."""
        return text if TOKEN.fullmatch(text) else self.text(defang(one_line(text)), source, 100)


def plain(text: str) -> str:
    """Return a remote identifier for a `next`, where nothing is fenced; else an ellipsis."""
    return text if TOKEN.fullmatch(text) else "…"


def cut_json(text: str, limit: int) -> str:
    """Return `text` cut so that it has about `limit` characters as JSON."""
    room = limit
    shown = cut(text, room)
    while (length := json_length(shown)) > limit + 2:
        room = room * limit // length
        shown = cut(text, room)
    return shown


def json_length(line: str) -> int:
    """Return the length of a text as JSON."""
    return len(json.dumps(line, ensure_ascii=False))
