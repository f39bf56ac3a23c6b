"""What pages are made of: a page's place in the menu, its answer, a form's fields, a stream."""

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import cast
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute

from cmesh import __version__
from cmesh.clock import Clock
from cmesh.errors import CmeshError, PolicyDenied, TaskNotFound, UnknownPeer, UsageError
from cmesh.interfaces.dashboard import shown
from cmesh.interfaces.dashboard.colours import Colours
from cmesh.interfaces.dashboard.daemon import AWAY, Daemon
from cmesh.interfaces.dashboard.sign_in import Session

__all__ = [
    "CHANGES",
    "Area",
    "Page",
    "Sent",
    "area_of",
    "attachment",
    "error_page",
    "page_of",
    "posted",
    "redirect",
    "render",
    "streamed",
    "templates",
]

FORM_FIELDS = 50

REFRESH = "x-refresh"
"""A header of a page that asks for its own parts."""

CHANGES = "/changes"
"""Where pages are told that something has changed."""

_PLACE = Path(__file__).parent
STATIC = _PLACE / "static"
_STATUSES: Sequence[tuple[tuple[type[CmeshError], ...], HTTPStatus]] = (
    ((UsageError,), HTTPStatus.BAD_REQUEST),
    ((TaskNotFound, UnknownPeer), HTTPStatus.NOT_FOUND),
    ((PolicyDenied,), HTTPStatus.FORBIDDEN),
    (AWAY, HTTPStatus.SERVICE_UNAVAILABLE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page, with its place in the menu; `path` is its first one, as in `routes`."""

    name: str
    title: str
    path: str
    routes: Sequence[BaseRoute]
    in_menu: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """What all pages of a dashboard share."""

    daemon: Daemon
    colours: Colours
    clock: Clock
    templates: Environment
    pages: Sequence[Page]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """An event of a stream; `number` is what the browser names when it comes again.

    It is of our own making, without a line break.
    """

    event: str
    data: Mapping[str, object]
    number: str = ""

    def encoded(self) -> bytes:
        """Return it as lines of `text/event-stream` (HTML standard, section 9.2)."""
        body = json.dumps(self.data, ensure_ascii=True)
        number = f"id: {self.number}\n" if self.number else ""
        return f"event: {self.event}\n{number}data: {body}\n\n".encode()


def templates() -> Environment:
    """Return the templates: every value is text, and one that is missing is an error."""
    environment = Environment(
        loader=FileSystemLoader(_PLACE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(shown.FILTERS)
    marks = {path.name: _mark(path) for path in sorted(STATIC.iterdir())}

    def static(name: str) -> str:
        return f"/static/{name}?v={marks[name]}"

    ours: dict[str, object] = {"static": static, "version": __version__}
    cast("dict[str, object]", environment.globals).update(ours)
    return environment


def _mark(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def area_of(request: Request) -> Area:
    """Return what the dashboard of a request is made of."""
    return cast("Area", request.app.state.area)


def session_of(request: Request) -> Session | None:
    """Return the session of a request; None on the way in."""
    return cast("Session | None", getattr(request.state, "session", None))


def page_of(request: Request, path: str) -> str:
    """Return the address of one of our paths, as links and redirects take it."""
    return f"{request.scope.get('root_path', '')}{path}"


def render(
    request: Request, template: str, values: Mapping[str, object], *, status: int = 200
) -> Response:
    """Return a page of a template with the values it names."""
    area, session = area_of(request), session_of(request)
    path = str(request.scope["path"]).removeprefix(str(request.scope.get("root_path", "")))
    text = area.templates.get_template(template).render(
        **values,
        url=partial(page_of, request),
        pages=[page for page in area.pages if page.in_menu] if session else [],
        here=path,
        live=page_of(request, CHANGES) if session else "",
        # A page that takes its parts anew does not show what the next page of a person tells.
        said=session.take() if session and REFRESH not in request.headers else [],
        now=area.clock.now(),
    )
    return Response(text, status, media_type="text/html")


def error_page(request: Request, error: CmeshError, *, status: int = 0) -> Response:
    """Return the page that tells of an error what it is and what to do."""
    found = (code for kinds, code in _STATUSES if isinstance(error, kinds))
    status = status or next(found, HTTPStatus.CONFLICT)
    if request.headers.get("sec-fetch-mode", "navigate") != "navigate":
        return Response(f"{error.message}\n{error.hint}", status, media_type="text/plain")
    away = isinstance(error, AWAY)
    return render(request, "error.html", {"error": error, "away": away}, status=status)


async def posted(request: Request) -> dict[str, str]:
    """Return the fields of a form; of several of a name the last.

    Raises:
        UsageError: it is no form, or too long.
    """
    kind = request.headers.get("content-type", "")
    if not kind.startswith("application/x-www-form-urlencoded"):
        raise UsageError("this is no form of the dashboard")
    try:
        body = (await request.body()).decode()
        return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=FORM_FIELDS))
    except (ClientDisconnect, ValueError) as error:
        raise UsageError("the form did not come whole, or is no form") from error


def redirect(request: Request, path: str, *, said: str = "") -> Response:
    """Send the browser to one of our paths, after a form; `said` is told there once."""
    session = session_of(request)
    if said and session is not None:
        session.say(said)
    return RedirectResponse(page_of(request, path), HTTPStatus.SEE_OTHER)


def streamed(events: AsyncGenerator[Sent]) -> Response:
    """Return a stream of events; it ends with the generator or with the browser."""

    async def lines() -> AsyncGenerator[bytes]:
        # At once, so that the browser knows that it is connected.
        yield b": ok\n\n"
        async for event in events:
            yield event.encoded()

    return StreamingResponse(lines(), media_type="text/event-stream")


def attachment(name: str, pieces: AsyncIterable[bytes], kind: str = "text/plain") -> Response:
    """Return a file to be saved, never shown: `name` is ours and plain ASCII."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(
        pieces,
        media_type=f"{kind}; charset=utf-8" if kind == "text/plain" else kind,
        headers=headers,
    )
