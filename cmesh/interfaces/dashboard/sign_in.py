"""Who may look: links that sign a browser in once, and the sessions they open. State, no I/O.

Both are random and kept as SHA-256 only. Time is the caller's, in monotonic seconds.
"""

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

from cmesh.errors import UsageError

__all__ = ["IDLE_S", "LINK_S", "Session", "SignIn"]

LINK_S = 300.0
"""How long a link can be used."""

IDLE_S = 12 * 3600.0
"""How long a browser that asks for nothing stays signed in."""

_KEPT = 64
"""Links and sessions that are remembered at most; the oldest go."""

_SAID_KEPT = 4
_AGAIN = "press Enter where `cmesh dashboard` runs: it prints a new link; each signs in once"

_T = TypeVar("_T")


@dataclass(slots=True)
class Session:
    """A signed-in browser.

    Attributes:
        said: what the next page tells the person, once.
    """

    seen_at: float
    said: list[str] = field(default_factory=list[str])

    def say(self, text: str) -> None:
        """Have the next page tell something."""
        self.said = [*self.said, text][-_SAID_KEPT:]

    def take(self) -> list[str]:
        """Return what is to be told, which is told by that."""
        said, self.said = self.said, []
        return said


@dataclass(slots=True)
class _Link:
    made_at: float
    used: bool = False


class SignIn:
    """The links and sessions of one dashboard."""

    def __init__(self) -> None:
        self._links: OrderedDict[str, _Link] = OrderedDict()
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def link(self, now: float) -> str:
        """Return the code of a new link, usable once within `LINK_S`."""
        code = secrets.token_urlsafe(32)
        _put(self._links, _digest(code), _Link(now))
        return code

    def enter(self, code: str, now: float) -> str:
        """Use a link up; return the cookie of the session that it opens.

        Raises:
            UsageError: it was used, is too old, or never was.
        """
        link = self._links.get(_digest(code))
        if link is None:
            raise UsageError("this sign-in link is not of this dashboard", hint=_AGAIN)
        if link.used:
            raise UsageError("this sign-in link was used before", hint=_AGAIN)
        link.used = True
        if now - link.made_at > LINK_S:
            raise UsageError(
                f"this sign-in link is older than {LINK_S / 60:.0f} minutes", hint=_AGAIN
            )
        cookie = secrets.token_urlsafe(32)
        _put(self._sessions, _digest(cookie), Session(now))
        return cookie

    def session(self, cookie: str, now: float, *, by_person: bool = True) -> Session | None:
        """Return the session of a cookie; None = sign in again.

        Args:
            cookie: as the browser sent it.
            now: seconds of a clock that goes on.
            by_person: somebody has asked for something, so that it was seen now; False = a page
                has, which nobody may be looking at.
        """
        key = _digest(cookie)
        found = self._sessions.get(key)
        if found is None:
            return None
        if now - found.seen_at > IDLE_S:
            del self._sessions[key]
            return None
        if by_person:
            found.seen_at = now
        return found

    def leave(self, cookie: str) -> None:
        """End the session of a cookie."""
        self._sessions.pop(_digest(cookie), None)


def _put(kept: "OrderedDict[str, _T]", key: str, value: _T) -> None:
    kept[key] = value
    while len(kept) > _KEPT:
        kept.popitem(last=False)


def _digest(text: str) -> str:
    # Looked up by its digest, so that the time of a comparison tells nothing of the secret.
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
