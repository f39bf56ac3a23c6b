"""What `cmesh audit verify --json` prints; `schemas/audit.json` is made from it."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cmesh.store.audit import Report
from cmesh.store.keyring import Confirmed, Standing

__all__ = ["AgainstView", "AuditView", "DifferenceView", "FindingView", "KeyView", "audit_view"]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class FindingView(_View):
    """The first thing in the store that is not as it was written; `seq` null = the store."""

    seq: int | None
    kind: str
    task_id: str | None
    what: str


class KeyView(_View):
    """A key that signatures were checked with, and who has confirmed that it is that node's."""

    node_id: str
    name: str
    fingerprint: str
    confirmed: Confirmed
    standing: Standing
    signatures: int


class DifferenceView(_View):
    """One thing that two logs do not agree on, and against whose log it speaks."""

    whose: Literal["own", "peer"]
    seq: int | None
    fits_through: int
    task_id: str | None
    what: str
    proved: bool


class AgainstView(_View):
    """One comparison with another node.

    Attributes:
        verdict: `fits`; `differs` = proved by a signature; `unproven` = nothing there vouches
            for this log, or it says otherwise and cannot prove it; `not_asked` = see `code`.
        covered_through: the last row of this log that a signature held there vouches for.
        forgotten: ends whose texts and signatures one side has erased.
    """

    peer: str
    node_id: str = ""
    via: Literal["link", "file"]
    verdict: Literal["fits", "differs", "unproven", "not_asked"]
    code: str = ""
    reason: str = ""
    heads: int = 0
    ends: int = 0
    covered_through: int = 0
    rows_after: int = 0
    peer_heads: int = 0
    peer_ends: int = 0
    unknown_keys: int = 0
    forgotten: int = 0
    differing: int = 0
    differences: Sequence[DifferenceView] = ()


class AuditView(_View):
    """A check of a store; `ok` only when nothing was found and each comparison fits.

    `erased`: rows whose texts are gone, as later rows say; `resealed`: those of them whose texts
    stood in the chain itself.
    """

    ok: bool
    store: str
    live: bool
    rows: int
    head_seq: int
    signatures: int
    signatures_unknown: int
    outputs: int
    prompts_left_out: int
    erased: int = 0
    resealed: int = 0
    finding: FindingView | None
    keys: Sequence[KeyView]
    against: Sequence[AgainstView] = Field(default_factory=list[AgainstView])

    @property
    def broken(self) -> bool:
        """Whether something is proved not to be as it was written, here or there."""
        return self.finding is not None or any(one.verdict == "differs" for one in self.against)


def audit_view(
    report: Report, store: str, against: Sequence[AgainstView], *, live: bool
) -> AuditView:
    """Return the whole report."""
    fields = {
        name: getattr(report, name) for name in AuditView.model_fields if hasattr(report, name)
    }
    fits = all(one.verdict == "fits" for one in against)
    more = {"ok": report.finding is None and fits, "store": store, "live": live}
    return AuditView.model_validate({**fields, **more, "against": list(against)})
