"""What the wizard knows of this machine and its tailnet when it decides what comes next.

Values only. Who looks fills them; `steps` and `plan` read them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = [
    "AgentFact",
    "Facts",
    "PeerFact",
    "RunnerFact",
    "SystemPeer",
    "SystemTailscale",
    "UnitFact",
]

Phase = Literal["setup", "starting", "login", "up", "down", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFact:
    """A coding agent on this machine, as a caller: is `cmesh mcp` among its servers?

    Attributes:
        state: `ours` = as it should be; `outdated` = an older entry of ours; `foreign` =
            something else by our name; `missing` = no entry; `unreadable`, why in `note`.
    """

    name: str
    title: str = ""
    place: str = ""
    state: Literal["ours", "outdated", "foreign", "missing", "unreadable"] = "missing"
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerFact:
    """An agent or command on this machine, as a worker.

    Attributes:
        program: absolute path as a login shell resolves it; empty = not on this machine.
        sandboxed: it would run a task of profile `query` now.
        needs_key: it takes an API key of its own, and has none.
        obstacle: why it does not run; empty = it does.
    """

    name: str
    program: str = ""
    version: str = ""
    sandboxed: bool = False
    needs_key: bool = False
    obstacle: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemPeer:
    """A node that the system's Tailscale sees: a candidate for cmesh, by name only."""

    name: str
    os: str = ""
    online: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemTailscale:
    """A Tailscale of the system's own, which cmesh neither uses nor changes.

    Attributes:
        socket: of its daemon; empty = none was found.
        program: absolute path of `tailscale`; empty = its peers cannot be read.
        state: as the program says, such as `Running`; empty = it did not say.
        control_url: its control server, when it is not Tailscale's own.
    """

    socket: str = ""
    program: str = ""
    state: str = ""
    name: str = ""
    control_url: str = ""
    peers: tuple[SystemPeer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFact:
    """A node of cmesh's tailnet.

    Attributes:
        is_cmesh: it has answered as a cmesh node; None = not asked yet.
        trust: as `cmesh peers` says.
        by_code: a code has proved the key that is trusted.
        asks, works: a rule here names it, to ask it, or to work for it.
        may_ask: profiles that it lets this machine ask for.
    """

    name: str
    node_id: str
    user: str = ""
    online: bool = False
    shared: bool = False
    is_cmesh: bool | None = None
    linked: bool = False
    trust: Literal["trusted", "waiting", "changed", "unknown"] = "unknown"
    fingerprint: str = ""
    by_code: bool = False
    asks: bool = False
    works: bool = False
    may_ask: tuple[str, ...] = ()
    runners: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFact:
    """The systemd user unit that could keep the daemon.

    Attributes:
        wanted: the text that this version would write.
        found: the text that is there; None = no file.
        lingers: the user's units run without a log-in.
    """

    name: str
    file: Path
    wanted: str
    found: str | None = None
    lingers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All of it.

    Attributes:
        host: this machine's own name.
        home: behind all links, as `project` is.
        own: cmesh's own directories, behind all links.
        config: the text of `config.toml`; None = there is no file.
        problem: why the file is not in force; empty = it is, or there is none.
        keep_text: what it says of how long texts are kept; None = nothing.
        kept_asked: somebody was asked before how long texts are kept.
        service: which service manager keeps the daemon and starts it by itself; empty = none does.
        serviceable: a service manager of this user runs, so that one could.
        unit: what the wizard would give to systemd; None = no systemd of this user runs.
        service_asked: whether it shall was asked before.
        wanted_name: what the configuration says that this machine is called.
        trouble: why the node is not up, as far as that is known; empty = it is, or it is not known.
        root_refused: the daemon is root and may not run tasks so: it would refuse each.
        project: directory that the asker works in; empty = not known.
    """

    os: str
    arch: str
    host: str
    home: Path
    config_file: Path
    state_dir: Path
    own: tuple[Path, ...] = ()
    config: str | None = None
    problem: str = ""
    phase: Phase = "setup"
    node: str = ""
    login_url: str = ""
    tailnet: str = ""
    testnet: bool = False
    control_url: str = ""
    fingerprint: str = ""
    keep_text: str | None = None
    kept_asked: bool = False
    project: str = ""
    agents: tuple[AgentFact, ...] = ()
    agents_asked: bool = False
    runners: tuple[RunnerFact, ...] = ()
    peers: tuple[PeerFact, ...] = ()
    tailscale: SystemTailscale | None = None
    sandbox: str = ""
    service: str = ""
    serviceable: bool = True
    unit: UnitFact | None = None
    service_asked: bool = False
    wanted_name: str = ""
    trouble: str = ""
    root_refused: bool = False

    @property
    def workable(self) -> tuple[RunnerFact, ...]:
        """Return the runners that would work for others in a sandbox now."""
        return tuple(runner for runner in self.runners if runner.sandboxed and not runner.obstacle)
