"""What one task may reach, and how its program is told. Values only, but for one small file.

The file stands in the task's directory, 0600, beside the launch record with the same secrets: a
daemon that adopts the task serves the same network. Nothing here is ever logged.
"""

import json
import os
import secrets
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from cmesh.errors import RunnerUnavailable
from cmesh.runner.egress.addresses import Address, parse_address
from cmesh.runner.egress.credentials import Credential, Gateway
from cmesh.runner.egress.gate import Gate
from cmesh.runner.egress.request import is_name

__all__ = [
    "MCP_PATH",
    "RELAY_PORT",
    "Endpoint",
    "Network",
    "grant",
    "grant_gateway",
    "inside",
    "load",
    "new_token",
    "save",
    "variables",
]

RELAY_PORT = 8119
"""The loopback port of a task's own network namespace; nothing else listens there."""

MCP_PATH = "/cmesh/mcp"
"""Where a task that may delegate asks for tasks; a model server must not use it for its own."""

TLS_PORT = 443
_TOKEN_BYTES = 32
_LOCALHOST = IPv4Address("127.0.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address and port, named by this machine's owner."""

    address: Address
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The network of one task.

    Attributes:
        hosts: names it may CONNECT to, on port 443, with TLS for that name.
        model: where all that is no CONNECT goes: the owner's own model server; None = nowhere.
        gate: what becomes of it instead: the daemon's gateway asks its model; None = there is none.
        token: what its CONNECTs must carry.
        mcp_token: what its calls of cmesh itself must carry; empty = it may not delegate.
        listens: it has no namespace, and `port` is one of the machine's own loopback, for those
            calls and nothing else.
    """

    hosts: frozenset[str]
    model: Endpoint | None = None
    gate: Gate | None = None
    token: str = field(repr=False)
    port: int = RELAY_PORT
    mcp_token: str = field(default="", repr=False)
    listens: bool = False

    @property
    def empty(self) -> bool:
        """There is nothing to reach, so that nothing has to be served."""
        return not self.outside and not self.mcp_token

    @property
    def outside(self) -> bool:
        """There is something beyond cmesh to reach."""
        return bool(self.hosts) or self.model is not None or self.gate is not None


def grant(
    runner: str, hosts: Collection[str], *, base_url: str = "", more: Collection[str] = ()
) -> Network:
    """Return the network of a new task, with a token of its own.

    `hosts` are the runner's model hosts, which a `base_url` of the owner replaces; `more` are
    those that the profile adds.

    Raises:
        RunnerUnavailable: a task cannot reach that `base_url`; says why and what would do.
    """
    model = None
    if base_url:
        url = _split(runner, base_url)
        hosts, model = (
            ((), _model(runner, url)) if url.scheme == "http" else (_host(runner, url), None)
        )
    names = frozenset(name.lower() for name in (*hosts, *more))
    return Network(hosts=names, model=model, token=new_token())


def grant_gateway(
    runner: str,
    gateway: Gateway,
    key_file: Path,
    *,
    account: bool = False,
    base_url: str = "",
    more: Collection[str] = (),
) -> Network:
    """Return the network of a new task that reaches its model through the daemon's gateway only.

    Arguments as of `grant`; a `base_url` of the owner may have any host, address and port.
    `key_file` is that of a key, or the login of an `account`.

    Raises:
        RunnerUnavailable: it is no URL that the gateway can ask.
    """
    url = _split(runner, base_url or gateway.base_url)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise _unusable(runner, "names no server", "`https://` and a host")
    secure = url.scheme == "https"
    gate = Gate(
        host=url.hostname.lower(),
        port=url.port or (TLS_PORT if secure else 80),
        secure=secure,
        own=bool(base_url),
        path=url.path.rstrip("/"),
        header=gateway.header,
        scheme=gateway.scheme,
        routes=gateway.routes,
        query=gateway.query,
        headers=gateway.headers,
        token=f"cmesh-task-{new_token()}",
        key_file=str(key_file),
        account=account,
    )
    hosts = frozenset(name.lower() for name in more)
    return Network(hosts=hosts, gate=gate, token=new_token())


def new_token() -> str:
    """Return a secret of its own for one task and one use."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def variables(
    network: Network, credential: Credential | None = None, *, base_url: str = ""
) -> dict[str, str]:
    """Return the environment by which the task's program finds its network; holds its tokens.

    `credential` says by which names it takes its key and the URL of its model's API.
    """
    here = f"127.0.0.1:{network.port}"
    found: dict[str, str] = {}
    if network.outside:
        proxy = f"http://task:{network.token}@{here}"
        # Some clients take the proxy for `http:` as well.
        direct = "127.0.0.1,localhost" if network.mcp_token else "127.0.0.1"
        found = {"HTTPS_PROXY": proxy, "NO_PROXY": direct}
        # Programs differ in which spelling they read; curl reads the lower one.
        found |= {name.lower(): value for name, value in found.items()}
    if network.mcp_token:
        # INVARIANT: another host name than the model's. Clients keep a connection for each, and
        # what comes over the model's goes to the model, whatever it asks for later.
        found["CMESH_MCP_URL"] = f"http://localhost:{network.port}{MCP_PATH}"
        found["CMESH_MCP_TOKEN"] = network.mcp_token
    variable = credential.base_url_variable if credential else ""
    if network.gate is not None and credential is not None:
        found[credential.variable] = network.gate.token
        base_url = network.gate.path
    if (network.model is not None or network.gate is not None) and variable:
        found[variable] = inside(base_url, port=network.port)
    return found


def inside(base_url: str, *, port: int = RELAY_PORT) -> str:
    """Return the URL of the owner's model server as a task in a sandbox sees it: at its relay."""
    return f"http://127.0.0.1:{port}{urlsplit(base_url).path}"


def save(network: Network, path: Path) -> None:
    """Write a network for the daemon that adopts its task; mode 0600, replaces, not synced.

    Raises:
        OSError: the disk refuses.
    """
    model = network.model
    fields: dict[str, object] = {
        "hosts": sorted(network.hosts),
        "model": None if model is None else [str(model.address), model.port],
        "token": network.token,
        "port": network.port,
        "mcp_token": network.mcp_token,
        "listens": network.listens,
    }
    if network.gate is not None:
        fields["gate"] = asdict(network.gate)
    fresh = path.with_name(f".{path.name}")
    with open(fresh, "w", encoding="ascii", opener=_open_private) as file:
        json.dump(fields, file)
    fresh.replace(path)


def load(path: Path) -> Network | None:
    """Read a network again; None when there is none, or it is not whole: then there is none."""
    try:
        fields = json.loads(path.read_text("ascii"))
        model = fields["model"]
        return Network(
            hosts=frozenset(fields["hosts"]),
            model=None if model is None else _endpoint(*model),
            gate=_gate(fields["gate"]) if "gate" in fields else None,
            token=fields["token"],
            port=fields["port"],
            mcp_token=fields.get("mcp_token", ""),  # an older daemon's file has neither
            listens=fields.get("listens", False),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _gate(fields: dict[str, Any]) -> Gate:
    values = dict(fields)
    for name in ("routes", "query", "headers"):
        values[name] = tuple(fields[name])
    return Gate(**values)


def _endpoint(address: str, port: int) -> Endpoint:
    parsed = parse_address(address)
    if parsed is None:
        raise ValueError("not an address")
    return Endpoint(address=parsed, port=port)


def _split(runner: str, base_url: str) -> SplitResult:
    try:
        url = urlsplit(base_url)
        _ = url.port  # raises here, not where it is used
    except ValueError:
        raise _unusable(runner, "is not a URL", "correct it") from None
    if url.username is not None or url.password is not None:
        raise _unusable(runner, "holds a user or password", "put the key into `key_file`")
    return url


def _host(runner: str, url: SplitResult) -> tuple[str, ...]:
    host = (url.hostname or "").lower()
    if not is_name(host) or (url.port or TLS_PORT) != TLS_PORT:
        why = "with https must be a host name and port 443 for a task in a sandbox"
        raise _unusable(runner, why, "a server of your own: `http://` and its exact address")
    return (host,)


def _model(runner: str, url: SplitResult) -> Endpoint:
    host = url.hostname or ""
    address = _LOCALHOST if host == "localhost" else parse_address(host)
    if address is None:
        why = "with http must be an exact address for a task in a sandbox"
        raise _unusable(runner, why, "write the address instead of the name, or use https")
    return Endpoint(address=address, port=url.port or 80)


def _unusable(runner: str, why: str, hint: str) -> RunnerUnavailable:
    return RunnerUnavailable(
        f"runner `{runner}`: `base_url` {why}", hint=f"`base_url` of [runners.{runner}]: {hint}"
    )
