"""Taking secrets out of texts: those that cmesh knows, and those whose form is well known.

Pure. A secret gives way to a mark of the same length, so offsets in an output stay what they
were. What is not redacted: a secret that was encoded, taken apart, or has no known form.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final, cast

__all__ = ["VALUE_CHARACTERS", "Redactor", "Stream"]

VALUE_CHARACTERS = 8
"""A known secret shorter than this is not looked for: it would be found everywhere."""

HOLD_BYTES = 8 * 1024
"""The most of an output's end that is held back, and more than the longest match."""

KEY_BYTES = 16 * 1024
"""After so many bytes a private key's block counts as ended, wherever its last line is."""

_LINE_BYTES = 512
_DATA_DEPTH = 16

# Name, a word that must be there (so that most texts cost one search each), and the form.
# Sources: the issuers' own pages on their token formats, and the rules of gitleaks for which
# of them are worth looking for. Every repetition has an end: it bounds what is held back.
_FORMS: Final[tuple[tuple[str, bytes, bytes], ...]] = (
    ("anthropic", b"sk-ant-", rb"sk-ant-[A-Za-z0-9_-]{20,200}"),
    ("openai", b"sk-", rb"sk-(?:proj|svcacct|admin|or-v1)-[A-Za-z0-9_-]{20,250}"),
    ("openai", b"sk-", rb"sk-[A-Za-z0-9]{32,64}"),
    ("google", b"AIza", rb"AIza[A-Za-z0-9_-]{35}"),
    ("google", b"ya29.", rb"ya29\.[A-Za-z0-9_-]{20,400}"),
    ("google", b"GOCSPX-", rb"GOCSPX-[A-Za-z0-9_-]{28}"),
    ("aws", b"A", rb"(?:AKIA|ASIA)[A-Z2-7]{16}"),
    ("aws", b"ecret", rb"(?i:aws_?secret_?(?:access_?)?key)[\"' ]{0,4}[=:][\"' ]{0,4}(?P<only>[A-Za-z0-9/+]{40})"),
    ("azure", b"AccountKey=", rb"AccountKey=(?P<only>[A-Za-z0-9+/]{86}==)"),
    ("github", b"gh", rb"gh[pousr]_[A-Za-z0-9]{36,255}"),
    ("github", b"github_pat_", rb"github_pat_[A-Za-z0-9_]{22,255}"),
    ("gitlab", b"gl", rb"gl(?:pat|ptt|dt|rt|cbt|ft|soat|imt|agent)-[A-Za-z0-9_.-]{20,100}"),
    ("slack", b"xox", rb"xox[abeoprs]-[A-Za-z0-9-]{10,250}"),
    ("slack", b"xapp-", rb"xapp-[A-Za-z0-9-]{20,250}"),
    ("slack", b"hooks.slack.com", rb"hooks\.slack\.com/services/(?P<only>[A-Za-z0-9/]{30,100})"),
    ("stripe", b"k_", rb"[rs]k_(?:live|test)_[A-Za-z0-9]{16,200}"),
    ("stripe", b"whsec_", rb"whsec_[A-Za-z0-9]{24,100}"),
    ("npm", b"npm_", rb"npm_[A-Za-z0-9]{36}"),
    ("pypi", b"pypi-", rb"pypi-[A-Za-z0-9_-]{50,1000}"),
    ("huggingface", b"hf_", rb"hf_[A-Za-z0-9]{30,60}"),
    ("groq", b"gsk_", rb"gsk_[A-Za-z0-9]{40,80}"),
    ("xai", b"xai-", rb"xai-[A-Za-z0-9]{60,120}"),
    ("digitalocean", b"_v1_", rb"do[opr]_v1_[0-9a-f]{64}"),
    ("docker", b"dckr_", rb"dckr_[a-z]{2,4}_[A-Za-z0-9_-]{20,100}"),
    ("vault", b"hv", rb"hv[sb]\.[A-Za-z0-9_-]{20,300}"),
    ("sendgrid", b"SG.", rb"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    ("databricks", b"dapi", rb"dapi[0-9a-f]{32}"),
    ("age", b"AGE-SECRET-KEY-", rb"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
    ("tailscale", b"tskey-", rb"tskey-[a-z]{2,16}-[A-Za-z0-9]{5,40}(?:-[A-Za-z0-9]{10,80})?"),
    ("tailscale", b"privkey:", rb"privkey:(?P<only>[0-9a-f]{64})"),
    ("jwt", b"eyJ", rb"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{16,1000}"),
    ("password", b"://", rb"[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s:@/\"'\\]{0,64}:(?P<only>[^\s@/\"'\\]{3,200})@"),
    # In one line, as JSON has it; over several lines see `Stream`.
    ("private key", b"PRIVATE KEY-----", rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?:[A-Za-z0-9+/=,:. -]|\\[nr]){16,7000}"),
)  # fmt: skip
_RULES = [(name, word, re.compile(rb"(?<![A-Za-z0-9])" + form)) for name, word, form in _FORMS]
_KEY_BEGINS = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_KEY_ENDS = re.compile(rb"-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----")
# Of these forms a blank may be a part, so their line is held back until it ends.
_LINE_WORDS = (b"-----", b"ecret")
_BREAK = re.compile(rb"[\s\"'`<>(){}\[\],;|]")


class Redactor:
    """Finds secrets; made anew when the secrets that are known by value change."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        found = {value for value in values if len(value) >= VALUE_CHARACTERS}
        # In a stream of JSON a value stands as JSON writes it.
        found |= {json.dumps(value)[1:-1] for value in found}
        # The longest first: one may be the beginning of another.
        self.values = sorted((value.encode() for value in found), key=len, reverse=True)

    def text(self, text: str) -> tuple[str, int]:
        """Return a text without its secrets, and how many there were."""
        raw = text.encode("utf-8", "surrogatepass")
        stream = Stream(self)
        clean = stream.feed(raw) + stream.finish()
        return (clean.decode("utf-8", "surrogatepass"), stream.hits) if stream.hits else (text, 0)

    def data(self, data: Mapping[str, object]) -> tuple[dict[str, object], int]:
        """Return a JSON object without the secrets in its texts, and how many there were."""
        counted = [0]
        clean = cast("dict[str, object]", self._value(dict(data), counted, 0))
        return clean, counted[0]

    def marks(self, data: bytearray, start: int, stop: int, *, end: bool) -> tuple[int, int]:
        """Replace every secret that starts in [`start`, `stop`).

        Return how many, and where the data is whole: a secret that reaches its end may go on
        in what comes next, unless that is the `end` of all.
        """
        hits, whole = 0, stop
        for value in self.values:
            at = data.find(value, start)
            while 0 <= at < stop:
                hits += _mark(data, at, at + len(value), b"known")
                at = data.find(value, at + len(value))
        for name, word, form in _RULES:
            if data.find(word, start) < 0:
                continue
            for found in form.finditer(bytes(data), start):
                if found.start() >= whole:
                    break
                grows = found.end() == len(data) and not end
                if grows and len(data) - found.start() < HOLD_BYTES:
                    whole = min(whole, found.start())
                    break
                group = "only" if "only" in form.groupindex else 0
                hits += _mark(data, found.start(group), found.end(group), name.encode())
        return hits, whole

    def unfinished(self, data: bytes | bytearray) -> int:
        """Return how many bytes at the end may be the beginning of a known value."""
        most = 0
        for value in self.values:
            for size in range(min(len(value) - 1, len(data)), most, -1):
                if data.endswith(value[:size]):
                    most = size
                    break
        return most

    def _value(self, value: object, counted: list[int], depth: int) -> object:
        if isinstance(value, str):
            clean, hits = self.text(value)
            counted[0] += hits
            return clean
        if depth >= _DATA_DEPTH:
            return value
        if isinstance(value, dict):
            items = cast("dict[str, object]", value).items()
            return {
                cast("str", self._value(name, counted, depth + 1)): self._value(
                    one, counted, depth + 1
                )
                for name, one in items
            }
        if isinstance(value, list | tuple):
            return [self._value(one, counted, depth + 1) for one in cast("list[object]", value)]
        return value


class Stream:
    """An output that comes in pieces; what comes out does not depend on where they were cut.

    Only what may be a part of a secret is held back: a word that has not ended, at most 8 KiB.

    Attributes:
        hits: secrets so far.
    """

    def __init__(self, redactor: Redactor) -> None:
        self.hits = 0
        self._redactor = redactor
        self._data = bytearray()
        self._seen = 0  # of `_data`, bytes that went out already; a form looks at the last one
        self._key_left = 0  # bytes of a private key's block that may still come

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return those that can be told now."""
        self._data += data
        return self._out(self._whole(), end=False)

    def finish(self) -> bytes:
        """Return the rest."""
        return self._out(len(self._data), end=True)

    def _whole(self) -> int:
        """Return how much of the data no later byte can make a part of a secret."""
        data = self._data
        tail = max(self._seen, len(data) - HOLD_BYTES)
        breaks = [found.end() for found in _BREAK.finditer(bytes(data), tail)]
        whole = breaks[-1] if breaks else tail
        line = max(data.rfind(b"\n") + 1, len(data) - _LINE_BYTES, self._seen)
        if self._key_left or any(data.find(word, line) >= 0 for word in _LINE_WORDS):
            whole = min(whole, line)
        known = len(data) - self._redactor.unfinished(data)
        return max(self._seen, min(whole, known))

    def _out(self, whole: int, *, end: bool) -> bytes:
        data = self._data
        hits, whole = self._redactor.marks(data, self._seen, whole, end=end)
        self.hits += hits
        self._keys(self._seen, whole)
        out = bytes(data[self._seen : whole])
        kept = max(0, whole - 1)
        del data[:kept]
        self._seen = whole - kept
        return out

    def _keys(self, start: int, stop: int) -> None:
        """Replace the lines of private keys' blocks."""
        data = self._data
        at = start
        while at < stop:
            ends = data.find(b"\n", at, stop)
            ends = stop if ends < 0 else ends
            line = bytes(data[at:ends])
            if self._key_left > 0:
                last = _KEY_ENDS.search(line)
                self._key_left = 0 if last else max(0, self._key_left - len(line))
                hidden = last.end() if last else ends - at
                data[at : at + hidden] = b"*" * hidden
            elif _KEY_BEGINS.search(line):
                self._key_left = KEY_BYTES
                self.hits += 1
            at = ends + 1


def _mark(data: bytearray, start: int, stop: int, name: bytes) -> int:
    size = stop - start
    data[start:stop] = (b"[secret:" + name + b"]").ljust(size, b"*")[:size]
    return 1
