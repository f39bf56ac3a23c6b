"""What operations answer about the patch and the files of a task. Fields are stable, as in `answers`."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from cmesh.daemon.evidence_answers import View

__all__ = [
    "ArtifactPiece",
    "ArtifactView",
    "FoundView",
    "PatchFile",
    "PatchView",
    "ReleaseView",
    "WithheldView",
]


class PatchView(View):
    """What a task changed of its copy of the directory; another machine's word on a caller.

    `bytes` are those of the patch; `files` counts changed paths, of which `changed` has some,
    each after a letter (A, D, M, T), and `flagged` those that run or instruct by being there.
    `left_out`: names that are in neither copy nor patch, such as other repositories.
    `base`: what was copied, the commit (`head`) or the directory with the changes of what is
    tracked (`working-tree`); empty = by an older worker, which copied all files as they were.
    `base_commit` and `dirty`: the directory's commit, and whether it was not as that.
    `withheld`: why there are no bytes for the caller: `secret_found`, `patch_too_large`,
    `patch_failed`; `refused`: why they were not taken here. `released_at`: when the worker's
    owner released what a secret withheld; on a caller, when its bytes came.
    """

    sha256: str = ""
    bytes: int = 0
    files: int = 0
    changed: list[str] = Field(default_factory=list[str])
    flagged: list[str] = Field(default_factory=list[str])
    flagged_count: int = 0
    left_out: list[str] = Field(default_factory=list[str])
    left_out_count: int = 0
    base: str = ""
    base_commit: str = ""
    dirty: bool = False
    withheld: str = ""
    reason: str = ""
    refused: str = ""
    released_at: datetime | None = None

    @property
    def mixed(self) -> bool:
        """Say whether the worker's own uncommitted changes are part of what was copied."""
        return self.dirty and self.base != "head"

    @property
    def dirt(self) -> str:
        """Return what there is to say of uncommitted changes in the worker's directory."""
        if self.base == "changes":
            return " with the changes that its caller sent"
        if not self.dirty:
            return ""
        return " with uncommitted changes" if self.mixed else ", without uncommitted changes there"


class PatchFile(View):
    """A piece of a task's patch as base64, exactly as its worker signed it.

    `data` begins at the offset that was asked for; `patch.bytes` are the length of all, and
    `sha256` is of all. `sent`: the changes that travelled with the task, whole, with the first
    piece; the patch is made on them.
    """

    task_id: str
    sha256: str
    data: str
    patch: PatchView
    sent: str = ""


class FoundView(View):
    """A place where a secret stands: `kind` of secret, `place` as path:line, its line without it."""

    kind: str
    place: str
    text: str = ""


class WithheldView(View):
    """What a secret withholds from a task's caller: its patch, or a file.

    `found` has the first of `found_count` places. `released_at`: when its owner released it.
    """

    part: Literal["patch", "artifact"]
    path: str = ""
    sha256: str
    bytes: int
    found: list[FoundView] = Field(default_factory=list[FoundView])
    found_count: int = 0
    released_at: datetime | None = None


class ReleaseView(View):
    """What of a task is withheld from its caller, as its worker's owner sees it.

    `told`: whether the caller is linked and has been told of a release just made.
    """

    task_id: str
    peer: str
    node_id: str
    principal: str
    withheld: list[WithheldView]
    told: bool = False


class ArtifactView(View):
    """A file that a task handed over: another machine's word on a caller.

    `withheld`: why there are no bytes: `secret_found`, `artifact_too_large`,
    `artifact_unreadable`; `released_at` as in `PatchView`.
    """

    path: str
    bytes: int = 0
    sha256: str = ""
    withheld: str = ""
    released_at: datetime | None = None


class ArtifactPiece(View):
    """Some bytes of a task's file as base64, from an offset."""

    task_id: str
    path: str
    sha256: str
    total: int
    offset: int
    data: str
