"""What stands before every page: whose browser asks, from where, and what it may do with answers.

An ASGI middleware. A request passes when it names this very address (DNS rebinding), does not come
from another site, and carries the cookie of a session; what changes something must come from
a page of ours. Every answer forbids what our pages do not need.

Cookies do not know ports (RFC 6265, section 8.5): any server on this host would be sent
ours. So all pages lie below a random first part of the path, which only a browser that has signed in
is told, and the cookie is for that path alone.
"""

import hmac
import secrets
from collections.abc import MutableMapping
from typing import Any, cast

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmesh.clock import Clock
from cmesh.interfaces.dashboard.page import REFRESH
from cmesh.interfaces.dashboard.sign_in import SignIn

__all__ = ["BODY_BYTES", "HOST", "SIGN_IN", "Guard", "bounded", "with_headers"]

HOST = "127.0.0.1"

SIGN_IN = "/sign-in"
STATIC = "/static/"
"""These are served without a session: the way in, and files that are the same for everybody."""

BODY_BYTES = 512 * 1024
"""The longest form."""

COOKIES_MOST = 8
"""Cookies of our name that are looked at."""

_SAFE = frozenset({"GET", "HEAD"})
# `same-origin`, not `no-referrer`: with that, browsers send `Origin: null` with our own forms (Fetch,
# "append a request Origin header"). No address of ours reaches another origin by either.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), clipboard-read=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Lets through what is the owner's browser at our own address."""

    def __init__(self, app: ASGIApp, *, sign_in: SignIn, clock: Clock, port: int) -> None:
        self._app = app
        self._sign_in = sign_in
        self._clock = clock
        self._host = f"{HOST}:{port}"
        self._cookie = f"cmesh-{port}"
        self.base = "/" + secrets.token_urlsafe(12)

    @property
    def origin(self) -> str:
        """Return the origin of our pages."""
        return f"http://{self._host}"

    def cookie(self, value: str) -> str:
        """Return the header that gives a browser its session."""
        return f"{self._cookie}={value}; Path={self.base}; HttpOnly; SameSite=Strict"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on with `session` in its state."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = with_headers(send)
        refusal = self._foreign(scope) or self._stranger(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, bounded(receive), send)

    def _foreign(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to what no page of ours sends; None = it may be one."""
        headers = Headers(scope=scope)
        method, path = str(scope["method"]), str(scope["path"])
        if headers.getlist("host") != [self._host]:
            return PlainTextResponse("Not an address of this dashboard.", 421)
        entry = path == SIGN_IN and method in _SAFE  # links lead there from anywhere
        if not entry and headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            return PlainTextResponse("Another site may not ask for this.", 403)
        if method not in _SAFE and (method != "POST" or headers.get("origin") != self.origin):
            return PlainTextResponse("This did not come from a page of this dashboard.", 403)
        if int(headers.get("content-length", "0")) > BODY_BYTES:
            return PlainTextResponse(f"A form has at most {BODY_BYTES} bytes.", 413)
        return None

    def _stranger(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to who is not signed in; who is gets a session and the pages' root."""
        headers, path = Headers(scope=scope), str(scope["path"])
        if path == SIGN_IN or path.startswith(STATIC):
            return None
        if path == "/":
            return RedirectResponse(SIGN_IN, 303)
        first, slash, _rest = path[1:].partition("/")
        if not slash or not hmac.compare_digest(f"/{first}".encode(), self.base.encode()):
            return PlainTextResponse("There is no such page.", 404)
        now = self._clock.monotonic()
        by_person = REFRESH not in headers and "text/event-stream" not in headers.get("accept", "")
        each = (
            self._sign_in.session(one, now, by_person=by_person)
            for one in _values(headers, self._cookie)
        )
        session = next((one for one in each if one is not None), None)
        if session is not None:
            scope["root_path"] = self.base
            state = cast("MutableMapping[str, Any]", scope.setdefault("state", {}))
            state["session"] = session
            if "connection" in state:  # of too many, others end before it
                state["connection"].proven = True
            return None
        if headers.get("sec-fetch-mode", "navigate") == "navigate":
            return RedirectResponse(f"{SIGN_IN}?ended", 303)
        return PlainTextResponse("Not signed in.", 401)


def _values(headers: Headers, name: str) -> list[str]:
    """Return what the cookies of a name hold, the first ones.

    Read pair by pair: any server of this host may have given the browser a cookie that no parser
    takes, or one of our own name. Those of the longest path, which is ours, come first (RFC 6265, 5.4).
    """
    pairs = (pair.strip().partition("=") for pair in ";".join(headers.getlist("cookie")).split(";"))
    return [value for key, _, value in pairs if key == name][:COOKIES_MOST]


def with_headers(send: Send) -> Send:
    """Return a `send` that forbids with every answer what our pages do not need."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
            headers.setdefault("Vary", "Cookie")
        await send(message)

    return sending


def bounded(receive: Receive) -> Receive:
    """Return a `receive` that ends a body which is longer than it said."""
    left = BODY_BYTES

    async def receiving() -> Message:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            left -= len(message.get("body", b""))
            if left < 0:
                return {"type": "http.disconnect"}
        return message

    return receiving
