"""The dashboard's application: its pages, the way in, and what stands before them."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope
from typing_extensions import override

from cmesh.clock import Clock
from cmesh.errors import CmeshError, UsageError
from cmesh.interfaces.dashboard import (
    live,
    pages_approvals,
    pages_audit,
    pages_overview,
    pages_peers,
    pages_policy,
    pages_task,
    pages_tasks,
)
from cmesh.interfaces.dashboard.colours import Colours
from cmesh.interfaces.dashboard.daemon import Daemon
from cmesh.interfaces.dashboard.guard import SIGN_IN, Guard
from cmesh.interfaces.dashboard.page import (
    STATIC,
    Area,
    Page,
    error_page,
    posted,
    render,
    templates,
)
from cmesh.interfaces.dashboard.sign_in import SignIn

__all__ = ["PAGES", "create_app"]

PAGES: Sequence[Page] = (
    pages_overview.PAGE,
    pages_tasks.PAGE,
    pages_task.PAGE,
    pages_approvals.PAGE,
    pages_policy.PAGE,
    pages_audit.PAGE,
    pages_peers.PAGE,
)
"""All pages, in the order of the menu."""

STATIC_S = 3600


class Files(StaticFiles):
    """Our own files, whose addresses change with their content."""

    @override
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = f"private, max-age={STATIC_S}"
        return response


def create_app(daemon: Daemon, colours: Colours, sign_in: SignIn, clock: Clock, port: int) -> Guard:
    """Return the application as it is served at `port` on loopback; it closes what it is given."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        yield
        await daemon.close()
        await colours.close()

    async def enter(request: Request) -> Response:
        if request.method != "POST":
            ended = "ended" in request.query_params
            return render(request, "sign_in.html", {"refused": "", "hint": "", "ended": ended})
        code = (await posted(request)).get("code", "").strip()
        try:
            cookie = sign_in.enter(code, clock.monotonic())
        except UsageError as error:
            values = {"refused": error.message, "hint": error.hint, "ended": False}
            return render(request, "sign_in.html", values, status=403)
        return RedirectResponse(guard.base + "/", 303, {"Set-Cookie": guard.cookie(cookie)})

    routes: list[BaseRoute] = [
        Mount("/static", Files(directory=STATIC)),
        Route(SIGN_IN, enter, methods=["GET", "POST"]),
    ]
    inside = [live.ROUTE, *(route for page in PAGES for route in page.routes)]
    app = Starlette(
        routes=[*routes, *inside],
        lifespan=lifespan,
        exception_handlers={CmeshError: _failed, 404: _missing},
    )
    app.router.redirect_slashes = False
    app.state.area = Area(
        daemon=daemon, colours=colours, clock=clock, templates=templates(), pages=PAGES
    )
    guard = Guard(app, sign_in=sign_in, clock=clock, port=port)
    return guard


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, CmeshError)
    return error_page(request, error)


async def _missing(request: Request, _error: Exception) -> Response:
    error = UsageError("there is no such page", hint="look in the menu")
    return error_page(request, error, status=404)
