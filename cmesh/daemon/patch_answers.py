"""What a check of a patch answers, and what applying it did: for `--json` and for MCP results.

Paths are another machine's words. Nothing here touches a repository.
"""

from typing import Literal

from pydantic import Field

from cmesh.daemon.answers import View
from cmesh.daemon.file_answers import PatchView
from cmesh.patch.look import Look

__all__ = ["AppliedView", "CheckPatchView", "ObjectionView", "check_view"]

NAMES_MOST = 200


class ObjectionView(View):
    """Why a patch is not applied.

    `why` is cmesh's own; `names` are some of `count` paths that it is about, some with why.
    """

    code: str
    why: str
    names: list[str] = Field(default_factory=list[str])
    count: int = 0
    next: str = ""


class CheckPatchView(View):
    """Whether a task's patch would apply, as it is there now; nothing was changed.

    `base_relation`: how the current commit stands to the patch's base: `same`, `ahead` by `ahead`
    commits, `behind` by `behind`, `diverged`, `missing` = the base is not here, `unknown` = the
    patch names none or nothing is committed here. `dirty_base`: the worker's directory had
    uncommitted changes. `sent_base`: it is made on those that were sent with the task. `changed`: some of `files` paths, each after a letter (A, D, M, T);
    empty while an objection keeps that from being found out. `flagged`: those that run or
    instruct by being there, as judged here. `collisions`: new names that some systems take
    for another.
    """

    task_id: str
    root: str
    applies: bool
    objections: list[ObjectionView] = Field(default_factory=list[ObjectionView])
    base_commit: str = ""
    base_relation: Literal["same", "ahead", "behind", "diverged", "missing", "unknown"] = "unknown"
    head: str = ""
    ahead: int = 0
    behind: int = 0
    dirty_base: bool = False
    sent_base: bool = False
    sha256: str = ""
    bytes: int = 0
    files: int = 0
    added: int = 0
    deleted: int = 0
    changed: list[str] = Field(default_factory=list[str])
    flagged: list[str] = Field(default_factory=list[str])
    flagged_count: int = 0
    collisions: list[str] = Field(default_factory=list[str])


class AppliedView(CheckPatchView):
    """What `cmesh apply` did; `branch` and `commit` are empty when it changed the work tree."""

    applied: bool = False
    branch: str = ""
    commit: str = ""


def check_view(
    task_id: str, seen: Look, sha256: str, size: int, *, patch: PatchView
) -> CheckPatchView:
    """Return a look as an answer; `patch` and the digest are what the task's result says."""
    base = seen.base
    return CheckPatchView(
        task_id=task_id,
        root=_text(seen.repository.root),
        applies=seen.applies,
        objections=[
            ObjectionView(
                code=one.code,
                why=one.why,
                names=[_text(name) for name in one.names[:NAMES_MOST]],
                count=len(one.names),
                next=one.next.replace(" ID ", f" {task_id} "),
            )
            for one in seen.objections
        ],
        base_commit=base.commit,
        base_relation=base.relation,
        head=base.head,
        ahead=base.ahead,
        behind=base.behind,
        dirty_base=patch.mixed,
        sent_base=patch.base == "changes",
        sha256=sha256,
        bytes=size,
        files=len(seen.numbers),
        added=sum(one.added or 0 for one in seen.numbers),
        deleted=sum(one.deleted or 0 for one in seen.numbers),
        changed=[f"{one.letter} {_text(one.name)}" for one in seen.changes[:NAMES_MOST]],
        flagged=[_text(name) for name in seen.flagged[:NAMES_MOST]],
        flagged_count=len(seen.flagged),
        collisions=[_text(name) for name in seen.collisions[:NAMES_MOST]],
    )


def _text(name: str) -> str:
    """Return a name that may be no UTF-8 as text that travels."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
