"""What `cmesh mcp add`, `remove` and `list` do; the settings themselves are `cmesh.setup`'s."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import typer

from cmesh.errors import CmeshError, UsageError
from cmesh.interfaces.cli import output
from cmesh.nearest import did_you_mean
from cmesh.setup.agents import Change, Seen, apply, plan_add, plan_remove, survey
from cmesh.setup.clients import CLIENTS, Client, client_named
from cmesh.setup.surroundings import Surroundings, surroundings

__all__ = ["add_to_agents", "list_agents", "remove_from_agents"]

_COLUMNS = ("AGENT", "HERE", "CMESH", "SETTINGS", "DETAIL")

_SAID = {
    "absent": "not registered",
    "current": "registered",
    "outdated": "update needed",
    "foreign": "name taken",
    "unreadable": "unreadable",
}
_DONE = {"add": "added to", "update": "brought up to date in", "remove": "removed from"}
_WOULD = {
    "add": "would add to",
    "update": "would bring up to date in",
    "remove": "would remove from",
}

Plan: TypeAlias = Callable[[Surroundings, Client], Change]


_NAMES = ", ".join(one.name for one in CLIENTS)


def add_to_agents(agents: Sequence[str], *, everywhere: bool, dry_run: bool, as_json: bool) -> None:
    """Register cmesh with the agents named, or with all that are here. Blocks.

    Raises:
        CmeshError: the first failure, after all have been tried.
    """
    here = surroundings()
    chosen = _chosen(here, agents, everywhere=everywhere)
    _do(here, chosen, plan_add, dry_run=dry_run, as_json=as_json)


def remove_from_agents(
    agents: Sequence[str], *, everywhere: bool, dry_run: bool, as_json: bool
) -> None:
    """Take cmesh out of the settings of the agents named, or of all that have it. Blocks.

    Raises:
        CmeshError: the first failure, after all have been tried.
    """
    here = surroundings()
    if everywhere and not agents:
        chosen = [one.client for one in survey(here) if one.standing in {"current", "outdated"}]
    else:
        chosen = _chosen(here, agents, everywhere=everywhere)
    _do(here, chosen, plan_remove, dry_run=dry_run, as_json=as_json)


def list_agents(*, as_json: bool) -> None:
    """Print every agent that cmesh knows, and what stands in its settings. Blocks."""
    seen = survey(surroundings())
    if as_json:
        output.print_json({"agents": [_seen_json(one) for one in seen]})
        return
    rows = [
        (
            one.client.name,
            "yes" if one.here else "no",
            _SAID[one.standing],
            _short(one.path),
            one.detail,
        )
        for one in seen
    ]
    output.table(_COLUMNS, rows, may_lack=("DETAIL",))
    wanting = [
        one.client.name for one in seen if one.here and one.standing in {"absent", "outdated"}
    ]
    if wanting:
        output.hint(f"cmesh mcp add {' '.join(wanting)}")


def _short(path: Path) -> str:
    """Return a path as a person at a terminal writes it; elsewhere whole."""
    home = Path.home()
    if not sys.stdout.isatty() or not path.is_relative_to(home):
        return str(path)
    return f"~/{path.relative_to(home)}"


def _chosen(here: Surroundings, names: Sequence[str], *, everywhere: bool) -> list[Client]:
    """Return the agents that were named, or all that are here.

    Raises:
        UsageError: none was named, a name is not known, or both were asked for.
    """
    if everywhere and names:
        raise UsageError("name agents, or say `--all`")
    if not everywhere and not names:
        found = [one.client.name for one in survey(here) if one.here]
        raise UsageError(
            "name the agents, or say `--all`",
            hint=f"here: {', '.join(found)}" if found else f"cmesh knows {_NAMES}",
        )
    if everywhere:
        return [one.client for one in survey(here) if one.here]
    chosen: list[Client] = []
    for name in dict.fromkeys(names):
        client = client_named(name)
        if client is None:
            known = [one.name for one in CLIENTS]
            meant = did_you_mean(name, known)
            hint = f"{meant} else {_NAMES}" if meant else f"cmesh knows {_NAMES}"
            raise UsageError(f"cmesh knows no agent `{name}`", hint=hint)
        chosen.append(client)
    return chosen


def _do(
    here: Surroundings, clients: Sequence[Client], plan: Plan, *, dry_run: bool, as_json: bool
) -> None:
    """Plan and do it for each agent; one that fails stops no other.

    Raises:
        CmeshError: the first failure, after all have been tried.
    """
    answers: list[dict[str, object]] = []
    failures: list[CmeshError] = []
    for client in clients:
        try:
            change = plan(here, client)
            if not dry_run:
                apply(here, change)
        except CmeshError as error:
            failures.append(error)
            answers.append(_failed_json(client, error))
            if not as_json and error is not failures[0]:
                output.print_error(error, as_json=False)
            continue
        answers.append(_done_json(change, dry_run=dry_run))
        if not as_json:
            _say(change, dry_run=dry_run)
    if as_json:
        output.print_json({"dry_run": dry_run, "agents": answers})
    elif not clients:
        output.say("nothing to do: no agent is here" if plan is plan_add else "nothing to remove")
    if failures and as_json:
        raise typer.Exit(failures[0].exit_status)
    if failures:
        raise failures[0]


def _say(change: Change, *, dry_run: bool) -> None:
    client, path = change.client, change.before.path
    if change.action == "none":
        output.say(f"{client.title}: nothing to change in {path}")
    elif dry_run:
        output.say(f"{client.title}: {_WOULD[change.action]} {path}")
        output.data(change.diff)
    else:
        output.say(f"{client.title}: {_DONE[change.action]} {path}; {client.restart}")


def _seen_json(one: Seen) -> dict[str, object]:
    return {
        "agent": one.client.name,
        "title": one.client.title,
        "here": one.here,
        "program": one.program,
        "settings": str(one.path),
        "registration": one.standing,
        "detail": one.detail,
    }


def _done_json(change: Change, *, dry_run: bool) -> dict[str, object]:
    return {
        "agent": change.client.name,
        "settings": str(change.before.path),
        "action": change.action,
        "done": not dry_run and change.action != "none",
        "diff": change.diff,
    }


def _failed_json(client: Client, error: CmeshError) -> dict[str, object]:
    told = {"code": error.code, "message": error.message, "hint": error.hint}
    return {"agent": client.name, "action": "none", "done": False, "error": told}
