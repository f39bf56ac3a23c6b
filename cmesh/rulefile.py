"""Rules put into a `config.toml` that a person has written, and taken out again, letter by letter.

Comments, order, line ends and mode stay. What the file would say is read before it takes the
place of what it says; a change that cannot be made leaves it as it is.
"""

import contextlib
import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cmesh.config import ConfigFileError, load_config
from cmesh.errors import ConfigError
from cmesh.paths import sync
from cmesh.tomltext import TomlMistake, read_table

__all__ = ["rewrite", "rule_text", "with_rules", "without_rule"]

_RETRIES = 3
"""How often a change is made anew because somebody else has written the file meanwhile."""


def rule_text(direction: str, comment: str, fields: Mapping[str, object]) -> str:
    """Return the lines of an allow rule; values are texts, numbers, lists and tables of those."""
    lines = [f"{key} = {_literal(value)}" for key, value in fields.items()]
    return "\n".join([f"# {comment}", f"[[{direction}.allow]]", *lines, ""])


def with_rules(text: str, rules: Sequence[str]) -> str:
    """Return a file's text with rules at its end.

    Raises:
        ConfigError: they cannot be added without a change of what stands there.
    """
    after = text
    for rule in rules:
        if after:
            after += "\n" if after.endswith("\n") else "\n\n"
        after += rule
    ends = "\r\n" if "\r\n" in text else "\n"
    wanted = copy.deepcopy(_table(text))
    for rule in rules:
        for direction, effects in _table(rule).items():
            listed = wanted.setdefault(direction, {}).setdefault("allow", [])
            listed.extend(effects["allow"])
    if ends != "\n":
        after = text + after[len(text) :].replace("\n", ends)
    try:
        # INVARIANT: what a person wrote means after it what it meant before.
        if read_table(after) == wanted:
            return after
    except TomlMistake:
        pass
    raise ConfigError(
        "the rules in config.toml have a form that cannot be added to (`allow = [...]`)",
        hint="write them as [[inbound.allow]] and [[outbound.allow]], then repeat",
    )


def without_rule(text: str, rule: str) -> str | None:
    """Return a file's text without a rule; None = it does not stand there so, once."""
    for block in (rule, rule.replace("\n", "\r\n")):
        if text.count(block) == 1:
            head, _, tail = text.partition(block)
            ends = "\r\n" if "\r\n" in block else "\n"
            if head.endswith(ends * 2) or head == ends:
                head = head.removesuffix(ends)
            return head + tail
    return None


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    """Put what `change` makes of a configuration's text in its place, whole or not at all.

    Blocks on the disk. The file keeps its mode. Whoever writes it at the same time is not
    overwritten: the change is made of what they wrote.

    Raises:
        ConfigError: the file, or what it would be, cannot be used; nothing was written.
    """
    for _ in range(_RETRIES):
        load_config(path)  # others may not write it, and what stands there is right
        try:
            before = path.read_bytes()
            after = change(before.decode()).encode()
            if after == before:
                return
            mode = path.stat().st_mode & 0o777
            if _replaced(path, before, after, mode):
                return
        except OSError as error:
            raise ConfigError(
                f"`{path}` cannot be written: {error.strerror or error}",
                hint="make it writable for you, then repeat",
            ) from error
    raise ConfigError(f"`{path}` is being written by somebody else", hint="repeat it")


def _replaced(path: Path, before: bytes, after: bytes, mode: int) -> bool:
    """Write beside, read it as a configuration, and rename; False = the file has changed."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(after)
            file.flush()
            os.fsync(fd)
        try:
            load_config(fresh)
        except ConfigFileError as error:
            where = f"`{error.key}`: " if error.key else ""
            raise ConfigError(
                f"with the change config.toml could not be used: {where}{error.expected}", hint=""
            ) from None
        if path.read_bytes() != before:
            return False
        fresh.replace(path)
        sync(path.parent)
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()


def _table(text: str) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", read_table(text))
    except TomlMistake as mistake:
        raise ConfigError(f"config.toml: {mistake.expected}") from None


def _literal(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value).items()
        return "{ " + ", ".join(f"{key} = {_literal(item)}" for key, item in pairs) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_literal(item) for item in cast("list[object]", value)) + "]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
