"""What `cmesh doctor` has found out before anything is judged: frozen values, no I/O.

Gathered by `cmesh.setup.doctor.gather` and, of what only a daemon knows, by
`cmesh.interfaces.doctor_facts`. None where a thing could not be looked at, which is never
the same as a thing that is well.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cmesh.config import Config

__all__ = [
    "AgentFact",
    "ControlFact",
    "DaemonFacts",
    "Entry",
    "Facts",
    "Fault",
    "LiveFact",
    "PeerFact",
    "PlaceFact",
    "RunnerFact",
    "ServiceFact",
    "StateFacts",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error as it is told everywhere: code, cause, next step."""

    code: str
    what: str
    next: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceFact:
    """A file or directory of cmesh's that nobody else may change, or read where it is secret.

    Attributes:
        mode: permission bits.
        forbidden: those of them that let others in; 0 = its mode is as it should be.
        mine: it belongs to this user and is no link.
    """

    path: str
    mode: int
    forbidden: int = 0
    mine: bool = True
    directory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFacts:
    """The state directory and the disk it is on. Sizes in bytes.

    Attributes:
        file_system: its type by the kernel, such as `ext4`; empty = not known.
        network: other machines may have the directory too, so that locks may not hold.
        store_holder, node_holder: process that has the store, the node's state, open.
        socket: `answers`, `silent` (taken, no answer), `stale` (a file that nobody serves), or none.
        down: `cmesh down` was the last word.
        replacing: the mark of `cmesh up --replace` is there; `replacer`: who works at it.
        backups: store copies from before migrations, with their sizes.
        replaced: stores that `audit restore` put aside, likewise; nothing is erased in them.
        free, floor: of the disk; below `floor` no new task is taken.
    """

    path: str
    there: bool = True
    places: tuple[PlaceFact, ...] = ()
    file_system: str = ""
    network: bool = False
    store_holder: int | None = None
    node_holder: int | None = None
    socket: Literal["answers", "silent", "stale", "none"] = "none"
    socket_path: str = ""
    down: bool = False
    replacing: bool = False
    replacer: int | None = None
    store: int = 0
    outputs: int = 0
    tasks: int = 0
    backups: tuple[tuple[str, int], ...] = ()
    replaced: tuple[tuple[str, int], ...] = ()
    free: int | None = None
    floor: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFact:
    """Whether the control server answered this command.

    Attributes:
        proxy: it answered only by the proxy of this shell's environment, which a daemon has not.
        offset_s: this machine's clock less the server's; None = the server told no time.
    """

    url: str
    reached: bool
    proxy: bool = False
    offset_s: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonFacts:
    """What the running daemon says of itself.

    Attributes:
        kind: who starts it again: `service`, `detached`, `foreground`; empty = not known.
        problems: what it says is in its way.
        oldest_text: when the oldest prompt that is still kept was stored.
        health: the node's own warnings.
    """

    version: str
    phase: str
    pid: int = 0
    kind: str = ""
    node: str = ""
    node_id: str = ""
    user: str = ""
    tailnet: str = ""
    testnet: bool = False
    addresses: tuple[str, ...] = ()
    login_url: str = ""
    key_expiry: datetime | None = None
    worker: bool = False
    enforcement: str = ""
    enforcement_note: str = ""
    containment: str = ""
    containment_note: str = ""
    running: int = 0
    rows: int = 0
    problems: tuple[Fault, ...] = ()
    health: tuple[str, ...] = ()
    search_path: str = ""
    oldest_text: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFact:
    """What asking a runner's model for one word came to."""

    ok: bool
    problem: str = ""
    seconds: float = 0.0
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerFact:
    """A runner as the daemon has it, and as this user's shell would start it.

    Attributes:
        wanted: the configuration or a rule names it.
        program: what the daemon starts; empty = it finds none.
        shell_program: what a login shell starts by that name; empty = nothing; None = not asked.
        login_until: when its login ends, where that is known.
        test: how its self-test stands.
    """

    name: str
    wanted: bool = False
    available: bool = False
    program: str = ""
    version: str = ""
    credential: str = ""
    reason: str = ""
    hint: str = ""
    refused: str = ""
    test: str = ""
    shell_program: str | None = None
    login_until: datetime | None = None
    live: LiveFact | None = None


Entry = Literal["current", "old", "foreign", "none", "unreadable"]
"""How cmesh's entry in an agent's settings stands; see `AgentFact`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFact:
    """A coding agent of this user, and whether it knows cmesh's MCP server.

    Attributes:
        entry: `current`, `old` (ours, of another form or place), `foreign` (somebody else's by
            our name), `none`, or `unreadable`.
        file: its configuration.
    """

    name: str
    entry: Entry
    file: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFact:
    """The service manager of this user, and cmesh's unit in it.

    Attributes:
        manager: `systemd`, `launchd`, `windows`; empty = none that is known.
        installed: the unit's file is there; `current`: it is what this version would write.
        enabled: it starts by itself; `active`: it runs now.
        lingers: it runs without a login of the user; None = no such question.
    """

    manager: str = ""
    installed: bool = False
    current: bool = True
    enabled: bool = False
    active: bool = False
    lingers: bool | None = None
    file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFact:
    """A node of the tailnet as the daemon knows it.

    Attributes:
        direct: it is reached without a relay; None = it was not asked.
        relay: DERP region that it is reached by, when not directly.
    """

    name: str
    node_id: str
    user: str = ""
    addresses: tuple[str, ...] = ()
    online: bool = False
    expired: bool = False
    shared: bool = False
    link: str = "none"
    trust: str = "unknown"
    version: str = ""
    may_ask: tuple[str, ...] = ()
    runners: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    direct: bool | None = None
    relay: str = ""
    ping_ms: float | None = None
    path_problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All of it.

    Attributes:
        now: by this machine's clock.
        version: of the command that looks.
        home: this user's home directory.
        config: as read; None = it cannot be, and `config_error` says why.
        daemon: None = none answered, and `no_daemon` says why.
        runners, peers, agents, service, control: None = not looked at.
    """

    now: datetime
    version: str
    home: str
    config_file: str
    state: StateFacts
    config: Config | None = None
    config_error: Fault | None = None
    daemon: DaemonFacts | None = None
    no_daemon: Fault | None = None
    control: ControlFact | None = None
    runners: tuple[RunnerFact, ...] | None = None
    peers: tuple[PeerFact, ...] | None = None
    peers_error: Fault | None = None
    agents: tuple[AgentFact, ...] | None = None
    service: ServiceFact | None = None
    notes: tuple[str, ...] = field(default=())
