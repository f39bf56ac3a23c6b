"""A check of the audit as people read it."""

from collections import Counter

from cmesh.interfaces.audit_report import AgainstView, AuditView, DifferenceView
from cmesh.interfaces.cli import output
from cmesh.model import host_label

__all__ = ["print_audit"]

_CONFIRMED = {
    "own": "this node",
    "by_code": "confirmed by a code at both machines",
    "by_person": "confirmed by this machine's owner, who compared it",
    "first_use": "trusted on first use: nobody has compared it",
    "never": "never trusted",
    "unknown": "NOT KNOWN here, so nothing was checked with it",
}
_STANDING = {"replaced": ", an earlier key", "taken_back": ", trust taken back"}


def print_audit(view: AuditView) -> None:
    """Print a whole check: the store, its keys, and each comparison."""
    how = "a copy that the daemon made" if view.live else "no daemon has it open"
    rows = [("store", f"{view.store} ({how})"), ("rows", f"{view.rows:,}")]
    finding = view.finding
    if finding is not None:
        where = "the store" if finding.seq is None else f"row {finding.seq}"
        of = f" of task {finding.task_id}" if finding.task_id else ""
        kind = f" ({finding.kind}{of})" if finding.kind else ""
        rows.append(("BROKEN", f"{where}{kind}: {finding.what}"))
    else:
        unknown = view.signatures_unknown
        more = f", {unknown:,} not checked: the signer's key is not in this store"
        left_out = f"{view.prompts_left_out:,} left out" * bool(view.prompts_left_out)
        rows += [
            ("signatures", f"{view.signatures:,} fit{more * bool(unknown)}"),
            ("keys", _keys(view)),
            ("outputs", f"{view.outputs:,}"),
            ("prompts", left_out),
            ("erased", f"the texts of {view.erased:,} rows" * bool(view.erased)),
        ]
    rows += [("against", _against(one)) for one in view.against]
    rows.append(("all", _all(view)))
    output.pairs(rows)
    if view.broken:
        looked = "nothing after it was looked at; " if finding else "keep the files as they are; "
        output.hint(f"{looked}`docs/audit.md` says what to do")
    elif not view.ok:
        output.hint("not proved: compare again when the peer is there, or by a file of receipts")


def _all(view: AuditView) -> str:
    if view.broken:
        return ""
    return "as it was written" if view.ok else "as it was written, as far as this store can say"


def _keys(view: AuditView) -> str:
    """Return one line a key; names of peers may be chosen by them, so ids stand beside."""
    lines = list[str]()
    for key in view.keys:
        name = host_label(key.name) or key.node_id
        who = name if name == key.node_id else f"{name} ({key.node_id})"
        what = f"{_CONFIRMED[key.confirmed]}{_STANDING.get(key.standing, '')}"
        lines.append(f"{key.fingerprint or '-':<24}  {who}: {what}, {key.signatures:,} signatures")
    return "\n".join(lines)


def _against(one: AgainstView) -> str:
    by = " (file)" if one.via == "file" else ""
    if one.verdict == "not_asked":
        return f"{one.peer}{by}: NOT ASKED ({one.code}): {one.reason}"
    said = {"fits": "fits", "differs": "DIFFERS", "unproven": "NOT PROVED"}[one.verdict]
    lines = [f"{one.peer}{by}: {said}{': ' * bool(one.reason)}{one.reason}"]
    counts = Counter({"heads": one.heads, "ends": one.ends})
    if one.covered_through:
        after = f"; {one.rows_after:,} rows after it that nobody speaks of" * bool(one.rows_after)
        lines.append(
            f"  it vouches for rows 1 to {one.covered_through:,} of this log"
            f" ({counts['heads']:,} heads, {counts['ends']:,} ends){after}"
        )
    if one.peer_heads or one.peer_ends:
        theirs = f"{one.peer_heads:,} heads and {one.peer_ends:,} ends"
        lines.append(f"  its own log has {theirs} that it signed for this node")
    if one.forgotten:
        lines.append(f"  {one.forgotten:,} ends were erased on one side; heads alone speak of them")
    if one.unknown_keys:
        lines.append(f"  {one.unknown_keys:,} heads are signed by a key this node does not know")
    lines += [f"  {_difference(found)}" for found in one.differences]
    if one.differing > len(one.differences):
        lines.append(f"  and {one.differing - len(one.differences):,} more")
    return "\n".join(lines)


def _difference(one: DifferenceView) -> str:
    log = "this log" if one.whose == "own" else "its log"
    where = log if one.seq is None else f"row {one.seq} of {log}"
    task = f" (task {one.task_id})" if one.task_id else ""
    between = ""
    if one.seq is not None and one.whose == "own" and one.fits_through + 1 < one.seq:
        fits = f"row {one.fits_through} fits, so it begins after that"
        between = f"; {fits if one.fits_through else 'it may begin anywhere before'}"
    return f"{where}{task}: {one.what}{between}"
