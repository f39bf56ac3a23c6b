"""Judges the entry that stands under our name in an agent's settings. Pure.

Three answers: it is ours and as it should be, ours and of an older cmesh, or somebody else's.
What its owner added to ours stays: only what we need is compared and set.
"""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal, cast

__all__ = ["Standing", "argv_of", "is_ours", "needed", "standing"]

Standing = Literal["absent", "current", "outdated", "foreign"]

_OWN_PROGRAMS = ("cmesh", "cmesh.exe", "cmesh.cmd")
_ENV_NAMES = ("env", "environment")
_LIMITS = frozenset({"timeout", "startup_timeout_sec", "tool_timeout_sec", "required", "enabled"})
"""Fields that an owner may set as he likes once they are there."""


def argv_of(entry: object) -> tuple[str, ...]:
    """Return program and arguments of an entry in any agent's form; empty = it has none."""
    if not isinstance(entry, Mapping):
        return ()
    fields = cast("Mapping[str, object]", entry)
    command = fields.get("command")
    args = fields.get("args")
    words = list(cast("list[object]", command)) if isinstance(command, list) else [command]
    words += cast("list[object]", args) if isinstance(args, list) else []
    found = tuple(word for word in words if isinstance(word, str))
    return found if len(found) == len(words) else ()


def is_ours(entry: object) -> bool:
    """Say whether an entry starts cmesh's relay, however: by a path, `python -m`, or a launcher."""
    argv = argv_of(entry)
    if len(argv) < 2 or argv[-1] != "mcp":
        return False
    return PurePath(argv[-2].replace("\\", "/")).name in _OWN_PROGRAMS


def standing(entry: object, wanted: Mapping[str, Any]) -> Standing:
    """Return what an entry is, None being none at all."""
    if entry is None:
        return "absent"
    if not is_ours(entry):
        return "foreign"
    return "outdated" if needed(cast("Mapping[str, Any]", entry), wanted) else "current"


def needed(entry: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have to be set for an entry of ours to be as it should."""
    changes: dict[str, Any] = {}
    for name, value in wanted.items():
        there = entry.get(name)
        if name in _LIMITS and there is not None:
            continue
        if isinstance(value, Mapping):
            own, kept = _mapping(cast("object", value)), _mapping(there)
            if there is None or any(kept.get(key) != one for key, one in own.items()):
                changes[name] = {**kept, **own}
        elif there != value:
            changes[name] = value
    for name in _ENV_NAMES:
        env = _mapping(changes.get(name, entry.get(name)))
        own = _mapping(wanted.get(name))
        # What led to another daemon's directories must not stay.
        kept = {key: one for key, one in env.items() if key in own or not key.startswith("CMESH_")}
        if len(kept) < len(env):
            changes[name] = kept
    return changes


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
