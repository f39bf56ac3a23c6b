"""A tailnet on loopback for the demo and the tests: control server, relay and STUN.

It runs as a separate program with its own state and protects nothing; nodes
join it only with `NodeOptions.allow_testnet`. Never used with a real tailnet.
"""

import asyncio
import contextlib
import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

from cmesh.errors import NodeError
from cmesh.model import NodeId
from cmesh.node.ffi import allow_loopback_only

__all__ = ["BINARY", "Grant", "Testnet", "TestnetNode", "allow_loopback_only"]

BINARY = Path(__file__).parent / "bin" / "cmesh-testnet"
START_LIMIT_S = 15.0
STOP_LIMIT_S = 5.0
CALL_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TestnetNode:
    """A node as the control server knows it; `expiry` None = never."""

    __test__ = False  # not a test case

    node_id: NodeId
    name: str
    label: str
    user: str
    tags: tuple[str, ...]
    addresses: tuple[str, ...]
    online: bool
    ephemeral: bool
    shared_by: str
    routes: tuple[str, ...]
    expiry: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Application capabilities that nodes matching `src` have on nodes matching `dst`.

    Selectors are `*`, a login name, a tag, a node id or a host label.
    """

    src: tuple[str, ...]
    dst: tuple[str, ...]
    app: Mapping[str, Sequence[object]]


class Testnet:
    """A running test tailnet; an async context manager.

    Attributes:
        control_url: what nodes are given; empty before the start.
        state_dir: keeps keys and nodes over restarts; None = in memory only.
        auto_user: logs every node in as this user; empty = login by URL.
        listen: loopback `ip:port` of the control server, port 0 = any.
    """

    __test__ = False  # not a test case

    def __init__(
        self, *, state_dir: Path | None = None, auto_user: str = "", listen: str = "127.0.0.1:0"
    ) -> None:
        self.control_url = ""
        self.state_dir = state_dir
        self.auto_user = auto_user
        self.listen = listen
        self._admin = ""
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the program and wait until it serves. It ends with this process.

        This process's nodes may use loopback from then on, unless one exists already.

        Raises:
            NodeError: the program is missing or does not start.
        """
        if not BINARY.exists():
            raise NodeError(
                "the test tailnet's program is missing", hint="python build_ext.py --inplace"
            )
        with contextlib.suppress(NodeError):
            allow_loopback_only()
        argv = [str(BINARY), "--exit-with-stdin", "--listen", self.listen]
        if self.state_dir is not None:
            argv += ["--state-dir", str(self.state_dir)]
        if self.auto_user:
            argv += ["--auto-user", self.auto_user]
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *argv, stdin=pipe, stdout=pipe, stderr=pipe, env={}, start_new_session=True
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_LIMIT_S):
            line = await self._process.stdout.readline()
        if not line:
            _out, err = await self._process.communicate()
            raise NodeError(f"the test tailnet did not start: {err.decode().strip()}")
        ready = json.loads(line)
        self.control_url, self._admin = str(ready["control_url"]), str(ready["admin_url"])

    async def close(self) -> None:
        """Stop the program and wait for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await process.communicate()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def nodes(self) -> tuple[TestnetNode, ...]:
        """Return the nodes, oldest first; deleted ones are not listed."""
        return tuple(_node(raw) for raw in await self._call("GET", "/nodes"))

    async def auth_key(
        self,
        user: str,
        *,
        tags: Sequence[str] = (),
        reusable: bool = False,
        ephemeral: bool = False,
        expires_at: datetime | None = None,
    ) -> str:
        """Make an auth key that logs nodes in as `user`, with `tags` if any."""
        body = {"user": user, "tags": list(tags), "reusable": reusable, "ephemeral": ephemeral}
        if expires_at is not None:
            body["expiry"] = expires_at.isoformat()
        made = await self._call("POST", "/auth-keys", body)
        return str(made["key"])

    async def complete_login(self, url: str, user: str, *, tags: Sequence[str] = ()) -> None:
        """Do what a person does at a login URL: log the node in as `user`."""
        await self._call("POST", "/logins", {"url": url, "user": user, "tags": list(tags)})

    async def deny_login(self, url: str, reason: str) -> None:
        """Refuse the login at a URL."""
        await self._call("POST", "/logins", {"url": url, "deny": reason})

    async def set_auto_user(self, user: str) -> None:
        """Log new nodes in as `user`; empty = login by URL."""
        await self._call("PUT", "/auto-user", {"user": user})

    async def set_user(self, node: str, user: str) -> None:
        """Give a node another owner."""
        await self._change(node, {"user": user})

    async def set_tags(self, node: str, tags: Sequence[str]) -> None:
        """Tag a node; none = it belongs to its user again."""
        await self._change(node, {"tags": list(tags)})

    async def expire(self, node: str, at: datetime | None) -> None:
        """End a node's key at a time, which may be past; None = never."""
        await self._change(node, {"expiry": "" if at is None else at.isoformat()})

    async def share(self, node: str, by: str) -> None:
        """Make a node one of another tailnet, shared in by user `by`; empty = ours again."""
        await self._change(node, {"shared_by": by})

    async def set_routes(self, node: str, prefixes: Sequence[str]) -> None:
        """Let a node route subnets for the others."""
        await self._change(node, {"routes": list(prefixes)})

    async def delete(self, node: str) -> None:
        """Remove a node from the tailnet; it would have to log in as a new one."""
        await self._call("DELETE", f"/nodes/{quote(node, safe='')}")

    async def set_grants(self, grants: Sequence[Grant]) -> None:
        """Replace all grants."""
        body = [
            {
                "src": list(grant.src),
                "dst": list(grant.dst),
                "app": {name: list(values) for name, values in grant.app.items()},
            }
            for grant in grants
        ]
        await self._call("PUT", "/grants", body)

    async def _change(self, node: str, change: Mapping[str, object]) -> None:
        await self._call("PATCH", f"/nodes/{quote(node, safe='')}", change)

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        if self._process is None:
            raise NodeError("the test tailnet is not running")
        return await asyncio.to_thread(_request, self._admin, method, path, body)


def _request(admin: str, method: str, path: str, body: object) -> Any:
    url = urlsplit(admin)
    assert url.hostname is not None
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=CALL_LIMIT_S)
    try:
        connection.request(method, url.path + path, json.dumps(body))
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise NodeError(f"the test tailnet refused: {text.strip()}")
    return json.loads(text)


def _node(raw: Mapping[str, Any]) -> TestnetNode:
    expiry = raw.get("expiry")
    return TestnetNode(
        node_id=NodeId(str(raw["node_id"])),
        name=str(raw["name"]),
        label=str(raw["label"]),
        user=str(raw["user"]),
        tags=tuple(raw["tags"] or ()),
        addresses=tuple(raw["addresses"]),
        online=bool(raw["online"]),
        ephemeral=bool(raw["ephemeral"]),
        shared_by=str(raw["shared_by"]),
        routes=tuple(raw["routes"] or ()),
        expiry=None if expiry is None else datetime.fromisoformat(expiry),
    )
