"""What a shim starts for one task: the value between runners and supervision."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Launch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A program to start, complete: nothing is inherited and nothing is looked up.

    Attributes:
        argv: the program by its absolute path, then its arguments; no NUL.
        cwd: absolute directory it starts in.
        env: the whole environment; may hold a credential, so it is never logged.
        stdin: what it reads, to the end of file.
        runtime_s: seconds from its start to its forced end.
        output_bytes: bytes of standard output kept.
    """

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    stdin: bytes
    runtime_s: int
    output_bytes: int
