"""The agents and editors that can start `cmesh mcp`: where each keeps its entry, in which form.

Data and pure functions of a `Surroundings`. Sources: each one's own documentation, and for Claude
Code, Codex, Gemini CLI and opencode what their programs did when they were asked (docs/agents.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cmesh.setup.surroundings import Surroundings

__all__ = ["CLIENTS", "NAME", "Client", "client_named"]

NAME = "cmesh"
"""What our entry is called everywhere: tools of it are named after it in front of the model."""

STARTUP_LIMIT_S = 30
"""How long an agent waits for the relay; it answers in 15 ms, but a busy machine starts Python late."""

CALL_LIMIT_S = 120
"""How long an agent waits for one call; cmesh answers each within 45 s."""

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One agent.

    Attributes:
        name: what people type.
        title: what people read.
        programs: names of its program; none for an application without one.
        files: where its settings may stand, the first that exists is the one; the first of all
            is made where none does.
        signs: files and directories of which one shows that it is here.
        table: where in its settings the entries of all servers stand.
        form: how the settings are written.
        entry: our entry, from command and environment.
        restart: what makes it see a change.
        locks: whether it locks its settings by a directory `FILE.lock` while it writes them.
    """

    name: str
    title: str
    programs: tuple[str, ...]
    files: Callable[[Surroundings], tuple[Path, ...]]
    signs: Callable[[Surroundings], tuple[Path, ...]]
    table: str
    form: Literal["json", "toml"] = "json"
    entry: Callable[[Surroundings], Entry]
    restart: str = "start a new session"
    locks: bool = False


def client_named(name: str) -> Client | None:
    """Return the client of that name."""
    return next((one for one in CLIENTS if one.name == name), None)


def _stdio(here: Surroundings) -> dict[str, Any]:
    return {"command": here.command[0], "args": list(here.command[1:])}


def _with_env(here: Surroundings, entry: dict[str, Any]) -> Entry:
    return entry | ({"env": dict(here.env)} if here.env else {})


def _claude(here: Surroundings) -> Entry:
    limit = {"timeout": CALL_LIMIT_S * 1000}
    return {"type": "stdio", **_stdio(here), "env": dict(here.env), **limit}


def _codex(here: Surroundings) -> Entry:
    # Without `required` codex begins its first turn without the tools of a server that is slow.
    limits = {"startup_timeout_sec": STARTUP_LIMIT_S, "tool_timeout_sec": CALL_LIMIT_S}
    return _with_env(here, {**_stdio(here), "required": True, **limits})


def _gemini(here: Surroundings) -> Entry:
    return _with_env(here, {**_stdio(here), "timeout": CALL_LIMIT_S * 1000})


def _opencode(here: Surroundings) -> Entry:
    entry = {"type": "local", "command": list(here.command), "enabled": True}
    env = {"environment": dict(here.env)} if here.env else {}
    return {**entry, **env, "timeout": CALL_LIMIT_S * 1000}


def _plain(here: Surroundings) -> Entry:
    return _with_env(here, _stdio(here))


def _typed(here: Surroundings) -> Entry:
    return _with_env(here, {"type": "stdio", **_stdio(here)})


def _claude_file(here: Surroundings) -> tuple[Path, ...]:
    return (here.directory("CLAUDE_CONFIG_DIR", "") / ".claude.json",)


def _codex_file(here: Surroundings) -> tuple[Path, ...]:
    return (here.directory("CODEX_HOME", ".codex") / "config.toml",)


def _gemini_file(here: Surroundings) -> tuple[Path, ...]:
    return (here.directory("GEMINI_CLI_HOME", "") / ".gemini" / "settings.json",)


def _opencode_files(here: Surroundings) -> tuple[Path, ...]:
    place = here.directory("XDG_CONFIG_HOME", ".config") / "opencode"
    # All are read, a later one wins; the one that exists is the one its owner edits.
    return tuple(place / name for name in ("opencode.jsonc", "opencode.json", "config.json"))


def _application(here: Surroundings, name: str) -> Path:
    """Return the directory where an application of the desktop keeps its settings."""
    if here.platform == "macos":
        return here.home / "Library" / "Application Support" / name
    if here.platform == "windows":
        return here.directory("APPDATA", "AppData/Roaming") / name
    return here.directory("XDG_CONFIG_HOME", ".config") / name


def _zed(here: Surroundings) -> Path:
    if here.platform == "windows":
        return _application(here, "Zed")
    return here.directory("XDG_CONFIG_HOME", ".config") / "zed"


CLIENTS: tuple[Client, ...] = (
    Client(
        name="claude",
        title="Claude Code",
        programs=("claude",),
        files=_claude_file,
        signs=_claude_file,
        table="mcpServers",
        entry=_claude,
        locks=True,
    ),
    Client(
        name="codex",
        title="Codex",
        programs=("codex",),
        files=_codex_file,
        signs=_codex_file,
        table="mcp_servers",
        form="toml",
        entry=_codex,
    ),
    Client(
        name="gemini",
        title="Gemini CLI",
        programs=("gemini",),
        files=_gemini_file,
        signs=_gemini_file,
        table="mcpServers",
        entry=_gemini,
    ),
    Client(
        name="opencode",
        title="opencode",
        programs=("opencode",),
        files=_opencode_files,
        signs=_opencode_files,
        table="mcp",
        entry=_opencode,
    ),
    Client(
        name="cursor",
        title="Cursor",
        programs=("cursor", "cursor-agent"),
        files=lambda here: (here.home / ".cursor" / "mcp.json",),
        signs=lambda here: (here.home / ".cursor", Path("/Applications/Cursor.app")),
        table="mcpServers",
        entry=_plain,
    ),
    Client(
        name="vscode",
        title="VS Code",
        programs=("code",),
        files=lambda here: (_application(here, "Code") / "User" / "mcp.json",),
        signs=lambda here: (
            _application(here, "Code") / "User",
            Path("/Applications/Visual Studio Code.app"),
        ),
        table="servers",
        entry=_typed,
        restart="reload the window",
    ),
    Client(
        name="claude-desktop",
        title="Claude Desktop",
        programs=("claude-desktop",),
        files=lambda here: (_application(here, "Claude") / "claude_desktop_config.json",),
        signs=lambda here: (_application(here, "Claude"), Path("/Applications/Claude.app")),
        table="mcpServers",
        entry=_plain,
        restart="quit it and start it again",
    ),
    Client(
        name="zed",
        title="Zed",
        programs=("zed", "zeditor"),
        files=lambda here: (_zed(here) / "settings.json",),
        signs=lambda here: (_zed(here), Path("/Applications/Zed.app")),
        table="context_servers",
        entry=_plain,
        restart="nothing to do, it sees the change",
    ),
)
