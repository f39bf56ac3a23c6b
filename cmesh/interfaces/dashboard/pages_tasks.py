"""The list of tasks: filtered, in pages, newest first."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from urllib.parse import urlencode

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cmesh.daemon.answers import PeersView, StatusView
from cmesh.daemon.changes import ChangesArguments
from cmesh.daemon.history_calls import FindArguments, FoundTasksView
from cmesh.errors import UsageError
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.dashboard.daemon import known_peers
from cmesh.interfaces.dashboard.page import Page, area_of, render
from cmesh.interfaces.usage import usage_error
from cmesh.model import TaskState

__all__ = ["PAGE", "span"]

PAGE_TASKS = 50

STATES = ("open", *(state.value for state in TaskState))
SPANS = {
    "": "any time",
    "1h": "last hour",
    "24h": "last day",
    "7d": "last 7 days",
    "30d": "last 30 days",
}
_HOURS = {"1h": 1, "24h": 24, "7d": 7 * 24, "30d": 30 * 24}
_FILTERS = ("state", "direction", "peer", "runner", "text", "span", "since", "until")


async def _tasks(request: Request) -> Response:
    area = area_of(request)
    given = {name: request.query_params.get(name, "").strip() for name in (*_FILTERS, "before")}
    arguments = _arguments(given, area.clock.now())

    async def look(
        client: ControlClient,
    ) -> tuple[str, tuple[FoundTasksView, PeersView, StatusView]]:
        mark = (await client.changes(ChangesArguments())).mark
        return mark, await asyncio.gather(
            client.find_tasks(arguments), known_peers(client), client.status()
        )

    mark, (found, peers, status) = await area.daemon.call(look)
    asked = {name: given[name] for name in _FILTERS if given[name]}
    older = {**asked, "before": found.older} if found.older else {}
    return render(
        request,
        "tasks.html",
        {
            "mark": mark,
            "tasks": found.tasks,
            "given": given,
            "asked": asked,
            "older": urlencode(older),
            "newest": urlencode(asked),
            "states": STATES,
            "spans": SPANS,
            "peer_names": sorted({peer.name for peer in peers.peers}),
            "runner_names": sorted(
                {*status.runners, *(name for peer in peers.peers for name in peer.runners)}
            ),
        },
    )


def _arguments(given: Mapping[str, str], now: datetime) -> FindArguments:
    since, until = span(given, now)
    fields: dict[str, object] = {
        "state": given["state"] or "any",
        "direction": given["direction"] or "any",
        "peer": given["peer"],
        "runner": given["runner"],
        "text": given["text"],
        "before": given["before"],
        "since": since,
        "until": until,
        "limit": PAGE_TASKS,
    }
    try:
        return FindArguments.model_validate(fields)
    except ValidationError as error:
        raise usage_error(error, lambda field: field) from error


def span(given: Mapping[str, str], now: datetime) -> tuple[datetime | None, datetime | None]:
    """Return from when and until when, by a named span or by days in this machine's own zone.

    Raises:
        UsageError: a day is none.
    """
    if given["span"]:
        hours = _HOURS.get(given["span"])
        if hours is None:
            raise UsageError("there is no such span of time")
        return now - timedelta(hours=hours), None
    try:
        first, last = (
            datetime.fromisoformat(given[name]).astimezone() if given[name] else None
            for name in ("since", "until")
        )
        after = None if last is None else last + timedelta(days=1)
    except (ValueError, OverflowError) as error:
        raise UsageError("a day is written as 2026-11-30") from error
    return first, after


PAGE = Page(name="tasks", title="Tasks", path="/tasks", routes=[Route("/tasks", _tasks)])
