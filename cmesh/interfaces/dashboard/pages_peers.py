"""The other machines: how each is reached, whose key it is, and what I may ask of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cmesh.daemon.answers import PeersView, PeerView
from cmesh.daemon.diagnosis_answers import PathView
from cmesh.interfaces.dashboard.page import Page, area_of, render
from cmesh.interfaces.machine import machine_lines

__all__ = ["PAGE", "Reach", "peer_rows", "way"]

_SAID_BY = {
    "delegate": "pinned on first use; nobody has compared it",
    "owner": "you compared its fingerprint",
    "pair": "confirmed on both machines by a code",
}
_TRUST = {
    "trusted": "trusted",
    "waiting": "waits for you",
    "changed": "another key than before",
    "unknown": "none seen yet",
}
_BADGES = {"trusted": "good", "waiting": "warn", "changed": "bad"}
_NOT_MEASURED = "only peers that are online and whose key is trusted are asked, 16 at most"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """A peer on the page: what is said of its key, and what of its machine."""

    peer: PeerView
    trust: str
    badge: str
    said_by: str
    machine: list[str]
    step: str


async def _peers(request: Request) -> Response:
    view = await area_of(request).daemon.call(lambda client: client.list_peers())
    measured: Mapping[str, str] = {}
    if "measure" in request.query_params:  # for a browser without scripts
        measured = await _measured(request)
    values = {"rows": peer_rows(view), "measured": measured, "not_measured": _NOT_MEASURED}
    return render(request, "peers.html", values)


async def _paths(request: Request) -> Response:
    return JSONResponse({"paths": await _measured(request), "other": _NOT_MEASURED})


async def _measured(request: Request) -> Mapping[str, str]:
    view = await area_of(request).daemon.call(lambda client: client.diagnose())
    return {path.node_id: way(path) for path in view.paths}


def peer_rows(view: PeersView) -> list[Reach]:
    """Return the peers, those first that wait for a word about their key, then who is online."""

    def rank(peer: PeerView) -> tuple[object, ...]:
        return (peer.trust not in {"waiting", "changed"}, peer.trust != "trusted", not peer.online)

    return [_reach(peer) for peer in sorted(view.peers, key=lambda one: (*rank(one), one.name))]


def way(path: PathView) -> str:
    """Say how a peer was reached just now."""
    if path.ping_ms is None:
        return f"no answer: {path.problem}"
    over = "direct" if path.direct else f"by DERP {path.relay}"
    return f"{over}, {path.ping_ms:g} ms"


def _reach(peer: PeerView) -> Reach:
    step = ""
    if peer.trust in {"waiting", "changed"} and peer.fingerprint:
        step = f"cmesh peers trust {peer.name} --fingerprint {peer.fingerprint}"
    return Reach(
        peer=peer,
        trust=_TRUST[peer.trust],
        badge=_BADGES.get(peer.trust, ""),
        said_by=_SAID_BY.get(peer.trusted_by, "") if peer.trust == "trusted" else "",
        machine=machine_lines(peer.machine) if peer.machine else [],
        step=step,
    )


PAGE = Page(
    name="peers",
    title="Peers",
    path="/peers",
    routes=[Route("/peers", _peers), Route("/peers/paths", _paths)],
)
