#!/usr/bin/env python3
"""Writes what is made from the MCP registry: the relay's handshake file and the table of tools.

`--check` writes nothing and fails when a committed file differs.
"""

import argparse
import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the registry is that of this tree, installed or not

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS  # noqa: E402

from cmesh import __version__  # noqa: E402
from cmesh.daemon.arguments import Context  # noqa: E402
from cmesh.daemon.operations import Operations  # noqa: E402
from cmesh.interfaces.mcp.server import serve_mcp  # noqa: E402
from cmesh.interfaces.mcp.tools import TOOLS, listed  # noqa: E402

HANDSHAKE = ROOT / "cmesh" / "interfaces" / "mcp" / "handshake.json"
TABLE = ROOT / "docs" / "mcp-tools.md"
ONBOARDING = ROOT / "docs" / "mcp-onboarding-tools.md"
BEGIN, END = "<!-- tools: made by scripts/gen_mcp.py -->\n", "<!-- end of tools -->\n"
LISTS = ("tools/list", "resources/list", "resources/templates/list", "prompts/list")
LIMIT_S = 30.0


class _NoOperations:
    """The daemon's side of a handshake; no list needs an operation."""


def main() -> int:
    """Write or check the files; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale: list[Path] = []
    for path, text in files().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not check:
            path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{'stale' if check else 'wrote'}: {path.relative_to(ROOT)}")
    if check and stale:
        print("run scripts/gen_mcp.py")
    return 1 if check and stale else 0


def files() -> dict[Path, str]:
    """Return each generated file's text."""
    return {
        HANDSHAKE: json.dumps(asyncio.run(_handshake()), indent=1) + "\n",
        TABLE: _page(TABLE, ""),
        ONBOARDING: _page(ONBOARDING, "setup_"),
    }


def _page(page: Path, prefix: str) -> str:
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + "\n" + _tools_table(prefix) + END + rest.split(END)[1]


async def _handshake() -> dict[str, object]:
    """Return what the server answers in both eras, as it stands on the wire."""
    client = {"name": "generator", "version": __version__}
    latest = HANDSHAKE_PROTOCOL_VERSIONS[-1]
    hello = {"protocolVersion": latest, "capabilities": {}, "clientInfo": client}
    envelope = {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN_PROTOCOL_VERSIONS[-1],
            "io.modelcontextprotocol/clientInfo": client,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    }
    legacy = await _ask([("initialize", hello), *((method, {}) for method in LISTS)])
    modern = await _ask([("server/discover", envelope), *((method, envelope) for method in LISTS)])
    stamp = {key: modern["tools/list"][key] for key in ("_meta", "resultType")}
    return {
        "version": __version__,
        "legacy_versions": list(HANDSHAKE_PROTOCOL_VERSIONS),
        "modern_versions": list(MODERN_PROTOCOL_VERSIONS),
        "legacy": legacy,
        "modern": modern,
        "modern_stamp": stamp,
    }


async def _ask(requests: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    server_reader, server_writer = await asyncio.open_connection(sock=theirs)
    operations = cast("Operations", _NoOperations())
    serving = asyncio.create_task(
        serve_mcp(server_reader, server_writer, Context(session="generator"), operations)
    )
    answers: dict[str, dict[str, Any]] = {}
    for number, (method, params) in enumerate(requests):
        line = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        writer.write(line.encode() + b"\n")
        async with asyncio.timeout(LIMIT_S):
            answers[method] = json.loads(await reader.readline())["result"]
    writer.close()
    await serving
    server_writer.close()
    return answers


def _tools_table(prefix: str) -> str:
    lines: list[str] = []
    for shown in (tool for tool in listed() if tool.name.startswith(prefix)):
        tool = TOOLS[shown.name]
        kinds = {
            "read only": tool.read_only,
            "destructive": tool.destructive,
            "idempotent": tool.idempotent,
            "reaches other machines": tool.open_world,
        }
        lines += [f"### `{tool.name}`", "", tool.description, ""]
        lines += [f"Annotations: {', '.join(kind for kind, holds in kinds.items() if holds)}.", ""]
        properties = cast("dict[str, dict[str, Any]]", shown.input_schema["properties"])
        required = cast("list[str]", shown.input_schema.get("required", []))
        if properties:
            lines += ["| argument | type | default | meaning |", "|---|---|---|---|"]
            lines += [
                _row(name, field, needed=name in required) for name, field in properties.items()
            ]
            lines.append("")
    return "\n".join(lines)


def _row(name: str, field: dict[str, Any], *, needed: bool) -> str:
    kind = " \\| ".join(f"`{value}`" for value in field.get("enum", ())) or field["type"]
    default = (
        "required" if needed else f"`{json.dumps(field['default'])}`" if "default" in field else "-"
    )
    return f"| `{name}` | {kind} | {default} | {field.get('description', '')} |"


if __name__ == "__main__":
    sys.exit(main())
