"""What a machine says of itself to a peer that may ask it for tasks.

Pure. Another machine's word: it is checked for its form only, and shown as such.
"""

from typing import Annotated

from pydantic import Field

from cmesh.protocol.fields import Seq, WireMessage, is_unset

__all__ = ["LABELS_MOST", "TOOLS", "Machine", "RunnerFact"]

TOOLS: tuple[str, ...] = (
    "cargo",
    "cmake",
    "docker",
    "gcc",
    "git",
    "go",
    "java",
    "make",
    "node",
    "npm",
    "podman",
    "python",
)
"""The tools that this version looks for; a peer of another version may tell of others."""

LABELS_MOST, LABEL_CHARACTERS = 16, 32
GPUS_MOST, RUNNERS_MOST = 8, 64
TOOLS_MOST = 64


def _is_untold(value: object) -> bool:
    """Leave out what is not told: none at all is something to tell."""
    return value is None


Word = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._+:-]{0,79})?$")]
Number = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._+~:-]{0,79})?$")]
Untold = Field(exclude_if=_is_untold)
_Gpu = Annotated[str, Field(max_length=80)]
_Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]


class RunnerFact(WireMessage):
    """A runner that the receiver may ask for; `ready` = it can start there now."""

    name: Word
    version: Number = ""
    ready: bool = False


class Machine(WireMessage):
    """The sender's machine. What is left out is not told; what is empty is not there.

    Attributes:
        os: `linux`, `macos`, `windows` or what the system calls itself.
        distribution, os_version: as `/etc/os-release` says, for example `debian`, `12`.
        arch: `x86_64`, `aarch64` or what the system calls it.
        cpus: processors that the daemon may use.
        memory: bytes that it may use.
        tools: version by name of those of a fixed list that a login shell finds; an empty
            version is not known.
        gpus: names of graphics processors.
        gpu_by: how they are known: `nvidia-smi`, or `/dev/dri`, which says that there is one,
            not that it can compute.
        runners: those that the receiver may ask for.
        labels: the owner's own words.
        age_s: seconds since it was looked at.
    """

    os: Annotated[Word, Field(exclude_if=is_unset)] = ""
    distribution: Annotated[Word, Field(exclude_if=is_unset)] = ""
    os_version: Annotated[Number, Field(exclude_if=is_unset)] = ""
    arch: Annotated[Word, Field(exclude_if=is_unset)] = ""
    cpus: Annotated[Seq | None, Untold] = None
    memory: Annotated[Seq | None, Untold] = None
    tools: Annotated[dict[Word, Number] | None, Untold, Field(max_length=TOOLS_MOST)] = None
    gpus: Annotated[tuple[_Gpu, ...] | None, Untold, Field(max_length=GPUS_MOST)] = None
    gpu_by: Annotated[str, Field(max_length=32, exclude_if=is_unset)] = ""
    runners: Annotated[tuple[RunnerFact, ...] | None, Untold, Field(max_length=RUNNERS_MOST)] = None
    labels: Annotated[tuple[_Label, ...] | None, Untold, Field(max_length=LABELS_MOST)] = None
    age_s: Seq = 0
