"""The rules in words, who may do what here by them, and a request tried without being made."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cmesh.daemon.answers import DecisionView
from cmesh.daemon.arguments import ExplainArguments
from cmesh.daemon.review_calls import MayView, PolicyReview, ReviewArguments
from cmesh.daemon.runner_answers import RunnersView, RunnerView
from cmesh.errors import CmeshError
from cmesh.interfaces.client import ControlClient
from cmesh.interfaces.dashboard.daemon import AWAY
from cmesh.interfaces.dashboard.form import checked
from cmesh.interfaces.dashboard.page import Page, area_of, render
from cmesh.model import Operation, Profile

__all__ = ["EFFECTS", "PAGE", "Cell", "Row", "matrix"]

EFFECTS = {"allow": "good", "ask": "warn", "deny": "bad"}
"""The badge of an answer."""

_TRIED = ("direction", "peer", "operation", "profile", "runner", "directory", "project")
"""Fields of the box, in the order of their place on the page."""

_DEFAULTS = {
    "direction": "inbound",
    "peer": "",
    "operation": "task",
    "profile": "query",
    "runner": "",
    "directory": "",
    "project": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One answer of the matrix; `query` leads to the box that explains it."""

    effect: str
    badge: str
    rule: str
    reason: str
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A peer and a profile: a cell for each runner."""

    profile: str
    cells: Sequence[Cell]


async def _policy(request: Request) -> Response:
    arguments = checked(ReviewArguments, directory=request.query_params.get("directory", ""))

    async def look(client: ControlClient) -> tuple[PolicyReview, RunnersView]:
        return await asyncio.gather(client.review_policy(arguments), client.list_runners())

    review, runners = await area_of(request).daemon.call(look)
    fields = {
        **_DEFAULTS,
        "directory": review.directory,
        "runner": _first(review.runners, runners.runners),
    }
    return render(request, "policy.html", _values(review, fields))


async def _try(request: Request) -> Response:
    asked = request.query_params
    daemon = area_of(request).daemon
    peers, runners = await daemon.call(_offered)
    defaults = {**_DEFAULTS, "runner": _first((), runners)}
    fields = {name: asked.get(name, defaults[name]).strip() for name in _TRIED}
    found: DecisionView | CmeshError
    try:
        question = checked(ExplainArguments, **fields)
        found = await daemon.call(lambda client: client.explain(question))
    except AWAY:
        raise
    except CmeshError as error:
        found = error
    names = [runner.name for runner in runners]
    values = {**_box(fields, peers, names), "found": found, "effects": EFFECTS}
    return render(request, "policy_try.html", values)


async def _offered(client: ControlClient) -> tuple[list[str], list[RunnerView]]:
    """Return the peers and runners that can be chosen; others can be typed."""
    runners = (await client.list_runners()).runners
    try:
        peers = [peer.name for peer in (await client.list_peers()).peers]
    except AWAY:
        raise
    except CmeshError:  # the node is not up, so it names nobody
        peers = []
    return peers, runners


def _first(opened: Sequence[str], runners: Sequence[RunnerView]) -> str:
    """Return a runner to begin with: one that is here, by preference one that a rule opens."""
    here = [runner.name for runner in runners if runner.available]
    return next((name for name in (*opened, *here) if name in here), "")


def _box(
    fields: Mapping[str, str], peers: Sequence[str], runners: Sequence[str]
) -> dict[str, object]:
    """Return what the box that tries a request needs."""
    return {
        "fields": fields,
        "peers": peers,
        "runners": runners,
        "operations": [operation.value for operation in Operation],
        "profiles": [profile.value for profile in Profile],
    }


def _values(review: PolicyReview, fields: Mapping[str, str]) -> dict[str, object]:
    return {
        "review": review,
        "rules": [
            (name, [rule for rule in review.rules if rule.direction == name])
            for name in ("inbound", "outbound")
        ],
        "matrix": [(peer, matrix(peer, review)) for peer in review.peers],
        "effects": EFFECTS,
        **_box(fields, [peer.name for peer in review.peers], review.runners),
    }


def matrix(peer: MayView, review: PolicyReview) -> list[Row]:
    """Return a peer's rows, one for each profile; none for one that whois does not know."""
    by_place = {(cell.profile, cell.runner): cell for cell in peer.cells}
    rows = list[Row]()
    for profile in Profile:
        found = [by_place.get((profile, runner)) for runner in review.runners]
        cells = [
            Cell(
                effect=cell.effect,
                badge=EFFECTS[cell.effect],
                rule=cell.rule,
                reason=cell.reason,
                query=urlencode(
                    {
                        "direction": "inbound",
                        "peer": peer.node_id,
                        "profile": cell.profile.value,
                        "runner": cell.runner,
                        "directory": review.directory,
                    }
                ),
            )
            for cell in found
            if cell is not None
        ]
        if cells:
            rows.append(Row(profile=profile.value, cells=cells))
    return rows


PAGE = Page(
    name="policy",
    title="Policy",
    path="/policy",
    routes=[Route("/policy", _policy), Route("/policy/try", _try)],
)
