"""`config.toml` and the daemon's environment as one frozen value.

The only reader of the configuration. A mistake is one `ConfigFileError` with
file, line, key and what was expected; no value of the file is ever guessed.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from cmesh.configfile import (
    APPROVALS_PORT,
    TOLD,
    FileTable,
    RunnerTable,
    config_schema,
    starter_config,
)
from cmesh.errors import ConfigError
from cmesh.paths import require_private_file
from cmesh.policy.mistakes import Location, PolicyError, describe, key_of, problems
from cmesh.policy.parse import build_policy, parse_selector
from cmesh.policy.rules import Policy, Selector
from cmesh.tomltext import TomlMistake, line_of, read_table

__all__ = [
    "TESTNET_VARIABLE",
    "ApprovalsConfig",
    "CommandConfig",
    "Config",
    "ConfigFileError",
    "LogConfig",
    "NodeConfig",
    "RunnerConfig",
    "SandboxConfig",
    "StoreConfig",
    "TraceConfig",
    "WakeConfig",
    "WorkerConfig",
    "config_schema",
    "environment",
    "load_config",
    "on_testnet",
    "read_config",
    "starter_config",
    "under_service_manager",
]

TESTNET_VARIABLE = "CMESH_TESTNET"
"""Set to `1` for a daemon of the demo or a test: it may join a test tailnet."""

FILE_BYTES = 1024 * 1024
"""The largest configuration that is read."""


class ConfigFileError(ConfigError):
    """Raised when the configuration file cannot be used.

    Attributes:
        file: the configuration file.
        line: from 1; None when the mistake stands in no line.
        key: path of the key, for example `inbound.allow[0].peers[1]`; empty for a syntax error.
        expected: what should stand there.
    """

    def __init__(
        self, file: Path, expected: str, *, line: int | None = None, key: str = ""
    ) -> None:
        place = f"`{file}`" + (f" line {line}" if line else "")
        super().__init__(f"{place}: " + (f"`{key}`: " if key else "") + expected)
        self.file = file
        self.line = line
        self.key = key
        self.expected = expected


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """This machine's node on the tailnet.

    Attributes:
        hostname: empty = this machine's name.
        control_url: empty = Tailscale's control server.
        labels: the owner's words about the machine.
        tell: what peers with a grant are told of it.
        allow_testnet: a test tailnet may be joined; from the environment, never the file.
    """

    hostname: str = ""
    control_url: str = ""
    auth_key_file: Path | None = None
    tags: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    tell: tuple[str, ...] = TOLD
    allow_testnet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """How this machine works for others; what is not said otherwise counts tasks.

    Attributes:
        concurrent, concurrent_per_peer: running at once; None = as many as there are places.
        queue, queue_per_peer: running or waiting.
        submits_per_minute: requests of one peer, refused ones counted.
    """

    allow_root: bool = False
    concurrent: int = 2
    concurrent_per_peer: int | None = None
    queue: int = 50
    queue_per_peer: int = 25
    submits_per_minute: int = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerConfig:
    """An agent that runs tasks here. Empty = the manifest's default.

    Attributes:
        idle_s: seconds that it may say nothing; None = as its manifest says.
    """

    program: str = ""
    key_file: Path | None = None
    model: str = ""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    base_url: str = ""
    idle_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandConfig:
    """A fixed command, `command:NAME`.

    Attributes:
        argv: program and arguments; no shell reads them.
        env_pass: names of variables of the daemon's environment to hand on.
    """

    argv: tuple[str, ...]
    env_pass: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """What the owner accepts of a sandbox, and opens to every task.

    Attributes:
        accept_tier2_edit: tasks may change files below tier 3.
        accept_tier2_network: tasks may run without a network namespace.
        read: absolute paths, links resolved, that tasks may read and execute.
    """

    accept_tier2_edit: bool = False
    accept_tier2_network: bool = False
    read: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """What is kept of tasks.

    Attributes:
        keep_text_days: days that a task's texts are kept after its end; None = for ever.
        keep_output_days: days that its files are kept; None = as long as its texts.
        disk_floor_mib: free MiB below which no new task is taken.
    """

    keep_text_days: int | None = None
    keep_output_days: int | None = None
    store_prompts: Literal["text", "digest"] = "text"
    disk_floor_mib: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeConfig:
    """How this machine's owner hears of ends that nobody waits for; neither by default."""

    hook: tuple[str, ...] = ()
    desktop: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalsConfig:
    """Who of the tailnet may answer what waits for the owner; nobody = no page is served there."""

    approvers: tuple[Selector, ...] = ()
    port: int = APPROVALS_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The daemon's log."""

    format: Literal["text", "json"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig:
    """Where spans of traces go; an empty endpoint = nowhere, unless the environment names one."""

    endpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of the configuration.

    Attributes:
        path: the file, also when there is none.
        configured: the file exists; without it nothing is allowed and no node starts.
        runners: agents by name, those with a table only.
        commands: fixed commands by NAME of `command:NAME`.
        sha256: hex digest of the file's bytes.
    """

    path: Path
    configured: bool
    node: NodeConfig
    worker: WorkerConfig
    runners: Mapping[str, RunnerConfig]
    commands: Mapping[str, CommandConfig]
    sandbox: SandboxConfig
    store: StoreConfig
    wake: WakeConfig
    approvals: ApprovalsConfig
    log: LogConfig
    trace: TraceConfig
    policy: Policy
    sha256: str


def load_config(path: Path) -> Config:
    """Read the configuration; a missing file gives defaults that allow nothing.

    Paths may start with `~`; a relative `key_file` or `auth_key_file` is taken from the
    file's directory; links in the paths of rules are resolved now, so that what a
    rule means does not move with a link. Blocks on the disk.

    Raises:
        ConfigFileError: the file cannot be read or used.
        UnsafePermissions: others may write it, or it is not a plain file of this user.
    """
    try:
        require_private_file(path)
        data = path.read_bytes()
    except FileNotFoundError:
        return _config(path, FileTable(), b"", configured=False)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigFileError(path, f"cannot be read: {reason}") from None
    return _config(path, _parse(path, data), data, configured=True)


def read_config(path: Path, text: str) -> Config:
    """Return what a text would mean as the configuration at `path`, without looking at the file.

    Raises:
        ConfigFileError: it cannot be used.
    """
    data = text.encode()
    return _config(path, _parse(path, data), data, configured=True)


def environment() -> dict[str, str]:
    """Return this process's environment, for runners that are given variables by name."""
    return dict(os.environ)


def under_service_manager() -> bool:
    """Say whether systemd started this process as a service (systemd.exec(5))."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def on_testnet() -> bool:
    """Say whether this process was started for a test tailnet."""
    return os.environ.get(TESTNET_VARIABLE) == "1"


def _parse(path: Path, data: bytes) -> FileTable:
    if len(data) > FILE_BYTES:
        raise ConfigFileError(path, f"expected at most {FILE_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigFileError(path, "expected UTF-8 text", line=line) from None
    try:
        return FileTable.model_validate(read_table(text))
    except TomlMistake as mistake:
        raise ConfigFileError(path, mistake.expected, line=mistake.line) from None
    except ValidationError as error:
        problem = problems(error)[0]
        raise _at(path, text, problem.where, describe(problem, FileTable)) from None


def _config(path: Path, table: FileTable, data: bytes, *, configured: bool) -> Config:
    base = path.parent
    try:
        policy = build_policy(table, real_path=_real_path)
    except PolicyError as error:
        raise _at(path, data.decode(), error.where, error.expected) from None
    return Config(
        path=path,
        configured=configured,
        node=NodeConfig(
            hostname=table.node.hostname,
            control_url=table.node.control_url,
            auth_key_file=_file(table.node.auth_key_file, base),
            tags=tuple(table.node.tags),
            labels=tuple(dict.fromkeys(table.node.labels)),
            tell=tuple(table.node.tell),
            allow_testnet=on_testnet(),
        ),
        worker=WorkerConfig(**table.worker.model_dump()),
        runners={name: _runner(runner, base) for name, runner in table.runners.items()},
        commands={
            name: CommandConfig(argv=tuple(command.argv), env_pass=tuple(command.env_pass))
            for name, command in table.commands.items()
        },
        sandbox=SandboxConfig(
            accept_tier2_edit=table.sandbox.accept_tier2_edit,
            accept_tier2_network=table.sandbox.accept_tier2_network,
            read=tuple(_real_path(path) for path in table.sandbox.read),
        ),
        store=StoreConfig(
            keep_text_days=_days(table.store.keep_text),
            keep_output_days=_days(table.store.keep_output),
            store_prompts=table.store.store_prompts,
            disk_floor_mib=table.store.disk_floor_mib,
        ),
        wake=WakeConfig(hook=tuple(table.wake.hook), desktop=table.wake.desktop),
        approvals=ApprovalsConfig(
            approvers=tuple(map(parse_selector, table.approvals.approvers)),
            port=table.approvals.port,
        ),
        log=LogConfig(format=table.log.format),
        trace=TraceConfig(endpoint=table.trace.endpoint),
        policy=policy,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _runner(table: RunnerTable, base: Path) -> RunnerConfig:
    return RunnerConfig(
        program=table.program,
        key_file=_file(table.key_file, base),
        model=table.model,
        env=dict(table.env),
        base_url=table.base_url,
        idle_s=table.idle,
    )


def _file(text: str, base: Path) -> Path | None:
    return base / _expand(text) if text else None


def _days(text: str | None) -> int | None:
    return None if text is None else int(text.removesuffix("d"))


def _real_path(text: str) -> str:
    expanded = _expand(text)
    if not expanded.is_absolute():
        return text
    try:
        return str(expanded.resolve())
    except (OSError, RuntimeError, ValueError):
        return str(expanded)  # a circle of links; no resolved request is ever below it


def _expand(text: str) -> Path:
    if text != "~" and not text.startswith("~/"):
        return Path(text)
    try:
        return Path.home() / text[2:]
    except RuntimeError:
        return Path(text)  # no home directory: stays relative, so it is refused


def _at(path: Path, text: str, where: Location, expected: str) -> ConfigFileError:
    return ConfigFileError(path, expected, line=line_of(text, where), key=key_of(where))
