"""`installed.json`: what an installation wrote on this machine, and where.

The installer, the agents' registration and the service write it; `cmesh uninstall` goes by
it, so that it takes away what was put there and nothing else. Standard library only.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from cmesh.errors import ConfigError
from cmesh.paths import replace_file

__all__ = ["FORM", "Entry", "merged", "read_installed", "record_file", "write_installed"]

FORM = 1
"""The form of the file; a newer one is refused, since half of it would be taken away."""

Entry = dict[str, object]
"""One thing that was written: `kind`, an absolute `path`, and what its kind needs.

    directory   `tree`: all of it is cmesh's; otherwise it is removed when it is empty
    link        `target`
    block       `begin` and `end`: its first and last line; `made`: the file is new;
                `newline`: a line break was put before it, for the last line had none
    file        `sha256`
"""


def record_file(data: Path) -> Path:
    """Return the record's path in cmesh's data directory."""
    return data / "installed.json"


def read_installed(data: Path) -> list[Entry]:
    """Return what is recorded; nothing when there is no record.

    Raises:
        ConfigError: the file holds something else, or is of a newer form.
    """
    path = record_file(data)
    try:
        raw: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"`{path}` cannot be read: {error}", hint=f"mv {path} {path}.old"
        ) from error
    fields = cast("dict[str, object]", raw) if isinstance(raw, dict) else {}
    entries = fields.get("entries")
    if fields.get("version") != FORM or not isinstance(entries, list):
        raise ConfigError(
            f"`{path}` is not of form {FORM}, which this version of cmesh writes",
            hint="use the version of cmesh that wrote it",
        )
    return [
        cast("Entry", entry)
        for entry in cast("list[object]", entries)
        if isinstance(entry, dict) and isinstance(cast("Entry", entry).get("path"), str)
    ]


def merged(old: Sequence[Entry], new: Sequence[Entry], gone: Sequence[str] = ()) -> list[Entry]:
    """Return the old entries with the new ones, the newer first word on a kind and path.

    What an entry says of the time before the first installation is kept from the old one:
    a file that was new then is not less new for having been there since.
    """
    entries = {(entry["kind"], entry["path"]): entry for entry in old if entry["path"] not in gone}
    for entry in new:
        key = (entry["kind"], entry["path"])
        first = entries.get(key, {})
        entries[key] = entry | {name: first[name] for name in ("made", "newline") if name in first}
    return list(entries.values())


def write_installed(data: Path, entries: Sequence[Entry], *, version: str) -> None:
    """Put a record in the place of the old one, whole or not at all; mode 0600."""
    path = record_file(data)
    text = json.dumps({"version": FORM, "cmesh": version, "entries": list(entries)}, indent=1)
    replace_file(path, f"{text}\n".encode())
