"""What a caller asks for: the part of `submit` that its payload's hash covers. Pure."""

from typing import Annotated, Literal

from pydantic import Field

from cmesh.model import Profile
from cmesh.protocol.fields import Hex256, Id, Instant, Name, WireMessage, is_unset

__all__ = [
    "CHANGES_BYTES",
    "CommitId",
    "SentChanges",
    "Spec",
]

CHANGES_BYTES = 16 * 1024 * 1024
"""The longest patch that a caller may send with a task."""


CommitId = Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]


class SentChanges(WireMessage):
    """Uncommitted changes of the caller; the worker fetches the bytes by `artifact`.

    Attributes:
        commit: what they are made on.
        sha256, bytes: of a binary patch, for `git apply`.
        bundle: a worker without the commit may say so by `lacks`. Not part of the payload's hash,
            so that a worker that does not know it takes the task as before.
    """

    commit: CommitId
    sha256: Hex256
    bytes: Annotated[int, Field(ge=0, le=CHANGES_BYTES)]
    bundle: Annotated[bool, Field(exclude_if=is_unset)] = False


class Spec(WireMessage):
    """What is to be done; the wire form of `cmesh.model.TaskSpec` without its id.

    Attributes:
        turns, tokens: limits, as `cmesh.model.Limits`; an older worker refuses the task, because
            its hash is not the one of what it understands.
        follows: makes it a follow-up turn of that task, with a life of its own.
        artifacts: globs of files to hand over. A worker that does not know it refuses the task:
            the payload's hash is another one without.
        changes: what the copy holds instead; as with `base`, an older worker refuses the task.
        base: what the copy holds, as `cmesh.model.TaskSpec`; a worker that does not know it finds
            another hash and refuses the task.
        answer_schema: JSON Schema, as JSON text, of the answer it must end with; as `artifacts`.
    """

    runner: Annotated[str, Field(min_length=1, max_length=80)]
    profile: Profile
    directory: Annotated[str, Field(min_length=1, max_length=4096)]
    prompt: Annotated[str, Field(max_length=200_000)]
    runtime_s: Annotated[int, Field(ge=1, le=14_400)]
    output_bytes: Annotated[int, Field(ge=0, le=2**30)]
    cost_usd: Annotated[float, Field(ge=0)] | None = None
    accept: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    origin: Annotated[tuple[Name, ...], Field(max_length=16)] = ()
    not_after: Instant
    traceparent: Annotated[str, Field(max_length=64)] = ""
    # Left out when there is none: such a task is written as before there were these fields.
    turns: Annotated[Annotated[int, Field(ge=1, le=2**53)] | None, Field(exclude_if=is_unset)] = (
        None
    )
    tokens: Annotated[Annotated[int, Field(ge=1, le=2**53)] | None, Field(exclude_if=is_unset)] = (
        None
    )
    follows: Annotated[Id | None, Field(exclude_if=is_unset)] = None
    artifacts: Annotated[
        tuple[Annotated[str, Field(max_length=200)], ...],
        Field(max_length=16, exclude_if=is_unset),
    ] = ()
    base: Annotated[Literal["", "working-tree"], Field(exclude_if=is_unset)] = ""
    changes: Annotated[SentChanges | None, Field(exclude_if=is_unset)] = None
    answer_schema: Annotated[str, Field(max_length=16_384, exclude_if=is_unset)] = ""
