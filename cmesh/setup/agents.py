"""`cmesh mcp` in the settings of every agent: seen, planned, put in, brought up to date, taken out.

`plan_add` and `plan_remove` only read; `apply` does what a plan shows and nothing else. An agent's
own command is not used: none of them keeps the file's other bytes, and some lose what an entry
says (docs/decisions/agent-registration.md).
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from cmesh.errors import CmeshError, EntryTaken, SettingsChanged
from cmesh.setup import files
from cmesh.setup.clients import CLIENTS, NAME, Client
from cmesh.setup.entry import Standing, argv_of, needed, standing
from cmesh.setup.files import Content, digest
from cmesh.setup.registered import Registered, Registry, changing, registered
from cmesh.setup.settings import difference, drop, explained, parse, put
from cmesh.setup.surroundings import Surroundings

__all__ = ["Change", "Seen", "apply", "plan_add", "plan_remove", "survey", "undo"]

TRIES = 3
"""How often a plan is made anew, to the same effect, where an agent writes its file meanwhile."""

Action = Literal["add", "update", "remove", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One agent as it was found.

    Attributes:
        here: whether it is on this machine, by its program or its settings.
        program: as a login shell finds it; empty for none.
        path: of its settings; may not exist.
        standing: of the entry under our name; `unreadable` where the settings cannot be read.
        detail: what is in the way, or what another's entry starts.
    """

    client: Client
    here: bool
    program: str
    path: Path
    standing: Standing | Literal["unreadable"]
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What would be done to one agent's settings; a value, nothing is done yet.

    Attributes:
        before: the settings as they were read.
        after: bytes that come into their place; None = the file goes.
        diff: the lines that change, as `diff -U0` shows them; empty for none.
        was: what the record said before.
        made_table: whether the table of all servers comes with the entry.
    """

    client: Client
    action: Action
    before: Content
    after: bytes | None
    diff: str = ""
    was: Registered | None = None
    made_table: bool = False


def survey(here: Surroundings) -> tuple[Seen, ...]:
    """Return every agent this version knows, found or not. Blocks on the disk."""
    return tuple(_see(here, client) for client in CLIENTS)


def plan_add(here: Surroundings, client: Client) -> Change:
    """Return what puts our entry into an agent's settings, or brings it up to date. Blocks.

    Raises:
        EntryTaken: another server has our name there.
        ConfigError: the settings cannot be read, or not be changed safely.
    """
    before = files.read(_settings(here, client))
    was = _recorded(here, client)
    with explained(before.path, client, here):
        table = parse(client, before.text)
        entry = _entry(table, client)
        wanted = client.entry(here)
        stands = standing(entry, wanted)
        if stands == "foreign":
            raise EntryTaken(
                f"`{NAME}` in {before.path} starts something else: {_shown(entry)}",
                hint="rename or remove that entry there, then repeat",
            )
        if stands == "current":
            return Change(client=client, action="none", before=before, after=before.data, was=was)
        text = before.text
        if stands == "absent":
            text = put(client, text, (client.table, NAME), wanted)
        else:
            for name, value in needed(cast("Mapping[str, Any]", entry), wanted).items():
                text = put(client, text, (client.table, NAME, name), value)
    return Change(
        client=client,
        action="add" if stands == "absent" else "update",
        before=before,
        after=before.encoded(text),
        diff=difference(before.path, before.text, text),
        was=was,
        made_table=client.table not in table,
    )


def plan_remove(here: Surroundings, client: Client) -> Change:
    """Return what takes our entry out again: to the very bytes of before where nothing else changed.

    Another's entry under our name stays. Blocks on the disk.

    Raises:
        ConfigError: the settings cannot be read, or not be changed safely.
    """
    was = _recorded(here, client)
    before = files.read(Path(was.path) if was else _settings(here, client))
    with explained(before.path, client, here):
        entry = _entry(parse(client, before.text), client)
        if standing(entry, client.entry(here)) in {"absent", "foreign"}:
            return Change(client=client, action="none", before=before, after=before.data, was=was)
        after = _original(was, before)
        if after is _UNKNOWN:
            after = _without(client, before, was)
    text = "" if after is None else after.decode("utf-8-sig")
    return Change(
        client=client,
        action="remove",
        before=before,
        after=after,
        diff=difference(before.path, before.text, text),
        was=was,
    )


def apply(here: Surroundings, change: Change) -> Registered | None:
    """Do what a plan says; return what is recorded of it now. Blocks on the disk.

    A plan of nothing does nothing. Where the agent wrote its settings since, the plan is made
    anew, and done when it changes the same lines.

    Raises:
        SettingsChanged: the settings changed in what the plan is about.
        ConfigError: they cannot be written; nothing was changed.
        StoreBusy: another process is at it.
    """
    if change.action == "none":
        return change.was
    with changing(here.data) as registry:
        for _ in range(TRIES - 1):
            try:
                return _apply_once(here, change, registry)
            except SettingsChanged:
                change = _again(here, change)
        return _apply_once(here, change, registry)


def undo(here: Surroundings, done: Change) -> None:
    """Take back a plan that was applied: the bytes of before come back. Blocks on the disk.

    Raises:
        SettingsChanged: the settings have changed since.
        ConfigError: they cannot be written.
    """
    with changing(here.data) as registry:
        now = files.read(done.before.path)
        if now.data != done.after:
            raise SettingsChanged(
                f"`{done.before.path}` was changed since, so it stays as it is",
                hint=f"cmesh mcp {'add' if done.action == 'remove' else 'remove'} {done.client.name}",
            )
        _write(done.client, now, done.before.data)
        registry.put(done.client.name, done.was)


def _apply_once(here: Surroundings, change: Change, registry: Registry) -> Registered | None:
    was = registry.of(change.client.name)
    if change.action == "remove":
        _write(change.client, change.before, change.after)
        registry.put(change.client.name, None)
        files.remove_empty(map(Path, reversed(was.folders if was else ())))
        _forget_backup(was, None)
        return None
    backup = _back_up(here, change)
    folders = files.make_directories(change.before.real.parent)
    now = _record_of(change, was, backup, folders)
    # The record goes first: what is recorded and not there is no harm, the reverse would be.
    registry.put(change.client.name, now)
    try:
        _write(change.client, change.before, change.after)
    except CmeshError:
        registry.put(change.client.name, was)
        files.remove_empty(reversed(folders))
        raise
    _forget_backup(was, now)
    return now


def _record_of(
    change: Change, was: Registered | None, backup: str, folders: tuple[Path, ...]
) -> Registered:
    """Return the record of an entry that is in place now."""
    after = digest(change.after)
    path = str(change.before.real)
    if change.action == "add":
        return Registered(
            client=change.client.name,
            path=path,
            after=after,
            backup=backup,
            exact=True,
            made=change.before.data is None,
            made_table=change.made_table,
            folders=tuple(map(str, folders)),
        )
    if was is None or was.path != path:
        return Registered(client=change.client.name, path=path, after=after, backup=backup)
    unbroken = was.exact and was.after == digest(change.before.data)
    return Registered(
        client=was.client,
        path=path,
        after=after,
        # The way back to the first state stays, as long as all since then was ours.
        backup=was.backup if unbroken else backup,
        exact=unbroken,
        made=was.made,
        made_table=was.made_table,
        folders=was.folders,
    )


def _again(here: Surroundings, change: Change) -> Change:
    """Return the plan made anew, if it changes the same lines to the same.

    Raises:
        SettingsChanged: it does not.
    """
    plan = plan_remove if change.action == "remove" else plan_add
    fresh = plan(here, change.client)
    if fresh.action != change.action or _lines(fresh.diff) != _lines(change.diff):
        raise SettingsChanged(f"`{change.before.path}` was changed by another program meanwhile")
    return fresh


def _lines(diff: str) -> list[str]:
    return [line for line in diff.splitlines() if not line.startswith("@@")]


def _write(client: Client, before: Content, data: bytes | None) -> None:
    with files.locked(before.real) if client.locks else contextlib.nullcontext():
        if data is None:
            files.remove(before)
        else:
            files.replace(before, data)


def _back_up(here: Surroundings, change: Change) -> str:
    """Keep the settings as they are; return where. They may hold secrets, so nobody else reads it."""
    if change.before.data is None:
        return ""
    name = f"{change.client.name}-{digest(change.before.data)[:16]}"
    return str(files.keep(here.data / "backups", name, change.before.data))


def _forget_backup(was: Registered | None, now: Registered | None) -> None:
    if was and was.backup and (now is None or was.backup != now.backup):
        Path(was.backup).unlink(missing_ok=True)
        files.remove_empty([Path(was.backup).parent])


_UNKNOWN = b"\0"


def _original(was: Registered | None, before: Content) -> bytes | None:
    """Return the bytes from before our entry, None = there was no file; `_UNKNOWN` if not known.

    They count only while nobody has written the file but us.
    """
    if was is None or not was.exact or was.after != digest(before.data):
        return _UNKNOWN
    if was.made:
        return None
    try:
        return Path(was.backup).read_bytes() if was.backup else _UNKNOWN
    except OSError:
        return _UNKNOWN


def _without(client: Client, before: Content, was: Registered | None) -> bytes | None:
    """Return the settings without our entry, and without what came with it and is empty now."""
    text = drop(client, before.text, (client.table, NAME))
    table = parse(client, text)
    if was and was.made_table and table.get(client.table) == {}:
        text = drop(client, text, (client.table,))
    if was and was.made and not parse(client, text):
        return None
    return before.encoded(text)


def _see(here: Surroundings, client: Client) -> Seen:
    path = _settings(here, client)
    found = [here.find(name) for name in client.programs]
    program = next((one for one in found if one), "")
    signs = any(os.path.lexists(one) for one in client.signs(here))
    stands: Standing | Literal["unreadable"] = "unreadable"
    detail = ""
    try:
        content = files.read(path)
        with explained(path, client, here):
            entry = _entry(parse(client, content.text), client)
            stands = standing(entry, client.entry(here))
        if stands in {"foreign", "outdated"}:
            detail = _shown(entry)
    except CmeshError as error:
        detail = error.message
    return Seen(
        client=client,
        here=bool(program) or signs,
        program=program,
        path=path,
        standing=stands,
        detail=detail,
    )


def _settings(here: Surroundings, client: Client) -> Path:
    """Return the settings file that counts: the first that exists, else the first."""
    names = client.files(here)
    return next((one for one in names if os.path.lexists(one)), names[0])


def _recorded(here: Surroundings, client: Client) -> Registered | None:
    return next((one for one in registered(here.data) if one.client == client.name), None)


def _entry(table: Mapping[str, Any], client: Client) -> object:
    servers = table.get(client.table)
    if servers is None:
        return None
    if not isinstance(servers, dict):
        raise TypeError(f"`{client.table}` is no table of servers")
    return cast("dict[str, object]", servers).get(NAME)


def _shown(entry: object) -> str:
    return " ".join(argv_of(entry)) or "no command"
