"""What of a task a secret withholds from its caller: read off the signed result, on either side."""

from dataclasses import dataclass
from datetime import datetime

from cmesh.daemon.fetch import Part
from cmesh.errors import SecretFound
from cmesh.protocol.outcome import Artifacts, Patch
from cmesh.store.records import TaskSnapshot

__all__ = ["Withheld", "withheld"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """A patch, or a file, whose bytes stay with its worker until the owner there releases them.

    Attributes:
        path: of a file; empty for the patch.
        released_at: when the owner did; on a caller, when the bytes came; None = not yet.
    """

    part: Part
    path: str = ""
    sha256: str
    bytes: int
    released_at: datetime | None = None


def withheld(task: TaskSnapshot) -> list[Withheld]:
    """Return what a secret withholds, or has withheld; none before the end."""
    result = task.result
    if result is None:
        return []
    found: list[Withheld] = []
    patch = Patch.model_validate(dict(result.patch)) if result.patch else Patch()
    if patch.withheld == SecretFound.code and patch.sha256:
        at = task.released.get(patch.sha256)
        found.append(Withheld(part="patch", sha256=patch.sha256, bytes=patch.bytes, released_at=at))
    told = Artifacts.model_validate(dict(result.artifacts)) if result.artifacts else Artifacts()
    for one in told.files:
        if one.withheld == SecretFound.code and one.sha256:
            at = task.released.get(one.sha256)
            found.append(
                Withheld(
                    part="artifact",
                    path=one.path,
                    sha256=one.sha256,
                    bytes=one.bytes,
                    released_at=at,
                )
            )
    return found
