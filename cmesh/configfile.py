"""The form of `config.toml`: its tables, and a first file; `cmesh.config` reads it."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cmesh.policy.parse import COMMAND_NAME_PATTERN, RUNNER_NAME_PATTERN, mistaken_for
from cmesh.policy.tables import Duration, PolicyTables, Table, TextForm
from cmesh.protocol.machine import LABELS_MOST

__all__ = [
    "APPROVALS_PORT",
    "TOLD",
    "ApprovalsTable",
    "CommandTable",
    "FileTable",
    "LogTable",
    "NodeTable",
    "RunnerTable",
    "SandboxTable",
    "StoreTable",
    "TraceTable",
    "WakeTable",
    "WorkerTable",
    "config_schema",
    "starter_config",
]

Told = Literal["system", "tools", "gpu", "runners", "labels"]
TOLD: tuple[Told, ...] = ("system", "tools", "gpu", "runners", "labels")
"""All that a machine may tell of itself."""


APPROVALS_PORT = 7334
"""The tailnet TCP port of the approvals page."""

LINKS_PORT = 7333
"""The one that every cmesh node listens on for links."""


def _not_of_links(port: int) -> int:
    if port == LINKS_PORT:
        raise PydanticCustomError("links", "another port than that of links")
    return port


def _no_slip(name: str) -> str:
    if like := mistaken_for(name):
        raise PydanticCustomError("slip", '"{like}", or a name less like it', {"like": like})
    return name


_Hostname = Annotated[
    str,
    TextForm(
        r"([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)?",
        "a host name of letters, digits and hyphens, without a domain",
    ),
]
_Url = Annotated[
    str,
    Field(max_length=2048),
    TextForm(r"(https?://[^\s/?#]+[^\s]*)?", 'a URL such as "https://example.com"'),
]
_Tag = Annotated[str, TextForm(r"tag:[A-Za-z][A-Za-z0-9-]{0,62}", 'a tag such as "tag:build"')]
_Label = Annotated[
    str, TextForm(r"[a-z0-9][a-z0-9._-]{0,31}", "lower-case letters, digits, `.`, `_` and `-`")
]
_Variable = Annotated[
    str, TextForm(r"[A-Za-z_][A-Za-z0-9_]{0,127}", "letters, digits and underscores")
]
_CommandName = Annotated[
    str,
    TextForm(COMMAND_NAME_PATTERN, "letters, digits, `.`, `_` and `-`, at most 64"),
]
_Text = Annotated[
    str, Field(max_length=4096), TextForm(r"[^\x00]*", "a text without null characters")
]
_Place = Annotated[
    str,
    Field(max_length=4096),
    TextForm(r"(/|~/)[^\x00]*", "an absolute path, or one that begins with `~/`"),
]
_Days = Annotated[str, TextForm(r"[1-9][0-9]{0,4}d", 'whole days such as "30d"')]
_Agent = Annotated[
    str,
    TextForm(RUNNER_NAME_PATTERN, "lower-case letters, digits, `_` and `-`, at most 32"),
    AfterValidator(_no_slip),
]


_Approver = Annotated[
    str,
    TextForm(
        r"node:[A-Za-z0-9]{1,64}|user:(?!tagged-devices$)[^\s@*][^\s*]{0,255}",
        '"node:" and a stable node id, or "user:" and a whole login name',
    ),
]


class NodeTable(Table):
    """This machine's node on the tailnet."""

    hostname: _Hostname = ""
    """Name asked for on the tailnet; empty: this machine's name."""
    control_url: _Url = ""
    """Control server; empty: Tailscale's. Any server that speaks its protocol works."""
    auth_key_file: _Text = ""
    """File with an auth key for the first login, readable by you alone; empty: log in by URL."""
    tags: list[_Tag] = Field(default_factory=list[str])
    """Tags to ask for at login, as the tailnet's policy allows."""
    labels: Annotated[list[_Label], Field(max_length=LABELS_MOST)] = Field(
        default_factory=list[str]
    )
    """Words of yours about this machine, told to peers that may ask it for tasks."""
    tell: list[Told] = Field(default_factory=lambda: [*TOLD])
    """What such peers are told of this machine; `[]`: nothing."""


class WorkerTable(Table):
    """How this machine works for others; whether it does is in the inbound rules."""

    allow_root: bool = False
    """Run tasks although the daemon runs as root. Leave it off."""
    concurrent: Annotated[int, Field(ge=1, le=64)] = 2
    """Tasks that run at the same time, of all peers together."""
    concurrent_per_peer: Annotated[int, Field(ge=1, le=64)] | None = None
    """Tasks of one peer that run at the same time; left out: as many as there are places."""
    queue: Annotated[int, Field(ge=0, le=100_000)] = 50
    """Tasks that may run or wait, of all peers; more are refused with `busy`."""
    queue_per_peer: Annotated[int, Field(ge=1, le=1_000)] = 25
    """Tasks that may run or wait of one peer; more are refused with `busy`."""
    submits_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 600
    """Requests of one peer in a minute, refused ones counted; more are refused with `busy`."""


class RunnerTable(Table):
    """An agent that runs tasks on this machine."""

    program: _Text = ""
    """Program to start; empty: the agent's usual name, looked up on the daemon's path."""
    key_file: _Text = ""
    """File with the API key, readable by you alone; your own login is never used."""
    model: Annotated[str, Field(max_length=200)] = ""
    """Model to ask for; empty: the agent's default."""
    env: dict[_Variable, _Text] = Field(default_factory=dict[str, str])
    """Variables added to the agent's environment; not for secrets."""
    base_url: _Url = ""
    """The model API's address; empty: the agent's default."""
    idle: Duration | None = None
    """How long it may say nothing before its task is ended; left out: as its manifest says."""


class CommandTable(Table):
    """A fixed command that peers may start as runner `command:NAME`."""

    argv: Annotated[list[_Text], Field(min_length=1, max_length=256)]
    """Program and arguments, no shell; the prompt comes on standard input."""
    env_pass: list[_Variable] = Field(default_factory=list[str])
    """Variables of the daemon's environment that the command sees."""


class SandboxTable(Table):
    """What holds tasks of every profile but `full`, and what you accept where less is there."""

    accept_tier2_edit: bool = False
    """Let tasks change files where bubblewrap, or Landlock, is missing."""
    accept_tier2_network: bool = False
    """Let tasks run without a network namespace of their own."""
    read: list[_Place] = Field(default_factory=list[str])
    """Files and directories that every task may read and execute, besides the system's own."""


class StoreTable(Table):
    """What is kept of tasks."""

    keep_text: _Days | None = None
    """How long a task's texts are kept after its end, such as `30d`; left out: for ever."""
    keep_output: _Days | None = None
    """How long its output, patch and artifacts are kept; left out: as long as its texts."""
    store_prompts: Literal["text", "digest"] = "text"
    """Whether a prompt's text is stored or only its digest."""
    disk_floor_mib: Annotated[int, Field(ge=1, le=2**20)] = 128
    """Free MiB on the disk of the state directory below which no new task is taken."""


class WakeTable(Table):
    """How you hear of a task's end that nobody waits for."""

    hook: Annotated[list[_Text], Field(max_length=64)] = Field(default_factory=list[str])
    """Program and arguments, no shell; gets one JSON line with `task_id` and `state`."""
    desktop: bool = False
    """Show a desktop notification, by `notify-send` on Linux."""


class ApprovalsTable(Table):
    """Devices of the tailnet that may answer what waits for you, in a browser."""

    approvers: Annotated[list[_Approver], Field(max_length=32)] = Field(default_factory=list[str])
    """Who they are, as `node:ID` or `user:LOGIN`; `[]`: none, and no page is served."""
    port: Annotated[int, Field(ge=1024, le=65_535), AfterValidator(_not_of_links)] = APPROVALS_PORT
    """Port of the page on this machine's node; 7333 is that of links."""


class LogTable(Table):
    """The daemon's log, `daemon.log` of the state directory or what a service manager keeps."""

    format: Literal["text", "json"] = "text"
    """`"text"`: `time level part event key=value …`; `"json"`: one object a line."""


class TraceTable(Table):
    """Traces of tasks for OpenTelemetry; needs `cmesh[otel]`."""

    endpoint: _Url = ""
    """Base URL of an OTLP/HTTP receiver, such as a collector; empty: no traces."""


class FileTable(PolicyTables):
    """All of `config.toml`."""

    node: NodeTable = Field(default_factory=NodeTable)
    """This machine's node on the tailnet."""
    worker: WorkerTable = Field(default_factory=WorkerTable)
    """How this machine works for others."""
    runners: dict[_Agent, RunnerTable] = Field(default_factory=dict[str, RunnerTable])
    """Agents, by name: built in, or of a manifest in `runners/NAME.toml` beside this file."""
    commands: dict[_CommandName, CommandTable] = Field(default_factory=dict[str, CommandTable])
    """Fixed commands, by name."""
    sandbox: SandboxTable = Field(default_factory=SandboxTable)
    """What holds tasks."""
    store: StoreTable = Field(default_factory=StoreTable)
    """What is kept of tasks."""
    wake: WakeTable = Field(default_factory=WakeTable)
    """How you hear of a task's end that nobody waits for."""
    approvals: ApprovalsTable = Field(default_factory=ApprovalsTable)
    """Devices of the tailnet that may answer what waits for you."""
    log: LogTable = Field(default_factory=LogTable)
    """The daemon's log."""
    trace: TraceTable = Field(default_factory=TraceTable)
    """Traces of tasks for OpenTelemetry."""


def config_schema() -> dict[str, object]:
    """Return the JSON Schema (draft 2020-12) of the file's content."""
    schema: dict[str, object] = FileTable.model_json_schema(mode="validation")
    return schema | {"title": "cmesh config.toml"}


def starter_config(hostname: str) -> str:
    """Return a first `config.toml`: a node that may do nothing, with the rules to uncomment.

    `hostname` is put into the form of a host name; what is left may be empty.
    """
    host = re.sub(r"[^a-z0-9-]+", "-", hostname.partition(".")[0].lower()).strip("-")[:63]
    return _STARTER.replace("@HOST@", host.strip("-"))


_STARTER = """\
# cmesh on this machine. All keys: docs/configuration.md. After a change: `cmesh policy show`.
# Nobody may ask this machine for anything, and it asks nobody, until a rule below says so.

[node]
hostname = "@HOST@"
# control_url = "https://headscale.example.com"   # default: Tailscale
# auth_key_file = "~/.config/cmesh/auth.key"       # mode 0600; default: log in by URL

[worker]
concurrent = 2

# How long a task's texts and files are kept after its end, as peers are told; default: for ever.
# [store]
# keep_text = "30d"
# keep_output = "7d"

# An agent that may work for others here. Your own login is never used.
# [runners.claude]
# key_file = "~/.config/cmesh/claude.key"          # mode 0600

# A fixed command that may work for others here, as runner `command:deploy-check`.
# [commands.deploy-check]
# argv = ["python3", "/opt/checks/deploy.py"]

# What others may ask of this machine. `cmesh peers` shows node ids.
# [[inbound.allow]]
# name = "laptop may ask about myapp"
# peers = ["node:nABC123CNTRL"]
# operations = ["task"]
# profiles = ["query"]                             # reads that directory and its model, no more
# runners = ["claude"]
# paths = ["/srv/myapp"]
# limits = { runtime = "15m", concurrent = 2, per_day = 50 }

# What this machine may ask of others.
# [[outbound.allow]]
# name = "ask the build box"
# peers = ["node:nXYZ789CNTRL"]
# profiles = ["query"]
# repos = ["~/src/myapp"]
# prompt_bytes = 20000
"""
