"""Which files of a directory are cmesh's, and who else runs from an installation.

A variable may name any directory as cmesh's. One that holds the home is never emptied, and of one
that holds other things too, only what cmesh makes there is taken.
"""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cmesh.errors import UsageError
from cmesh.paths import CONFIG_DIR_VARIABLE, STATE_DIR_VARIABLE
from cmesh.tomltext import TomlMistake, read_table

__all__ = ["OtherDaemon", "Sorted", "other_daemons", "sorted_config", "sorted_state"]

_STATE = frozenset({
    "cli.log", "control.sock", "dashboard.html", "daemon.log", "daemon.log.1", "down", "key", "launch.json",
    "livetest", "logins", "machines.json", "machines.unread", "node", "node.log", "node.log.1",
    "node_id", "opening.lock", "pairings.json", "replace.lock", "replacing", "screens", "selftest",
    "selftests.json",
    "service.json", "sessions", "setup", "start.lock", "store", "store.restored", "store.restoring", "tasks",
})  # fmt: skip
_MARKS = frozenset({"launch.json", "start.lock"})
"""A daemon leaves these where it ran; a folder `tasks` alone says nothing."""

_RANDOM = re.compile(r"\.[0-9a-f]{8}$")
"""What `replace_file` adds to a name while it writes."""

_CONFIG = frozenset({"config.toml", "runners"})


@dataclass(frozen=True, slots=True)
class Sorted:
    """What is in a directory: cmesh's, and what somebody else put there."""

    directory: Path
    own: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()

    @property
    def note(self) -> str:
        """Say what stays; empty when all of it is cmesh's."""
        if not self.others:
            return ""
        names = ", ".join(one.name for one in self.others[:3])
        more = f" and {len(self.others) - 3} more" if len(self.others) > 3 else ""
        return f"what is not cmesh's stays in {self.directory}: {names}{more}"


@dataclass(frozen=True, slots=True)
class OtherDaemon:
    """A daemon of another state directory; `state` is empty where that cannot be read."""

    pid: int
    state: str


def sorted_state(state: Path) -> Sorted:
    """Sort a state directory. Blocks on the disk.

    Raises:
        UsageError: it is the home, or holds it.
    """
    inside = _inside(state, STATE_DIR_VARIABLE)
    own = tuple(one for one in inside if _is_state(one.name))
    others = tuple(one for one in inside if one not in own)
    if others and not _MARKS & {one.name for one in own}:
        return Sorted(state, others=tuple(inside))
    return Sorted(state, own, others)


def sorted_config(config: Path) -> Sorted:
    """Sort a directory of `config.toml`; the keys that it names go with it. Blocks on the disk.

    Raises:
        UsageError: it is the home, or holds it.
    """
    inside = _inside(config, CONFIG_DIR_VARIABLE)
    keys = _keys(config) if inside else frozenset[Path]()
    own = tuple(
        one
        for one in inside
        if _plain(one.name) in _CONFIG or one.name.endswith(".key") or one in keys
    )
    return Sorted(config, own, tuple(one for one in inside if one not in own))


def other_daemons(versions: Path, state: Path) -> tuple[OtherDaemon, ...]:
    """Return the daemons that run from an environment in `versions`, but that of `state`.

    Blocks on /proc; without one there are none to be seen.
    """
    found: list[OtherDaemon] = []
    for process in sorted(Path("/proc").glob("[0-9]*")):
        words, place = list[bytes](), b""
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            place = _variable((process / "environ").read_bytes(), STATE_DIR_VARIABLE)
        if not words or not words[0].startswith(f"{versions}/".encode()) or b"daemon" not in words:
            continue
        if place != str(state).encode():
            found.append(OtherDaemon(int(process.name), place.decode(errors="replace")))
    return tuple(found)


def _inside(directory: Path, variable: str) -> list[Path]:
    if not directory.is_dir():
        return []
    # INVARIANT: whatever a variable says, a home is not taken for a directory of cmesh's.
    if Path.home().resolve().is_relative_to(directory.resolve()):
        raise UsageError(
            f"{variable} names `{directory}`, which is your home or holds it; nothing was deleted",
            hint=f"env -u {variable} cmesh uninstall --dry-run",
        )
    return sorted(directory.iterdir())


def _keys(config: Path) -> frozenset[Path]:
    """Return the files of keys that `config.toml` names; none where it cannot be read."""
    try:
        table = read_table((config / "config.toml").read_text("utf-8"))
    except (OSError, UnicodeDecodeError, TomlMistake):
        return frozenset()
    runners = table.get("runners")
    tables = list(cast("dict[str, object]", runners).values()) if isinstance(runners, dict) else []
    found: list[Path] = []
    for one in (table.get("node"), *tables):
        fields = cast("dict[str, object]", one) if isinstance(one, dict) else {}
        names = (fields.get("auth_key_file"), fields.get("key_file"))
        found += [config / Path(name).expanduser() for name in names if isinstance(name, str)]
    return frozenset(found)


def _is_state(name: str) -> bool:
    kept = name.startswith("store.replaced-")
    return kept or _plain(name) in _STATE or name.endswith("-task.xml")


def _plain(name: str) -> str:
    """Return the name of what a half-written file was to become."""
    if not name.endswith(".new"):
        return name
    stem = _RANDOM.sub("", name.removeprefix(".").removesuffix(".new"))
    return next((own for own in (*_STATE, *_CONFIG) if stem in (own, own.partition(".")[0])), name)


def _variable(environment: bytes, name: str) -> bytes:
    start = f"{name}=".encode()
    lines = environment.split(b"\0")
    return next((one.removeprefix(start) for one in lines if one.startswith(start)), b"")
