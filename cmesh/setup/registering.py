"""The agents of this machine as the wizard sees them, and what registering one with cmesh changes.

Joins the wizard's values to `cmesh.setup.agents`. Blocks on the disk. The daemon has its user's
home and none of a shell's variables, so an agent with settings elsewhere is for `cmesh mcp add`.
"""

from collections.abc import Sequence
from typing import Literal

from cmesh.errors import CmeshError, UsageError
from cmesh.setup import agents
from cmesh.setup.clients import Client, client_named
from cmesh.setup.facts import AgentFact
from cmesh.setup.plan import Entry
from cmesh.setup.surroundings import Surroundings

__all__ = ["carry_out", "entries", "seen"]

State = Literal["ours", "outdated", "foreign", "missing", "unreadable"]
_STATES: dict[str, State] = {
    "current": "ours",
    "absent": "missing",
    "outdated": "outdated",
    "foreign": "foreign",
}


def seen(here: Surroundings) -> tuple[AgentFact, ...]:
    """Return the agents that are on this machine, and how cmesh stands with each."""
    return tuple(
        AgentFact(
            name=one.client.name,
            title=one.client.title,
            place=str(one.path),
            state=_STATES.get(one.standing, "unreadable"),
            note=one.detail,
        )
        for one in agents.survey(here)
        if one.here
    )


def entries(here: Surroundings, names: Sequence[str], *, add: bool) -> tuple[Entry, ...]:
    """Return what putting cmesh in, or taking it out, changes in the settings of each agent.

    Raises:
        EntryTaken: another server has our name there.
        ConfigError: settings cannot be read, or not be changed safely.
        UsageError: there is no such agent.
    """
    found: list[Entry] = []
    for name in names:
        change = _change(here, _client(name), add=add)
        if change.action != "none":
            found.append(Entry(agent=name, add=add, diff=change.diff))
    return tuple(found)


def carry_out(here: Surroundings, wanted: Sequence[Entry]) -> list[str]:
    """Change the settings as was shown; return what did not come to be, a sentence each.

    One agent that cannot be registered keeps no other from it.
    """
    notes: list[str] = []
    for entry in wanted:
        try:
            client = _client(entry.agent)
            change = _change(here, client, add=entry.add)
            if change.action == "none":
                continue
            if change.diff != entry.diff:
                notes.append(f"{client.title}: its settings have changed since; left as they are")
                continue
            agents.apply(here, change)
            notes.append(f"{client.title}: {client.restart}")
        except CmeshError as error:
            notes.append(f"{entry.agent}: {error.message}")
    return notes


def _change(here: Surroundings, client: Client, *, add: bool) -> agents.Change:
    return agents.plan_add(here, client) if add else agents.plan_remove(here, client)


def _client(name: str) -> Client:
    client = client_named(name)
    if client is None:
        raise UsageError(f"cmesh knows no agent `{name}`", hint="`cmesh mcp list` names them")
    return client
