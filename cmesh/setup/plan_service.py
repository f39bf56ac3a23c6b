"""The step `service`: a systemd user unit that keeps the daemon, put there and taken away. Pure.

The terminal that confirms it does it, since it ends the daemon that planned it. Where there is no
systemd of the user the wizard says what a person can do.
"""

from pathlib import Path

from cmesh.errors import PlanGone, ServiceFailed
from cmesh.setup.facts import Facts
from cmesh.setup.plan import Plan, UnitChange, Wish
from cmesh.setup.service import systemd
from cmesh.setup.service.unit import Change

__all__ = ["require_as_planned", "service", "taken_away"]


def service(facts: Facts, _wish: Wish) -> Plan:
    """Return what has systemd keep the daemon; raises as `plan_of`."""
    unit = facts.unit
    plan = Plan(
        step="service",
        title="have systemd keep the daemon",
        file=str(facts.config_file),
        before=facts.config,
        after=facts.config,
    )
    if facts.service and (unit is None or unit.found == unit.wanted):
        return plan
    if unit is None:
        raise ServiceFailed(
            "no systemd of this user runs here, so the wizard has none to give the daemon to",
            hint="the user looks at `cmesh service install --dry-run` in a terminal, or has another"
            " supervisor start `cmesh daemon --service` (docs/service.md)",
        )
    if unit.found not in (None, unit.wanted):
        raise ServiceFailed(
            f"`{unit.file}` is there already, and is not what cmesh would write",
            hint=f"the user looks at {unit.file}; `cmesh service install` in a terminal writes it anew",
        )
    change = UnitChange(name=unit.name, file=str(unit.file), before=unit.found, after=unit.wanted)
    effects = [
        "the terminal that confirms this also runs: " + _commands(systemd.enabling(unit.name)),
        (
            "systemd starts the daemon at log-in, and again when it fails; the one that runs hands"
            " over to it, and its tasks run on"
        ),
    ]
    if not unit.lingers:
        effects.append(
            "without lingering it ends when you log out of this machine, with its tasks, and starts"
            " at your next log-in; `loginctl enable-linger` changes that for all your units"
        )
    return plan.model_copy(update={"unit": change, "effects": tuple(effects)})


def taken_away(unit: UnitChange) -> tuple[UnitChange, tuple[str, ...]]:
    """Return what takes a unit away again, and the effects of that."""
    change = UnitChange(name=unit.name, file=unit.file, before=unit.after, after=None)
    effects = (
        "the terminal that confirms this also runs: "
        + _commands(systemd.removal(unit.name, Path(unit.file))),
        "the daemon ends, its tasks run on; the next command or agent's session starts one",
    )
    return change, effects


def require_as_planned(unit: UnitChange, found: str | None) -> None:
    """Check that the unit's file is as the change has seen it; `found` None = there is none.

    Raises:
        PlanGone: it is not.
    """
    if found == unit.before:
        return
    raise PlanGone(
        f"`{unit.file}` is not as the wizard has seen it",
        hint="`cmesh service status` says how it stands; `cmesh service remove` takes it away",
    )


def _commands(steps: list[Change]) -> str:
    return "; ".join(" ".join(step.argv) for step in steps if step.argv)
