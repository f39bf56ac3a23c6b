"""What is told after a denial besides the rules here: what a peer offers this node.

`cmesh.policy` knows what rules would allow, not what a peer has said that may be asked of it.
"""

from collections.abc import Sequence

from cmesh.model import Operation, Profile, TaskSpec
from cmesh.nearest import did_you_mean
from cmesh.platform.elsewhere import may_be_below
from cmesh.protocol.link_messages import May
from cmesh.text import one_line

__all__ = ["needed_there", "not_offered", "offered_instead"]

SHOWN = 8
"""Values of one kind that a peer's offer is told with."""


def offered_instead(name: str, may: May, spec: TaskSpec) -> str:
    """Say what peer `name` offers this node in place of what it denied; empty = not known.

    Rests on what the peer itself has told this node, and names the kinds only that are wrong.
    """
    wrong = not_offered(may, spec)
    if not wrong:
        return ""
    return f"ask for what `{name}` offers this node: {'; '.join(wrong)}"


def needed_there(name: str, may: May, spec: TaskSpec) -> str:
    """Say what peer `name` would deny after this node's own policy allowed; empty = nothing known.

    Its owner has to know it too: a change on this side alone leads to the next denial.
    """
    wrong = not_offered(may, spec)
    if wrong:
        own = " in a rule of its own with its consent" if spec.profile is Profile.FULL else ""
        return f"its owner must allow it on `{name}` too{own}: it offers {'; '.join(wrong)}"
    if not may.operations and spec.profile is Profile.FULL:
        return f"`{name}` needs a rule of its own for `full`, with its consent, too"
    return ""


def not_offered(may: May, spec: TaskSpec) -> list[str]:
    """Return the kinds of which the peer's offer lacks what is asked for, with what it has."""
    if not may.operations:
        return []
    operation = Operation.TASK if spec.follows is None else Operation.FOLLOW_UP
    kinds: list[tuple[bool, str, Sequence[str]]] = [
        (operation.value in may.operations, "operations", may.operations),
        (spec.profile in may.profiles, "profiles", may.profiles),
        (spec.runner in may.runners, "runners", may.runners),
        (_is_offered(spec.directory, may.paths), "paths", may.paths),
    ]
    wrong = [f"{kind} {_listed(values)}" for offered, kind, values in kinds if not offered]
    return [
        f"{one}{_meant(spec.runner, may)}" if one.startswith("runners ") else one for one in wrong
    ]


def _is_offered(directory: str, paths: Sequence[str]) -> bool:
    # The peer may be of another system, and only it knows its disk: told is what is surely wrong.
    return any(may_be_below(directory, path) for path in paths)


def _meant(runner: str, may: May) -> str:
    """Return the question whether a misspelt runner is one that is offered; empty = none is near."""
    names = [one_line(name, 200) for name in may.runners]
    meant = did_you_mean(runner, names, most=1)
    return f" ({meant.removesuffix('?')})" if meant else ""


def _listed(values: Sequence[str]) -> str:
    more = len(values) - SHOWN
    shown = ", ".join(f"`{one_line(value, 200)}`" for value in values[:SHOWN]) or "none"
    return f"{shown} and {more} more" if more > 0 else shown
