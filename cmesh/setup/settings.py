"""The text of an agent's settings, in whichever form it is: read, changed in one place, compared.

Pure. What is wrong with a text becomes an error that names the file, the line and the way out.
"""

import contextlib
import difflib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from cmesh.errors import ConfigError
from cmesh.setup import jsonc_edit, toml_edit
from cmesh.setup.clients import NAME, Client
from cmesh.setup.jsonc import JsoncMistake
from cmesh.setup.surroundings import Surroundings
from cmesh.setup.toml_edit import TomlUnsuited
from cmesh.tomltext import TomlMistake

__all__ = ["LINE_CHARACTERS", "difference", "drop", "explained", "parse", "put"]

LINE_CHARACTERS = 300
"""Characters of a line that a difference shows; a file on one line is cut around what changes."""


def parse(client: Client, text: str) -> dict[str, Any]:
    """Return all that the settings say."""
    return toml_edit.read(text) if client.form == "toml" else jsonc_edit.read(text)


def put(client: Client, text: str, path: tuple[str, ...], value: object) -> str:
    """Return the settings with a value at `path`, and all else as it was."""
    edit = toml_edit.put if client.form == "toml" else jsonc_edit.put
    return edit(text, path, value)


def drop(client: Client, text: str, path: tuple[str, ...]) -> str:
    """Return the settings without what is at `path`, and all else as it was."""
    edit = toml_edit.drop if client.form == "toml" else jsonc_edit.drop
    return edit(text, path)


@contextlib.contextmanager
def explained(path: Path, client: Client, here: Surroundings) -> Generator[None]:
    """Turn what the functions above raise into the one error that people see.

    Raises:
        ConfigError: the text is in no form that can be read, or that can be changed safely.
    """
    try:
        yield
    except (JsoncMistake, TomlMistake) as error:
        line = f" line {error.line}" if error.line else ""
        raise ConfigError(
            f"`{path}`{line}: {error.expected}; it is left as it is",
            hint="mend that line, then repeat",
        ) from error
    except (TomlUnsuited, TypeError) as error:
        raise ConfigError(
            f"`{path}`: {error}; it is left as it is", hint=_by_hand(client, here)
        ) from error


def difference(path: Path, before: str, after: str) -> str:
    """Return the lines that change; not those around, which may hold what is nobody's business."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), str(path), str(path), lineterm="", n=0
    )
    return "".join(f"{_cut(line)}\n" for line in lines)


def _by_hand(client: Client, here: Surroundings) -> str:
    entry = json.dumps(dict(client.entry(here)), ensure_ascii=False)
    return f"put it there by hand, as `{NAME}` of `{client.table}`: {entry}"


def _cut(line: str) -> str:
    if len(line) <= LINE_CHARACTERS:
        return line
    at = line.find(f'"{NAME}"')
    if at < 0:
        return f"{line[:LINE_CHARACTERS]} …"
    start = max(1, at - LINE_CHARACTERS // 3)
    return f"{line[0]}… {line[start : start + LINE_CHARACTERS]} …"
