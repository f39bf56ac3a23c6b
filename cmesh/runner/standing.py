"""How far a program of an agent is known to withstand a hostile directory. Pure.

Two things speak for it: the range of versions that its manifest was tried with, and a self-test
of this very file on this machine. A failed self-test speaks louder than the range.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cmesh.errors import RunnerUnavailable
from cmesh.runner.manifest import Versions

__all__ = ["CHECK_RETRY_S", "SelfTest", "Verdict", "refusal"]

Verdict = Literal["passed", "failed", "unable"]
"""What a self-test found; `unable` = it could not be run, and why is its reason."""

CHECK_RETRY_S = 30
"""When a caller may ask again while a program is being checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What is known of one program by its self-test.

    Attributes:
        state: `none` = there is no self-test for this agent; `pending` = not run for this
            file yet; else the last verdict for it.
        sprung: the traps that a failed one ran into.
        reason: why it could not be run.
        at: when the verdict was made, ISO 8601; empty without one.
    """

    state: Literal["none", "pending"] | Verdict = "none"
    sprung: tuple[str, ...] = ()
    reason: str = ""
    at: str = ""

    @property
    def label(self) -> str:
        """Return it in one line for people."""
        words: Mapping[str, str] = {
            "none": "no self-test",
            "failed": f"failed: {', '.join(self.sprung)}",
            "unable": f"could not run: {self.reason}",
        }
        return words.get(self.state, self.state)


def refusal(
    name: str,
    version: str,
    versions: Versions | None,
    test: SelfTest,
    *,
    own: bool = False,
) -> RunnerUnavailable | None:
    """Say why a program may not run in a sandboxed profile; None = it may.

    Args:
        name: of the runner.
        version: what the program says of itself; empty = nothing.
        versions: the range of the manifest; None = it names none.
        test: of this program as its file is now.
        own: the manifest is the owner's: without a range nobody has tried any version. Of ours
            only that of commands names none, and any will do.
    """
    check = f"run `cmesh runners check {name}`"
    if test.state == "failed":
        return RunnerUnavailable(
            f"runner `{name}`: {_said(version)}; in its self-test here a hostile directory worked"
            f" on it ({', '.join(test.sprung)}), so it runs in `full` only",
            hint=f"install another version, or set `program` of [runners.{name}]; {check}",
        )
    if test.state == "passed" or (not own if versions is None else versions.hold(version)):
        return None
    only = "nobody tried it with a hostile directory"
    if versions is not None:
        tried = f"only {versions.first} to below {versions.below} were tried"
        only = f"{tried} with a hostile directory"
    if test.state == "pending":
        return RunnerUnavailable(
            f"runner `{name}`: {_said(version)}; {only}, and this one is being checked here",
            hint=f"ask again in a minute, or {check}",
            retry_after_s=CHECK_RETRY_S,
        )
    unable = f"; its self-test here could not run: {test.reason}" if test.state == "unable" else ""
    hint = f"install such a version, or set `program` of [runners.{name}]"
    if versions is None:
        hint = "allow it in a rule with `full`, or try it and name `[versions]` in its manifest"
    return RunnerUnavailable(
        f"runner `{name}`: {_said(version)}; {only}{unable}, so it runs in `full` only",
        hint=f"{hint}; {check}" if unable else hint,
    )


def _said(version: str) -> str:
    return f"version `{version}`" if version else "it names no version"
