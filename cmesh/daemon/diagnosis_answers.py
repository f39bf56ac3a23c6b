"""What the daemon answers to `diagnose`. Fields are stable; new ones may be added."""

from pydantic import Field

from cmesh.daemon.answers import View

__all__ = ["DiagnosisView", "PathView"]


class PathView(View):
    """How a peer is reached at the moment, by a round trip below TCP.

    `direct`: without a relay; else by the DERP region `relay`. `problem`: why there was no answer.
    """

    node_id: str
    direct: bool = False
    relay: str = ""
    ping_ms: float | None = None
    problem: str = ""


class DiagnosisView(View):
    """`health`: the node's own warnings; `search_path`: where the daemon looks for programs."""

    health: list[str] = Field(default_factory=list[str])
    search_path: str = ""
    paths: list[PathView] = Field(default_factory=list[PathView])
