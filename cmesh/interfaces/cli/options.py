"""Options and arguments that several commands share, and the parsing of their texts.

Completions ask a running daemon only, for a short time, and never start one.
"""

import asyncio
import json
import re
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

import typer

from cmesh.daemon.arguments import TasksArguments
from cmesh.errors import CmeshError, UsageError
from cmesh.interfaces.client import ControlClient
from cmesh.paths import control_socket, state_dir
from cmesh.protocol.answer import SCHEMA_BYTES
from cmesh.text import one_line

__all__ = [
    "CostOption",
    "JsonOption",
    "OneTaskArgument",
    "PeerArgument",
    "ProfileOption",
    "RunnerOption",
    "StartWithinOption",
    "TaskArgument",
    "TokensOption",
    "TurnsOption",
    "WaitOption",
    "WhereOption",
    "accept_argv",
    "complete_peer",
    "complete_runner",
    "count",
    "from_here",
    "seconds",
]

COMPLETION_LIMIT_S = 0.5

_DURATION = re.compile(r"(\d{1,6})([smhd]?)")
_COUNT = re.compile(r"(\d{1,12}|\d{1,3}(?:[,_]\d{3}){1,4})(\.\d{1,9})?([kKmM]?)")
_POWERS = {"": 0, "k": 3, "m": 6}
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str) -> int:
    """Return the seconds of `90`, `90s`, `15m`, `2h` or `1d`.

    Raises:
        UsageError: the text has another form.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UsageError(f"`{text}` is no duration", hint="write 90, 90s, 15m or 2h")
    return int(found[1]) * _UNIT_S[found[2]]


def count(text: str) -> int:
    """Return the whole number of `500`, `10k`, `2.5k` or `2M`: k is 1,000, M 1,000,000.

    Raises:
        UsageError: the text has another form.
    """
    found = _COUNT.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"`{one_line(text, 40)}` is no number", hint="write 500, 10k or 2M")
    whole, part = found[1].replace("_", "").replace(",", ""), (found[2] or "").lstrip(".")
    power = _POWERS[found[3].lower()]
    if len(part.rstrip("0")) > power:
        raise UsageError(f"`{one_line(text, 40)}` is no whole number", hint="write 500, 10k or 2M")
    return int(whole + part.ljust(power, "0")[:power])


def accept_argv(text: str) -> list[str]:
    """Return the argv of an acceptance command; no shell will see it.

    Raises:
        UsageError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"the acceptance command cannot be split: {error}") from error


_READ_MOST = 16 * SCHEMA_BYTES
"""Characters of a schema's file: blanks do not count for its size."""


def read_schema(name: str) -> dict[str, Any]:
    """Return the JSON object in a file, or on standard input for `-`; empty for no name.

    Raises:
        UsageError: it cannot be read, or is no JSON object.
    """
    if not name:
        return {}
    try:
        text = sys.stdin.read(_READ_MOST) if name == "-" else _beginning(name)
        value: object = json.loads(text)
    except OSError as error:
        raise UsageError(f"`{name}` cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"`{name}` is no JSON Schema: {error}") from error
    if not isinstance(value, dict) or not value:
        raise UsageError(f"`{name}` is no JSON Schema: it holds no object, or an empty one")
    return cast("dict[str, Any]", value)


def _beginning(name: str) -> str:
    with Path(name).open(encoding="utf-8") as file:
        return file.read(_READ_MOST)


def complete_peer(incomplete: str) -> list[str]:
    """Return the peers whose names begin so."""

    async def names(client: ControlClient) -> list[str]:
        return [peer.name for peer in (await client.list_peers()).peers]

    return _matching(names, incomplete)


def _complete_task(incomplete: str) -> list[str]:
    async def ids(client: ControlClient) -> list[str]:
        return [task.task_id for task in (await client.list_tasks(TasksArguments())).tasks]

    return _matching(ids, incomplete)


def complete_runner(incomplete: str) -> list[str]:
    """Return the runners of this machine that begin so."""

    async def names(client: ControlClient) -> list[str]:
        view = await client.status()
        return [*view.runners, *view.runners_down]

    return _matching(names, incomplete)


def _matching(ask: Callable[[ControlClient], Awaitable[list[str]]], incomplete: str) -> list[str]:
    async def asked() -> list[str]:
        async with (
            asyncio.timeout(COMPLETION_LIMIT_S),
            ControlClient(control_socket(state_dir())) as client,
        ):
            return await ask(client)

    try:
        return [word for word in asyncio.run(asked()) if word.startswith(incomplete)]
    except (CmeshError, TimeoutError):
        return []


JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, errors too.")
]
WaitOption: TypeAlias = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait for the end, or print the id only.")
]
StartWithinOption: TypeAlias = Annotated[
    str,
    typer.Option(metavar="TIME", help="It expires unless started by then; 1h, with queue 1d."),
]
TurnsOption: TypeAlias = Annotated[
    str,
    typer.Option("--max-turns", metavar="NUMBER", help="Answers of its model; 0 = no limit."),
]
TokensOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--max-tokens",
        metavar="NUMBER",
        help="Tokens it reads and writes, such as 50000 or 50k; 0 = no limit.",
    ),
]
CostOption: TypeAlias = Annotated[
    float, typer.Option("--max-cost", metavar="USD", min=0, help="US dollars; 0 = no limit.")
]
PeerArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="PEER", help="Name or node id, see `cmesh peers`.", autocompletion=complete_peer
    ),
]
WhereOption: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Instead of a peer: what its machine must be like, such as os=linux, docker, "
        "'memory>=16G'; repeat for more.",
    ),
]
TaskArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Task id, or its unique beginning; also a group, `g-…`.",
        autocompletion=_complete_task,
    ),
]
OneTaskArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Task id, or its unique beginning.", autocompletion=_complete_task
    ),
]
SchemaOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--answer-schema",
        metavar="FILE",
        help="JSON Schema of the one JSON object it must answer with; `-` = standard input.",
    ),
]
ProfileOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--profile",
        help="What it may do: query (read), edit (a copy; a patch comes back), build, or full.",
    ),
]
RunnerOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--runner",
        help="Runner of the worker, see `cmesh peers`: an agent such as claude, or command:NAME.",
    ),
]


def from_here(path: str) -> str:
    """Return a path as it is meant at this terminal: from the directory that one stands in.

    Empty stays so, and so does what begins with `~`. In a directory that was deleted nothing can be
    added to a relative path, and its reader refuses it.
    """
    try:
        return str(Path.cwd() / path) if path and not path.startswith("~") else path
    except FileNotFoundError:
        return "" if path == "." else path
