"""How a task ended, as its worker signs it: the part of `result` under the signatures. Pure."""

import json
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from cmesh.model import TaskState
from cmesh.protocol.evidence import Evidence
from cmesh.protocol.fields import (
    CodeOrNone,
    FollowUp,
    HexOrNone,
    Instant,
    Names,
    ObjectOrNone,
    Sentence,
    Seq,
    WireMessage,
    is_unset,
    storable,
)

__all__ = [
    "EXTRA_CHARACTERS",
    "PATCH_CHARACTERS",
    "ArtifactFile",
    "Artifacts",
    "Basis",
    "Outcome",
    "Patch",
]

EXTRA_CHARACTERS = 16 * 1024
"""What an outcome may hold as JSON in fields that this version does not know: all is kept."""

PATCH_CHARACTERS = 12 * 1024
"""What an outcome's `patch` may be as JSON: a peer that does not know it keeps no more."""


class Basis(WireMessage):
    """What a worker lets its signature cover beside the outcome: who asked, and by which rules.

    Fields of a newer peer are kept, because the signature covers them.

    Attributes:
        caller: who asked, as whois said: login name or tags.
        profile: that the task was taken under; empty when it was cancelled before it came.
        policy_sha256: the policy that decided; empty when nobody knows any more.
        prompt_sha256: the prompt as the worker keeps it.
        head_seq, head_hash: the worker's audit head just before it signed.
    """

    model_config = ConfigDict(extra="allow")

    caller: Annotated[str, Field(max_length=2_000)] = ""
    profile: Annotated[str, Field(max_length=64)] = ""
    policy_sha256: HexOrNone = ""
    prompt_sha256: HexOrNone = ""
    head_seq: Seq = 0
    head_hash: HexOrNone = ""


CopyBase = Annotated[str, Field(pattern=r"^[a-z-]{1,32}$")]
"""A word; one that a newer peer has made is kept."""


class Patch(WireMessage):
    """What a task changed of its copy of the directory; the bytes come by `artifact`.

    Older peers keep it as fields they do not know, so all of it as JSON fits `PATCH_CHARACTERS`.

    Attributes:
        sha256: of the patch, for `git apply`; empty when nothing changed or there is none.
        bytes: its length.
        files: changed paths.
        changed: some of them, each after a letter and a blank: A, D, M, T as in git's raw format.
        flagged: some of those that run or instruct by being there; `flagged_count` counts all.
        left_out: names that are neither in the copy nor in the patch, likewise.
        base_commit: of the source; empty = it has none, or is no repository of its own.
        base_tree: git's name for the content that was copied.
        dirty: the directory was not as its commit.
        base: what was copied: `head` = the commit, `working-tree` = the directory with its changes,
            `changes` = a commit with those that the caller sent;
            None = an older worker's, always the latter.
        withheld: why the bytes are not given out, or not there: `secret_found`,
            `patch_too_large`, `patch_failed`; empty = they are.
        reason: the same in words.
    """

    model_config = ConfigDict(extra="allow")

    sha256: HexOrNone = ""
    bytes: Seq = 0
    files: Seq = 0
    changed: Names = ()
    flagged: Names = ()
    flagged_count: Seq = 0
    left_out: Names = ()
    left_out_count: Seq = 0
    base_commit: ObjectOrNone = ""
    base_tree: ObjectOrNone = ""
    dirty: bool = False
    withheld: CodeOrNone = ""
    reason: Sentence = ""
    # None where there is none: the signature covers what a worker has said, and no more.
    base: Annotated[CopyBase | None, Field(exclude_if=is_unset)] = None


class ArtifactFile(WireMessage):
    """One file of a task; the bytes come by `artifact`.

    Attributes:
        path: below the task's directory.
        withheld: why the bytes are not given out: `secret_found`, `artifact_too_large`,
            `artifact_unreadable`; empty = they are.
    """

    path: Annotated[str, Field(min_length=1, max_length=320)]
    bytes: Seq = 0
    sha256: HexOrNone = ""
    withheld: CodeOrNone = ""


class Artifacts(WireMessage):
    """The files that a task's globs meant in the end; sent to who asked for some, so it knows it.

    Attributes:
        left_out: files more than these, or with a name that is not told.
        reason: why there are none.
    """

    model_config = ConfigDict(extra="allow")

    files: Annotated[tuple[ArtifactFile, ...], Field(max_length=64)] = ()
    left_out: Seq = 0
    reason: Sentence = ""


class Outcome(WireMessage):
    """How a task ended; the wire form of `cmesh.model.Result`.

    Fields of a newer peer are kept, because the signature covers them; so a field added
    in a later minor version must default to None (`receipts.result_bytes` leaves None out).

    Attributes:
        state: a terminal state.
        turns: answers of the model, as far as the runner tells them.
        follow_up, follow_up_until: whether the task can be followed up, as `cmesh.model.Result`.
        output_inline: the kept output as base64 when it is small; otherwise it is
            fetched by `artifact` with `output_sha256`.
        redacted: secrets that were taken out of texts and kept output; `output_sha256` is of
            what is kept.
        patch: what it changed, for profiles that work on a copy.
        artifacts: files that it was asked to hand over.
        evidence: what the worker found out besides; None = an older worker, or it never ran.
        answer: JSON text that fits the schema it was asked for; sent to who asked by one alone.
    """

    model_config = ConfigDict(extra="allow")

    state: TaskState
    witness: Sentence
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    text: Annotated[str, Field(max_length=64_000)] = ""
    error: Sentence = ""
    code: CodeOrNone = ""
    output_bytes: Seq = 0
    output_sha256: HexOrNone = ""
    output_kept: Seq = 0
    output_inline: Annotated[str, Field(max_length=90_000)] = ""
    truncated: bool = False
    cost_usd: Annotated[float, Field(ge=0)] | None = None
    tokens_in: Seq | None = None
    tokens_out: Seq | None = None
    runner_version: Annotated[str, Field(max_length=200)] = ""
    profile_enforced: Annotated[str, Field(max_length=64)] = "none"
    credential: Annotated[str, Field(max_length=32)] = "none"
    processes_left: Seq = 0
    started_at: Instant | None = None
    ended_at: Instant | None = None
    turns: Annotated[Seq | None, Field(exclude_if=is_unset)] = None
    follow_up: Annotated[FollowUp | None, Field(exclude_if=is_unset)] = None
    follow_up_until: Annotated[Instant | None, Field(exclude_if=is_unset)] = None
    redacted: Annotated[Seq | None, Field(exclude_if=is_unset)] = None
    basis: Annotated[Basis | None, Field(exclude_if=is_unset)] = None
    patch: Annotated[Patch | None, Field(exclude_if=is_unset)] = None
    artifacts: Annotated[Artifacts | None, Field(exclude_if=is_unset)] = None
    evidence: Annotated[Evidence | None, Field(exclude_if=is_unset)] = None
    answer: Annotated[str | None, Field(max_length=16_384, exclude_if=is_unset)] = None

    @model_validator(mode="after")
    def _extra_is_storable(self) -> Self:
        parts = [part for part in (self.basis, self.patch, self.artifacts) if part is not None]
        extra = {
            name: value
            for part in (self, *parts)
            for name, value in (part.model_extra or {}).items()
        }
        if len(json.dumps(storable(extra))) > EXTRA_CHARACTERS:
            raise ValueError(f"unknown fields hold more than {EXTRA_CHARACTERS} characters")
        return self
