"""What `cmesh uninstall` does: asks, stops what runs, and takes each part away."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmesh.errors import CmeshError, TaskUnfinished, UsageError
from cmesh.interfaces import leaving, screens
from cmesh.interfaces.cli import output
from cmesh.paths import config_dir, config_file, data_dir, state_dir
from cmesh.setup.agents import Change, apply, plan_remove
from cmesh.setup.belongings import other_daemons
from cmesh.setup.clients import CLIENTS
from cmesh.setup.surroundings import surroundings
from cmesh.setup.uninstall import Item, Places, back_up, inventory, take_away, tidy

__all__ = ["uninstall_cmesh"]

SHOWN = 16
"""Paths of a part that its question shows; `--dry-run` shows all."""

ASKED = 3
"""How often a question is put to who answers neither yes nor no."""


def uninstall_cmesh(
    named: Mapping[str, bool], *, dry_run: bool, backup: str, end_tasks: bool, as_json: bool
) -> None:
    """Do it; `named` says of each item whether it goes without being asked for. Blocks.

    Raises:
        TaskUnfinished: tasks of others are here, and `end_tasks` is off.
        UsageError: what was named does not go together, or a person said no.
        CmeshError: a step failed; what was before it is done.
    """
    places = Places(config=config_dir(), state=state_dir(), data=data_dir())
    agents = _plan_agents()
    items = inventory(places)
    users = _users(items, places) + [
        f"{screen.title} is open, and is ended with what goes"
        for screen in screens.opened(places.state)
    ]
    if dry_run:
        _show(agents, items, users, as_json=as_json)
        return
    asking = not as_json and not any(named.values()) and sys.stdin.isatty() and sys.stderr.isatty()
    tasks = asyncio.run(leaving.running_tasks(places.state))
    if tasks and not end_tasks:
        raise TaskUnfinished(
            f"{tasks} task{'s' if tasks > 1 else ''} of others run or wait here",
            hint="`cmesh tasks` shows them; wait, or add --end-tasks",
        )
    if named["program"] or asking:
        for line in users:
            output.say(f"warning: {line}")
    if asking and not _agreed(f"Uninstall cmesh{_out_of(agents)}?", default=True):
        raise UsageError("not uninstalled", hint="nothing was changed")
    chosen = [one for one in items if named[one.name] or (asking and _asked(one))]
    left = {one.name for one in items} - {one.name for one in chosen}
    if "service" in left and "program" not in left and "program" in {one.name for one in items}:
        raise UsageError(
            "the service manager would go on starting a program that is gone",
            hint="take its unit away too: --yes-service",
        )
    _leave(agents, chosen, places, backup=backup, as_json=as_json)


def _users(items: Sequence[Item], places: Places) -> list[str]:
    """Say which daemons of other state directories run from the program that may go."""
    if not any(one.name == "program" for one in items):
        return []
    return [
        f"process {one.pid} is a daemon of {one.state or 'another state directory'} and runs from"
        " this program: it would not start again"
        for one in other_daemons(places.data / "versions", places.state)
    ]


def _plan_agents() -> list[Change]:
    """Return what takes cmesh out of each agent's settings; one that cannot be read is said."""
    here = surroundings()
    found: list[Change] = []
    for client in CLIENTS:
        try:
            change = plan_remove(here, client)
        except CmeshError as error:
            output.print_error(error, as_json=False)
            continue
        if change.action == "remove":
            found.append(change)
    return found


def _leave(
    agents: Sequence[Change], chosen: Sequence[Item], places: Places, *, backup: str, as_json: bool
) -> None:
    if chosen and places.state.is_dir():
        _end_screens(places.state)
        asyncio.run(_quiet(places.state))
    if backup:
        _keep_copy(Path(backup).absolute(), places)
    here = surroundings()
    for change in agents:
        apply(here, change)
        output.say(f"{change.client.title}: removed from {change.before.path}")
    notes: list[str] = []
    if any(places.state / "node" in one.paths for one in chosen if one.name == "identity"):
        # Where it logs in stands in the configuration, so that goes later.
        note = asyncio.run(leaving.log_out(places.state, config_file()))
        notes += [note] if note else []
    # As it is now: stopping the daemon, and taking entries out, has changed what is there.
    names = {one.name for one in chosen}
    if "service" in names:
        leaving.remove_service(places.state, output.say)
    gone = [one for one in inventory(places) if one.name in names]
    for item in gone:
        notes += take_away(item, places)
    tidy(places)
    kept = inventory(places)
    if as_json:
        answer = {"removed": [one.name for one in chosen], "kept": [one.name for one in kept]}
        names_of = [change.client.name for change in agents]
        output.print_json({"agents": names_of, **answer, "notes": notes})
        return
    for line in (
        *(f"removed {one.title}" for one in chosen),
        *(f"note: {note}" for note in notes),
        *(f"kept {one.title}" for one in kept),
    ):
        output.say(line)
    if not any(one.name == "program" for one in (*gone, *kept)):
        output.say(f"the program was not put here by the installer: it is in {sys.prefix}")


def _keep_copy(target: Path, places: Places) -> None:
    store = next((one for one in inventory(places) if one.name == "store"), None)
    if store is None:
        raise UsageError("there is no store to keep a copy of")
    output.say(f"the store is in {target}, {back_up(store, target)} bytes")


def _end_screens(state: Path) -> None:
    """End what is open of this state directory; one that lost its daemon would start it again."""
    for screen in screens.opened(state):
        screens.end(screen)
        output.say(f"ended {screen.title}")


async def _quiet(state: Path) -> None:
    """Stop what works here: the tasks, which the person has given up, then the daemon."""
    if await leaving.running_tasks(state):
        await leaving.end_tasks(state)
    await leaving.stop_daemon(state)


def _out_of(agents: Sequence[Change]) -> str:
    names = ", ".join(one.client.title for one in agents)
    return f", and take it out of {names}" if names else ""


def _asked(item: Item) -> bool:
    """Ask a person for one part; a mere return means no."""
    note = f" ({item.note})" if item.note else ""
    lines = item.lines
    more = [f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    for line in (*lines[:SHOWN], *more):
        output.say(f"  {line}")
    return _agreed(f"Delete {item.title}?{note}", default=False)


def _agreed(question: str, *, default: bool) -> bool:
    # Not typer.confirm: it writes a blank to stdout, which belongs to the data.
    for _ in range(ASKED):
        sys.stderr.write(f"{question} [{'Y/n' if default else 'y/N'}] ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            break
        word = line.strip().lower()
        if word in _WORDS or not word:
            return _WORDS.get(word, default)
        output.say("answer y or n")
    raise UsageError("there was no answer", hint="nothing was changed; cmesh uninstall")


_WORDS = {"y": True, "yes": True, "n": False, "no": False}


def _show(
    agents: Sequence[Change], items: Sequence[Item], users: Sequence[str], *, as_json: bool
) -> None:
    if as_json:
        output.print_json(
            {
                "agents": [
                    {"agent": one.client.name, "settings": str(one.before.path), "diff": one.diff}
                    for one in agents
                ],
                "items": [
                    {
                        "name": one.name,
                        "title": one.title,
                        "paths": [str(path) for path in one.paths],
                        "goes": one.lines,
                        "note": one.note,
                    }
                    for one in items
                ],
                "warnings": users,
            }
        )
        return
    for change in agents:
        output.say(f"{change.client.title}: would remove from {change.before.path}")
        output.data(change.diff)
    for item in items:
        output.say(f"--yes-{item.name}: {item.title}")
        output.data("".join(f"  {line}\n" for line in item.lines))
        if item.note:
            output.say(f"note: {item.note}")
    for line in users:
        output.say(f"warning: {line}")
    output.say("nothing was changed")
