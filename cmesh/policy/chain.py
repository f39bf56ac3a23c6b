"""Tasks that ask for tasks: who led here, how far it may go, and what each step may still have.

Each hop may only narrow. No rule widens what stands here, so it is judged before all rules.
"""

from dataclasses import replace

from cmesh.model import Limits, NodeId, Profile
from cmesh.policy.match import is_at_or_below
from cmesh.policy.request import Failed, Held, OutboundRequest
from cmesh.text import one_line

__all__ = ["MAX_CHAIN", "at_most", "callers", "chain_failure", "held_failure", "least", "narrowed"]

MAX_CHAIN = 4
"""The most nodes that may stand between a task's first caller and its worker, callers counted."""

_WIDTH = (Profile.QUERY, Profile.EDIT, Profile.BUILD, Profile.FULL)
_SHOWN = 300


def callers(chain: tuple[NodeId, ...], last: NodeId) -> tuple[NodeId, ...]:
    """Return the chain with `last`, the direct caller, as its final element once."""
    return chain if chain and chain[-1] == last else (*chain, last)


def chain_failure(chain: tuple[NodeId, ...], to: NodeId) -> Failed | None:
    """Return why a chain goes no further: in a circle, or too long; None = it may.

    Args:
        chain: every caller, first one first, as `callers` gives it.
        to: the node that would do the work.
    """
    if to in chain or len(set(chain)) < len(chain):
        return _failed("chain", "each node once", " > ".join((*chain, to)))
    if len(chain) > MAX_CHAIN:
        return _failed("chain", f"at most {MAX_CHAIN} callers", f"{len(chain)} callers")
    return None


def at_most(profile: Profile, most: Profile) -> bool:
    """Say whether a profile allows no more than another one."""
    return _WIDTH.index(profile) <= _WIDTH.index(most)


def held_failure(request: OutboundRequest) -> Failed | None:
    """Return what a task asks for another one that it does not have itself; None = nothing."""
    held = request.held
    if held is None:
        return None
    if not held.may_delegate:
        return _failed("held", "a task whose caller may delegate", "one whose caller may not")
    if not at_most(request.profile, held.profile):
        return _failed("held", f"at most profile {held.profile}, the task's own", request.profile)
    if request.runner not in held.runners:
        return _failed(
            "held", f"a runner its caller may ask for: {', '.join(held.runners)}", request.runner
        )
    if not is_at_or_below(request.project, (held.directory,)):
        return _failed("held", "a directory at or below the task's own", request.project)
    left = held.limits
    if left.runtime_s <= 0 or 0 in (left.cost_usd, left.turns, left.tokens):
        return _failed("held", "time, money, turns and tokens left to the task", "none left")
    return None


def narrowed(limits: Limits, held: Held | None) -> Limits:
    """Return the limits of a task that another one asks for: never more than it has left."""
    if held is None:
        return limits
    return least(limits, held.limits)


def least(limits: Limits, left: Limits) -> Limits:
    """Return the smaller one of each of two limits."""
    turns = [turns for turns in (limits.turns, left.turns) if turns is not None]
    tokens = [tokens for tokens in (limits.tokens, left.tokens) if tokens is not None]
    # A wish that is not a number, or below zero, is no reason to drop what is left.
    costs = [usd for usd in (limits.cost_usd, left.cost_usd) if usd is not None and usd >= 0]
    return replace(
        limits,
        runtime_s=min(limits.runtime_s, left.runtime_s),
        output_bytes=min(limits.output_bytes, left.output_bytes),
        cost_usd=min(costs, default=None),
        turns=min(turns, default=None),
        tokens=min(tokens, default=None),
    )


def _failed(condition: str, wanted: str, got: str) -> Failed:
    wanted, got = one_line(wanted, _SHOWN), one_line(got, _SHOWN) or "none"
    return Failed(rule="", condition=condition, wanted=wanted, got=got)
