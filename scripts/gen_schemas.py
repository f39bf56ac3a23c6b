#!/usr/bin/env python3
"""Write the JSON Schemas under `schemas/`; `--check` fails when a committed file differs.

One function an entry of `SCHEMAS`; each returns a schema of draft 2020-12
without `$schema` and `$id`, which are added here.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the schemas are those of this tree, installed or not

from pydantic import BaseModel, TypeAdapter  # noqa: E402

from cmesh.configfile import config_schema  # noqa: E402
from cmesh.daemon.answers import EventView, ResultView, TaskView  # noqa: E402
from cmesh.interfaces.audit_report import AuditView  # noqa: E402
from cmesh.interfaces.cli.watching.board import Line as WatchLine  # noqa: E402
from cmesh.protocol.messages import Message  # noqa: E402
from cmesh.protocol.pair_messages import PairMessage  # noqa: E402
from cmesh.runner.manifest import manifest_schema  # noqa: E402
from cmesh.store.manifest import Manifest  # noqa: E402
from cmesh.store.receipts_file import Line  # noqa: E402

DIRECTORY = ROOT / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def link_schema() -> dict[str, object]:
    """Return the schema of one JSON frame of link protocol `cmesh.v1`."""
    adapter: TypeAdapter[object] = TypeAdapter(Message)
    schema: dict[str, object] = adapter.json_schema()
    return schema | {"title": "cmesh.v1 message"}


def pair_schema() -> dict[str, object]:
    """Return the schema of one frame of a pairing, `cmesh.pair.v1`."""
    adapter: TypeAdapter[object] = TypeAdapter(PairMessage)
    schema: dict[str, object] = adapter.json_schema()
    return schema | {"title": "cmesh.pair.v1 message"}


def audit_schema() -> dict[str, object]:
    """Return the schema of what `cmesh audit verify --json` prints."""
    schema: dict[str, object] = AuditView.model_json_schema(mode="serialization")
    return schema | {"title": "a check of the audit"}


def export_schema() -> dict[str, object]:
    """Return the schema of `manifest.json` of an export by `cmesh audit export`."""
    schema: dict[str, object] = Manifest.model_json_schema()
    return schema | {"title": "the manifest of an export of the audit"}


def receipts_schema() -> dict[str, object]:
    """Return the schema of one line of a file by `cmesh audit receipts`."""
    adapter: TypeAdapter[object] = TypeAdapter(Line)
    schema: dict[str, object] = adapter.json_schema()
    return schema | {"title": "a line of a file of receipts"}


def printed(view: type[BaseModel], title: str) -> Callable[[], dict[str, object]]:
    """Return what makes the schema of what a command prints with `--json`."""

    def schema() -> dict[str, object]:
        made: dict[str, object] = view.model_json_schema(mode="serialization")
        return made | {"title": title}

    return schema


def watch_schema() -> dict[str, object]:
    """Return the schema of a line of `cmesh watch --json`."""
    schema: dict[str, object] = WatchLine.model_json_schema()
    return schema | {"title": "a line of cmesh watch --json"}


def closed(schema: dict[str, object]) -> dict[str, object]:
    """Return a schema in which a free table takes no name but one of its form, as the code does."""
    return {key: _closed(value) for key, value in schema.items()}


def _closed(value: object) -> object:
    if isinstance(value, list):
        return [_closed(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    inner = closed(cast("dict[str, object]", value))
    return inner | {"additionalProperties": False} if "patternProperties" in inner else inner


SCHEMAS: dict[str, Callable[[], dict[str, object]]] = {
    "audit": audit_schema,
    "config": lambda: closed(config_schema()),
    "event": printed(EventView, "an event of a task: a line of cmesh logs --json"),
    "export": export_schema,
    "link": link_schema,
    "pair": pair_schema,
    "receipts": receipts_schema,
    "result": printed(ResultView, "a part of a result: cmesh result --json"),
    "runner": lambda: closed(manifest_schema()),
    "task": printed(TaskView, "a task: cmesh show --json"),
    "watch": watch_schema,
}


def render(name: str) -> str:
    """Return the text of `schemas/NAME.json`."""
    head = {
        "$schema": DIALECT,
        "$id": f"https://cmesh.dev/schemas/v1/{name}.json",
        "$comment": "made by scripts/gen_schemas.py",
    }
    return json.dumps(head | SCHEMAS[name](), indent=2, ensure_ascii=False) + "\n"


def stale(directory: Path = DIRECTORY) -> list[str]:
    """Return what differs: a schema that is out of date or missing, or a file nobody makes."""
    found = [
        f"{name}.json is not current"
        for name in SCHEMAS
        if not (path := directory / f"{name}.json").is_file()
        or path.read_text(encoding="utf-8") != render(name)
    ]
    extra = {path.stem for path in directory.glob("*.json")} - SCHEMAS.keys()
    return found + [f"{name}.json is made by no entry of SCHEMAS" for name in sorted(extra)]


def main() -> int:
    """Write or check all schemas; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    if parser.parse_args().check:
        problems = stale()
        for problem in problems:
            print(f"{problem}; run scripts/gen_schemas.py", file=sys.stderr)
        return 1 if problems else 0
    DIRECTORY.mkdir(exist_ok=True)
    for name in SCHEMAS:
        (DIRECTORY / f"{name}.json").write_text(render(name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
