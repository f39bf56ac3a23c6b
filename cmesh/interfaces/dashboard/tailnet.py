"""The approvals page on the tailnet: one page, for devices that the configuration names.

Runs in the daemon, behind its own node. Each connection is of one node, by whois, so there is no
cookie to steal and no link to lose; what a page of another site could make such a device send is
refused by `Host` and `Origin`. Plain HTTP: WireGuard has encrypted it and says whose it is.
"""

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from uvicorn import Config

from cmesh.clock import SystemClock
from cmesh.daemon.approvers import Approvers
from cmesh.errors import CmeshError, PolicyDenied, TaskRefused, UsageError
from cmesh.interfaces.connections import Connections
from cmesh.interfaces.dashboard.guard import BODY_BYTES, bounded, with_headers
from cmesh.interfaces.dashboard.page import STATIC, Page, posted, templates
from cmesh.interfaces.dashboard.waiting import CHANGED, digest_of, fitting, waiting
from cmesh.model import NodeId

__all__ = ["TailnetSite", "open_site"]

HEAD_BYTES = 16 * 1024
KEEP_ALIVE_S = 60
CLOSE_LIMIT_S = 5.0

_SAID = {"approve": "Approved.", "deny": "Denied."}


async def open_site(approvers: Approvers) -> "TailnetSite":
    """Return a site that serves from now on."""
    return await asyncio.to_thread(TailnetSite, approvers)


class TailnetSite:
    """The page over connections of approvers."""

    def __init__(self, approvers: Approvers) -> None:
        self._approvers = approvers
        self._templates = templates()
        self._clock = SystemClock()
        self._app = Starlette(
            routes=[
                Mount("/static", StaticFiles(directory=STATIC)),
                Route("/", self._page),
                Route("/{task_id:uuid}", self._answer, methods=["POST"]),
                Route("/{task_id:uuid}", _back),
            ],
            exception_handlers={CmeshError: _failed},
        )
        config = Config(
            self._serve,
            http="h11",
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        self._connections = Connections(config)

    def take(self, connection: socket.socket, node_id: NodeId) -> None:
        """Serve a connection of a node, which is owned here from then on."""
        self._connections.take(connection, node_id)

    async def close(self) -> None:
        """End every connection; no word that was taken is lost by it."""
        pending = self._connections.abort()
        if pending:
            await asyncio.wait(pending, timeout=CLOSE_LIMIT_S)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        send = with_headers(send)
        refusal = self._foreign(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, bounded(receive), send)

    def _foreign(self, scope: Scope) -> Response | None:
        """Return the answer to what this page does not send; None = it may be from it.

        A browser says no `Sec-Fetch-Site` to plain HTTP: a form's `Origin` is what tells.
        """
        headers, port = Headers(scope=scope), self._approvers.port
        hosts, ours = headers.getlist("host"), {f"{name}:{port}" for name in self._approvers.names}
        if len(hosts) != 1 or hosts[0].lower() not in ours:
            return PlainTextResponse("Not a name of this machine.", 421)
        method = str(scope["method"])
        if method in {"GET", "HEAD"}:
            return None
        origins = headers.getlist("origin")
        if method != "POST" or [one.lower() for one in origins] != [f"http://{hosts[0].lower()}"]:
            return PlainTextResponse("This did not come from this page.", 403)
        if int(headers.get("content-length", "0")) > BODY_BYTES:
            return PlainTextResponse(f"A form has at most {BODY_BYTES} bytes.", 413)
        return None

    async def _page(self, request: Request) -> Response:
        said = _SAID.get(request.query_params.get("said", ""), "")
        return await self._render(request, said=said)

    async def _answer(self, request: Request) -> Response:
        form, node_id = await posted(request), _node_of(request)
        answer, task_id = form.get("answer", ""), str(request.path_params["task_id"])
        if answer not in _SAID:
            raise UsageError("say yes or no")
        cases = await self._approvers.waiting(node_id)
        case = next((one for one in cases if one.task.task_id == task_id), None)
        if case is None:
            return await self._late(request, task_id)
        if answer == "approve" and digest_of(case.task) != form.get("shown", ""):
            return await self._render(request, alert=CHANGED, status=409)
        yes, reason = answer == "approve", form.get("reason", "")[:500]
        try:
            await self._approvers.answer(node_id, case, yes=yes, reason=reason)
        except TaskRefused:
            return await self._late(request, task_id)
        return RedirectResponse(f"/?said={answer}", 303)

    async def _late(self, request: Request, task_id: str) -> Response:
        now = await self._approvers.became(task_id)
        state = now.state.value.replace("_", " ")
        return await self._render(
            request, alert=f"Your word came too late: it is {state} by now.", status=409
        )

    async def _render(
        self, request: Request, *, said: str = "", alert: str = "", status: int = 200
    ) -> Response:
        cases = await self._approvers.waiting(_node_of(request))
        shown = fitting([waiting(case.task) for case in cases])
        values: Mapping[str, object] = {
            "node": self._approvers.label,
            "waiting": [(one, case.refused) for one, case in zip(shown, cases, strict=False)],
            "more": len(shown) < len(cases),
            "alert": alert,
            "said": [said] if said else [],
            "url": _same,
            "pages": [_PAGE],
            "here": "/",
            "live": "",
            "now": self._clock.now(),
        }
        text = self._templates.get_template("approver.html").render(**values)
        return Response(text, status, media_type="text/html")


_PAGE = Page(name="approvals", title="Approvals", path="/", routes=())


def _same(path: str) -> str:
    return path


def _node_of(request: Request) -> NodeId:
    connection: Any = request.scope["state"]["connection"]
    return NodeId(connection.node_id)


async def _back(_request: Request) -> Response:
    """Lead to the page: one that answered a form has the form's address, and looks again there."""
    return RedirectResponse("/", 303)


async def _failed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, CmeshError)
    status = 403 if isinstance(error, PolicyDenied) else 400
    return PlainTextResponse(f"{error.message}\n", status)
