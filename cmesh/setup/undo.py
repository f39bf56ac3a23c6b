"""What takes an applied change back: exactly what it brought, never what a person wrote since. Pure."""

from collections.abc import Sequence

from cmesh.errors import ConfigError, PlanGone
from cmesh.setup.configtext import without_block
from cmesh.setup.plan import Plan, Trusting
from cmesh.setup.plan_service import taken_away
from cmesh.setup.records import Applied

__all__ = ["reverse_of"]


def reverse_of(applied: Sequence[Applied], step: str, current: str | None) -> Plan:
    """Return the plan that takes back the newest change, or the newest of `step`.

    Args:
        applied: every applied change, the newest last.
        step: empty = any.
        current: the file as it is now.

    Raises:
        PlanGone: there is nothing to take back.
        ConfigError: what was put into the file was changed since.
    """
    open_ones = [
        one
        for one in applied
        if one.done and not one.undone and not one.plan.undoes and not one.plan.empty
    ]
    found = [one for one in open_ones if step in ("", one.plan.step)]
    if not found:
        what = f"the step `{step}` was not applied" if step else "no step was applied"
        raise PlanGone(f"nothing to undo: {what}, or it is taken back already", hint="")
    last = found[-1]
    plan = last.plan
    after = current if plan.before == plan.after else _without(plan, current)
    unit, about = (None, ()) if plan.unit is None else taken_away(plan.unit)
    return Plan(
        step=plan.step,
        title=f"take back: {plan.title}",
        file=plan.file,
        before=current,
        after=after,
        untrust=plan.trust or _proved(plan),
        unagents=plan.agents,
        unit=unit,
        effects=(*_effects(plan, after), *about),
        undoes=last.plan_id,
    )


def _proved(plan: Plan) -> Trusting | None:
    """Return the peer whose key a change made trusted by a code."""
    peer = plan.by_code
    if peer is None or peer.trusted:
        return None
    return Trusting(node_id=peer.node_id, name=peer.name, fingerprint="")


def _without(plan: Plan, current: str | None) -> str | None:
    if current == plan.after:
        return plan.before
    text = current
    for block in plan.blocks:
        text = without_block(text, block.text) if text is not None else None
    if not plan.blocks or text is None:
        raise ConfigError(
            f"what the wizard put into `{plan.file}` was changed since",
            hint=f"take later changes back first, or edit {plan.file} yourself",
        )
    return text


def _effects(plan: Plan, after: str | None) -> list[str]:
    effects: list[str] = []
    trust = plan.trust or _proved(plan)
    if trust is not None:
        effects.append(f"trusts the key of `{trust.name}` no more; its tasks here end")
    effects += [f"takes cmesh out of the MCP servers of {name}" for name in plan.agents]
    if after is None:
        effects.append(
            "the daemon starts again without a configuration and a node; what it knows, and the"
            " node's identity, stay in its state directory"
        )
    return effects
