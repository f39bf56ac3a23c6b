"""The wizard's tools: what it found and plans, as a model reads it.

What authorises a change is no part of any result: the id of a plan names it, and a person
confirms it at a terminal, or in a form of the agent's program where it widens nothing. Names that other machines chose are fenced.
"""

from collections.abc import Mapping

import mcp_types as types

from cmesh.daemon.arguments import NoArguments
from cmesh.daemon.setup_answers import (
    NextView,
    PlanView,
    SetupChangeView,
    SetupPeerView,
    SetupView,
    SystemTailscaleView,
)
from cmesh.daemon.setup_arguments import (
    SetupCheckArguments,
    SetupConfirmArguments,
    SetupStepArguments,
    SetupUndoArguments,
)
from cmesh.errors import PlanGone
from cmesh.interfaces.mcp.fence import Fence, plain
from cmesh.interfaces.mcp.form import Said
from cmesh.interfaces.mcp.handlers import Call
from cmesh.interfaces.mcp.render import call_text, result, when
from cmesh.text import cut, reveal

__all__ = ["setup_check", "setup_step", "setup_undo"]

DIFF_CHARACTERS = 4_000
PEERS_SHOWN = 12
LONGEST_WAIT_S = 30.0
"""A look takes its time too: machines are called, and a node on its way up is waited for."""
_EMPTY: tuple[object, ...] = (None, "", [], {}, False)


async def setup_check(call: Call) -> types.CallToolResult:
    """Show what this machine is, which steps are done, and the next call."""
    given = call.read(SetupCheckArguments)
    waited = given.model_copy(update={"wait_s": min(given.wait_s, LONGEST_WAIT_S)})
    view = await call.operations.setup_check(call.context, waited)
    return result(_fields(view, Fence()), _next(view.next))


async def setup_step(call: Call) -> types.CallToolResult | types.InputRequiredResult:
    """Plan a step, and show the whole change; ask by a form where that is enough."""
    given = call.read(SetupStepArguments)
    brought = call.form.about() if call.form else None
    if brought is not None and brought[1] != "nobody":
        return _changed(await _answered(call, *brought))
    view = await call.operations.setup_step(call.context, given)
    question = _question(view.plan)
    if brought is not None or call.form is None or not call.form.shown or not question:
        return _changed(view)
    said = await call.form.ask(view.plan.plan_id, question)
    if isinstance(said, types.InputRequiredResult):
        return said
    return _changed(view if said == "nobody" else await _answered(call, view.plan.plan_id, said))


async def setup_undo(call: Call) -> types.CallToolResult:
    """Take a step back, or plan that."""
    view = await call.operations.setup_undo(call.context, call.read(SetupUndoArguments))
    return _changed(view)


def _question(plan: PlanView) -> str:
    """Return the whole change as a form shows it; empty = a form is not enough for it.

    Whether it is enough is the daemon's to decide; here nobody is asked in vain, or about a part.
    """
    if plan.state != "waiting" or plan.widens or plan.unit is not None:
        return ""
    effects = [f"* {effect}" for effect in plan.effects]
    text = reveal("\n".join([f"cmesh: {plan.title}", "", plan.diff, *effects]))
    return text if len(text) <= DIFF_CHARACTERS else ""


async def _answered(call: Call, plan_id: str, said: Said) -> SetupChangeView:
    """Give the daemon what a form said of the change that waits.

    Raises:
        PlanGone: it waits no more.
        TaskRefused: the change widens something, or another session planned it.
    """
    pending = await call.operations.setup_pending(call.context, NoArguments())
    if pending.plan is None or pending.plan.plan_id != plan_id:
        raise PlanGone("that change waits no more: it was answered, replaced or expired")
    word = SetupConfirmArguments(
        plan_id=plan_id, sha256=pending.sha256, accept=said == "yes", by_form=True
    )
    return await call.operations.setup_confirm(call.context, word)


def _changed(view: SetupChangeView) -> types.CallToolResult:
    return result(_plan(view.plan) | _user(view.next), _next(view.next))


def _fields(view: SetupView, mark: Fence) -> dict[str, object]:
    machine = f"{view.os} {view.arch}"
    fields: dict[str, object] = {
        "machine": machine,
        "host": view.host,
        "phase": view.phase,
        "node": view.node,
        "tailnet": view.tailnet,
        "test_tailnet": view.testnet,
        "login_url": view.login_url,
        "control_url": view.control_url,
        "fingerprint": view.fingerprint,
        "config_file": view.config_file,
        "problem": view.problem,
        "keep_text": view.keep_text,
        "sandbox": view.sandbox,
        "agents": [agent.model_dump(exclude_defaults=True) for agent in view.agents],
        "runners": [runner.model_dump(exclude_defaults=True) for runner in view.runners],
        "peers": [_peer(peer, mark) for peer in view.peers[:PEERS_SHOWN]],
        "more_peers": len(view.peers) > PEERS_SHOWN,
        "system_tailscale": _tailscale(view.tailscale, mark),
        "steps": [step.model_dump(exclude_defaults=True) for step in view.steps],
        "waiting": _plan(view.waiting) if view.waiting else None,
    }
    return {key: value for key, value in fields.items() if value not in _EMPTY} | _user(view.next)


def _peer(peer: SetupPeerView, mark: Fence) -> dict[str, object]:
    fields: dict[str, object] = peer.model_dump(exclude_defaults=True)
    return fields | {"name": mark.name(peer.name, "unnamed"), "trust": peer.trust}


def _tailscale(system: SystemTailscaleView | None, mark: Fence) -> Mapping[str, object] | None:
    if system is None:
        return None
    fields: dict[str, object] = system.model_dump(exclude_defaults=True)
    names = ", ".join(system.peers[:PEERS_SHOWN])
    return fields | {
        "name": mark.name(system.name, "tailscale") if system.name else "",
        "peers": mark.text(names, "tailscale", 600),
        "note": "neither used nor changed; cmesh is a node of its own beside it",
    }


def _plan(plan: PlanView) -> dict[str, object]:
    fields: dict[str, object] = {
        "plan_id": plan.plan_id,
        "step": plan.step,
        "title": plan.title,
        "state": plan.state,
        "file": plan.file,
        "diff": cut(plan.diff, DIFF_CHARACTERS),
        "effects": plan.effects,
        "widens": plan.widens,
        "expires_at": when(plan.expires_at),
        "notes": plan.notes,
    }
    return {key: value for key, value in fields.items() if value not in _EMPTY}


def _user(step: NextView) -> dict[str, object]:
    return {"user": step.user} if step.user else {}


def _next(step: NextView) -> str:
    arguments = {
        key: plain(value) if key == "peer" else value for key, value in step.arguments.items()
    }
    return call_text(step.tool, **arguments)
