"""A slice of a task's result as text that fits, with where it goes on."""

from dataclasses import dataclass

from cmesh.daemon.answers import ResultView
from cmesh.daemon.file_answers import PatchView
from cmesh.interfaces.mcp.fence import Fence
from cmesh.interfaces.mcp.render import POSSIBLE, call_text, reply_call, when
from cmesh.text import defang, one_line, scrub

__all__ = ["RESULT_CHARACTERS", "result_text"]

RESULT_CHARACTERS = 10_000
"""No result is longer; clients cut at 10,000 to 12,000, in the middle and silently."""


@dataclass(frozen=True, slots=True)
class _Head:
    """The header lines of a result text."""

    view: ResultView
    shown: int

    def text(self) -> str:
        view = self.view
        end = view.offset + self.shown
        following = end if end < view.total else None
        lines = [
            f"task: {view.task_id}",
            f"peer: {one_line(view.peer, 63)}",
            f"state: {view.state}",
            f"part: {view.part}",
            *([f"verdict: {view.verdict}"] if view.verdict else []),
            f"characters: {view.offset} to {end} of {view.total}",
            f"next_offset: {'none' if following is None else following}",
        ]
        if view.sha256:
            lines.append(f"sha256: {one_line(view.sha256, 64)}")
        if view.truncated:
            lines.append("truncated: the worker kept only the beginning of the output")
        if view.redacted:
            lines.append(f"redacted: {view.redacted} secrets were taken out by the worker")
        lines += patch_lines(view.patch)
        tier = "none (self-attested by the worker)" if view.self_attested else "enforced"
        lines.append(f"sandbox: {tier}")
        if view.follow_up == POSSIBLE:
            lines.append(
                f"follow_up: {reply_call(view.task_id)} until {when(view.follow_up_until)}"
            )
        elif view.follow_up:
            by = f" by {view.followed_by}" if view.followed_by else ""
            lines.append(f"follow_up: {one_line(view.follow_up, 40)}{by}")
        return "\n".join(lines)

    def next_call(self) -> str:
        view = self.view
        end = view.offset + self.shown
        if end < view.total and self.shown:
            return call_text("get_result", task_id=view.task_id, part=view.part, offset=end)
        changed = view.patch is not None and view.patch.files and not view.patch.withheld
        if view.answered and view.part == "summary":
            return call_text("get_result", task_id=view.task_id, part="answer")
        other = "summary" if view.part != "summary" else "patch" if changed else "output"
        return call_text("get_result", task_id=view.task_id, part=other)


def patch_lines(patch: PatchView | None) -> list[str]:
    """Return the header lines about a patch: counts and codes, no name that an agent chose."""
    if patch is None:
        return []
    base = patch.base_commit[:12] or "no commit"
    lines = [f"patch: {patch.files} files, {patch.bytes} bytes, base {base}{patch.dirt}"]
    if patch.flagged_count:
        lines.append(f"flagged: {patch.flagged_count} changed files run or instruct by being there")
    if patch.withheld or patch.refused:
        lines.append(f"withheld: {patch.withheld or 'not taken here'}")
    if patch.released_at:
        lines.append(
            f"released: a secret was found in it; the worker's owner has released it, known since"
            f" {when(patch.released_at)}"
        )
    return lines


def result_text(view: ResultView, mark: Fence) -> str:
    """Return a slice of a result as text of at most `RESULT_CHARACTERS`.

    Offsets count characters of the part as the daemon holds it, so a slice
    that does not fit is cut at its end and `next_offset` says where.
    """
    shown = len(view.text)
    while True:
        text = _result_text(view, shown, mark)
        over = len(text) - RESULT_CHARACTERS
        if over <= 0 or shown == 0:
            return text
        shown = max(0, shown - over)


def _result_text(view: ResultView, shown: int, mark: Fence) -> str:
    # Only a summary is prose that a client might render; anything else stays exact.
    body = view.text[:shown]
    body = defang(scrub(body)) if view.part == "summary" else body
    head = _Head(view, shown)
    fenced = mark.whole(body or "(empty)", view.peer)
    return f"{head.text()}\n\n{fenced}\n\nNext: {head.next_call()}"
