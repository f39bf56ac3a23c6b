"""What cmesh has on this machine, in the parts that a person keeps or gives away one by one.

`inventory` only looks. `take_away` deletes the paths of one item and nothing beside them; what
is in `installed.json` goes back to how it was, byte for byte, unless somebody changed it since.
What is cmesh's in a directory is `belongings`' to say.
"""

import contextlib
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cmesh.errors import ConfigError, UsageError
from cmesh.setup import files
from cmesh.setup.belongings import sorted_config, sorted_state
from cmesh.setup.installed import Entry, read_installed, record_file
from cmesh.setup.service.kept import read_kept
from cmesh.setup.shells import removed

__all__ = ["Item", "Name", "Places", "back_up", "inventory", "take_away", "tidy"]

Name = Literal["service", "config", "logins", "identity", "store", "program"]

_IDENTITY = ("node", "key")
_LOGINS = ("logins",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The directories of one cmesh; `data` has the record and what the installer put there."""

    config: Path
    state: Path
    data: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A part that is there.

    Attributes:
        title: what it is, for the question.
        paths: files and trees that go.
        entries: of the record, that are taken back; of `program` only.
        note: what a person should know before the answer.
    """

    name: Name
    title: str
    paths: tuple[Path, ...]
    entries: tuple[Entry, ...] = ()
    note: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """Each path that is there, and how much of it goes where that is not all. Looks at the disk."""
        nothing: Entry = {}
        told = self.entries or (nothing,) * len(self.paths)
        return tuple(
            f"{path}{_extent(entry)}"
            for path, entry in zip(self.paths, told, strict=True)
            if path.is_symlink() or path.exists()
        )


def inventory(places: Places) -> tuple[Item, ...]:
    """Return the items that are there, in the order in which they go. Blocks on the disk.

    The program that does it is the last.

    Raises:
        ConfigError: the record cannot be read.
        UsageError: a directory of cmesh's is the home, or holds it.
    """
    state = sorted_state(places.state)
    inside = state.own
    identity = tuple(one for one in inside if one.name in _IDENTITY)
    logins = tuple(one for one in inside if one.name in _LOGINS)
    rest = tuple(one for one in inside if one not in (*identity, *logins))
    linked = places.config.is_symlink()
    config = sorted_config(places.config)
    kept = read_kept(places.state)
    unit = Path(kept.file) if kept else None
    entries = tuple(
        one
        for one in read_installed(places.data)
        if one.get("kind") != "mcp" and (unit is None or one["path"] != str(unit))
    )
    found = [
        Item(
            name="service",
            title="the unit of the service manager that keeps the daemon",
            paths=(unit,) if unit else (),
        ),
        Item(
            name="config",
            title="the configuration and its rules",
            paths=(places.config,) if linked else config.own,
            note="a link; what it leads to stays" if linked else config.note,
        ),
        Item(name="logins", title="the API keys that cmesh keeps for runners", paths=logins),
        Item(
            name="identity",
            title="this machine's node on the tailnet and its cmesh key",
            paths=identity,
            note="it is logged out first; peers that trust the key have to trust a new one",
        ),
        Item(
            name="store",
            title="the store: every task, its outputs, and the audit log",
            paths=rest,
            note="; ".join(
                filter(None, ("it cannot be had back; --backup FILE keeps a copy", state.note))
            ),
        ),
        Item(
            name="program",
            title="the program, its link and the lines in your shells' files",
            paths=tuple(Path(str(one["path"])) for one in entries),
            entries=entries,
        ),
    ]
    return tuple(one for one in found if one.paths)


def take_away(item: Item, places: Places) -> tuple[str, ...]:
    """Delete one item; return what was left as it is, and why. Blocks on the disk.

    A unit is its manager's to take away, so `service` is not for here.

    Raises:
        ConfigError: something cannot be deleted; what was before it is gone.
    """
    if item.name == "service":
        raise ValueError("a unit is taken away through its manager")
    if item.name == "program":
        return _take_back(item.entries, places)
    for path in item.paths:
        _delete(path)
    directory = places.config if item.name == "config" else places.state
    if directory.is_symlink():
        return ()
    files.remove_empty([directory])
    left = sorted_config(directory) if item.name == "config" else sorted_state(directory)
    return (left.note,) if left.note and item.name in ("config", "store") else ()


def tidy(places: Places) -> None:
    """Delete what only served the record, once there is none. Blocks on the disk."""
    if record_file(places.data).exists():
        return
    _delete(places.data / "installed.lock")
    files.remove_empty([places.data / "backups", places.data])


def back_up(item: Item, target: Path) -> int:
    """Write an item's files to a new `tar.gz` of mode 0600; return its bytes. Blocks on the disk.

    Raises:
        UsageError: the target is there already, or inside of what goes.
        ConfigError: it cannot be written; nothing is left of it.
    """
    inside = [one for one in item.paths if target.resolve().is_relative_to(one.parent.resolve())]
    if inside:
        raise UsageError(f"`{target}` is inside of what goes", hint="name a file elsewhere")
    try:
        with (
            open(target, "xb", opener=files.private) as raw,
            tarfile.open(fileobj=raw, mode="w:gz") as tar,
        ):
            for path in item.paths:
                if not path.is_socket():
                    tar.add(path, arcname=f"cmesh/{path.name}")
        return target.stat().st_size
    except FileExistsError as error:
        raise UsageError(f"`{target}` is there already", hint="name another file") from error
    except OSError as error:
        target.unlink(missing_ok=True)
        raise ConfigError(f"`{target}` cannot be written: {error.strerror}") from error


def _extent(entry: Entry) -> str:
    kind = entry.get("kind")
    if kind == "block":
        return "  (the lines of cmesh's alone)"
    if kind == "directory" and not entry.get("tree"):
        return "  (only if nothing is in it then)"
    if kind in ("file", "service"):
        return "  (only if nobody changed it)"
    return "  (the link alone)" if kind == "link" else ""


def _take_back(entries: Sequence[Entry], places: Places) -> tuple[str, ...]:
    left: list[str] = []
    for entry in entries:
        path = Path(str(entry["path"]))
        if entry["kind"] == "block":
            left += _take_out_block(entry, path)
        elif entry["kind"] == "link":
            if path.is_symlink() and str(path.readlink()) == entry.get("target"):
                _delete(path)
            elif path.is_symlink() or path.exists():
                left.append(f"{path} leads elsewhere by now")
        elif entry["kind"] in ("file", "service"):
            left += _take_file(entry, path)
        elif entry.get("tree"):
            left += _take_tree(path, places)
    _delete(record_file(places.data))
    _delete(places.data / "installed.lock")
    folders = [Path(str(one["path"])) for one in entries if one["kind"] == "directory"]
    own = [places.data / "backups", places.data / "versions", places.data]
    files.remove_empty(sorted({*own, *folders}, key=lambda one: -len(one.parts)))
    return tuple(left)


def _take_tree(path: Path, places: Places) -> Iterable[str]:
    """Delete an environment, which is right in `versions`; the record alone grants nothing."""
    if path.parent != places.data / "versions" or path.name in ("", ".."):
        return [f"{path} is no environment of the installer's, so it stays"]
    if path.parent.is_symlink():
        return [f"{path.parent} leads elsewhere by now"]
    _delete(path)
    return []


def _take_out_block(entry: Entry, path: Path) -> Iterable[str]:
    """Take our lines out of a shell's file; one that was made for them goes if nothing is left."""
    try:
        before = files.read(path)
    except ConfigError as error:
        return [f"{error.message}; take the lines between the marks out of it"]
    if before.data is None:
        return []
    after = removed(before.data, newline=bool(entry.get("newline")))
    if after == before.data:
        return []
    if not after and entry.get("made"):
        files.remove(before)
    else:
        files.replace(before, after)
    return []


def _take_file(entry: Entry, path: Path) -> Iterable[str]:
    with contextlib.suppress(OSError):
        if files.digest(path.read_bytes()) != entry.get("sha256"):
            return [f"{path} was changed since, so it stays"]
        _delete(path)
    return []


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"`{error.filename or path}` cannot be deleted: {error.strerror}",
            hint=f"ls -ld {path}; then repeat, what is gone is gone",
        ) from error
