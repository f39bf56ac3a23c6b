"""The rules of a pairing: one narrow one for each direction, written when both keys are confirmed.

Profile `query` alone, one directory, one peer by its node id. What was written is kept beside the
state, so that it can be taken out again exactly, and nothing else.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from cmesh.daemon.core import Daemon
from cmesh.daemon.pair_calls import (
    PairRulesArguments,
    PairRulesView,
    PairRuleView,
    UnpairArguments,
)
from cmesh.daemon.pair_wanted import Rule, Wanted
from cmesh.daemon.trust import BY_CODE
from cmesh.errors import ConfigError, PeerUntrusted, UnknownPeer
from cmesh.model import Identity
from cmesh.paths import replace_file
from cmesh.setup.configtext import with_rule, without_block
from cmesh.setup.configwrite import rewrite
from cmesh.store.records import AuditRecord

__all__ = ["PairRules"]

RULES_FILE = "pairings.json"


class _Written(BaseModel):
    """A rule as it was written into the configuration."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    peer_id: str
    peer: str
    direction: str
    name: str
    text: str


_FILE = TypeAdapter(tuple[_Written, ...])


class PairRules:
    """Writes and takes out the rules of pairings; one change at a time."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._file = daemon.settings.state_dir / RULES_FILE
        self._wanted = Wanted(daemon)
        self._lock = asyncio.Lock()

    def cannot_work(self) -> str:
        """Say why no task of a peer would run here, whatever is allowed; empty = they would."""
        return self._wanted.cannot_work()

    async def require(self, directory: str, runners: Sequence[str]) -> None:
        """Check what a peer is to be allowed before anything is begun with it.

        Raises:
            UsageError, RunnerUnavailable, RootRefused: as `Wanted.checked`.
        """
        if directory or runners:
            await self._wanted.checked(directory, runners)

    async def add(self, pid: int, arguments: PairRulesArguments) -> PairRulesView:
        """Show the rules that a paired peer would get, and write them if asked to.

        Raises:
            PeerUntrusted: nobody has confirmed the peer's key by a code.
            UsageError: the directory is none that a peer may be given by a pairing.
            RunnerUnavailable: no agent can work in it.
            RootRefused: no task would run here.
            ConfigError: the configuration cannot be used or written; nothing was written.
        """
        daemon = self._daemon
        peer = await daemon.presence.peer(arguments.peer)
        identity = await daemon.presence.identify(peer.identity.node_id)
        daemon.trust.require_same(identity)
        name = identity.label
        if daemon.trust.confirmed_by(identity.node_id) != BY_CODE:
            raise PeerUntrusted(
                f"nobody has confirmed the key of `{name}` by a code",
                hint=f"run `cmesh pair {name}` here, and `cmesh pair` there",
            )
        daemon.rules.require_in_force()
        rules = await self._wanted.rules(identity, name, arguments)
        async with self._lock:
            written = await asyncio.to_thread(self._read)
            new = [rule for rule in rules if not rule.allowed_by]
            if arguments.write and new:
                await self._write(pid, identity, new, written)
        return PairRulesView(
            peer=name,
            node_id=identity.node_id,
            file=str(daemon.settings.config_file),
            rules=[_view(one, written=arguments.write) for one in rules],
        )

    async def remove(self, pid: int, arguments: UnpairArguments) -> PairRulesView:
        """Take out the rules that pairings with a peer have written; or only show them.

        One that was changed since is left as it is. A peer that has left the tailnet is meant too.

        Raises:
            UnknownPeer: no pairing with such a peer has written a rule.
            ConfigError: the configuration cannot be used or written; nothing was changed.
        """
        daemon, config = self._daemon, self._daemon.settings.config_file
        async with self._lock:
            written = await asyncio.to_thread(self._read)
            mine = [one for one in written if arguments.peer in (one.peer, one.peer_id)]
            ids = {one.peer_id for one in mine}
            if len(ids) != 1:
                raise UnknownPeer(
                    f"no rule of a pairing with `{arguments.peer}` is there"
                    if not ids
                    else f"`{arguments.peer}` means more than one node",
                    hint=f"name `{'` or `'.join(sorted(ids))}`" if ids else "cmesh policy show",
                )
            states = await asyncio.to_thread(_take_out, config, mine, write=arguments.write)
            if arguments.write:
                daemon.rules.config()  # it counts from now on
                kept = [one for one in written if one not in mine or states[one] == "changed"]
                await self._row(pid, "rules_removed", mine[0].peer_id, mine[0].peer, mine)
                await asyncio.to_thread(self._keep, kept)
        return PairRulesView(
            peer=mine[0].peer,
            node_id=mine[0].peer_id,
            file=str(config),
            rules=[
                PairRuleView.model_validate(
                    {
                        "direction": one.direction,
                        "name": one.name,
                        "text": one.text,
                        "state": states[one],
                    }
                )
                for one in mine
            ],
        )

    async def _write(
        self,
        pid: int,
        identity: Identity,
        new: Sequence[Rule],
        written: Sequence[_Written],
    ) -> None:
        peer = identity.label
        added = [
            _Written(
                peer_id=identity.node_id,
                peer=peer,
                direction=rule.direction,
                name=rule.name,
                text=rule.text,
            )
            for rule in new
        ]

        def change(text: str) -> str:
            for rule in new:
                text = with_rule(text, rule.direction, rule.text)
            return text

        # Kept first: a rule that is in the file and not in the list could not be taken out again.
        await asyncio.to_thread(self._keep, [*written, *added])
        try:
            await asyncio.to_thread(rewrite, self._daemon.settings.config_file, change)
        except ConfigError:
            await asyncio.to_thread(self._keep, written)
            raise
        self._daemon.rules.config()  # it counts from now on
        await self._row(pid, "rules_written", identity.node_id, peer, added)

    async def _row(
        self, pid: int, what: str, peer_id: str, peer: str, rules: Sequence[_Written]
    ) -> None:
        data = {
            "what": what,
            "peer_id": peer_id,
            "peer": peer,
            "pid": pid,
            "rules": [f"{one.direction}: {one.name}" for one in rules],
        }
        await self._daemon.store.commit([AuditRecord(kind="pairing", data=data)])

    def _read(self) -> tuple[_Written, ...]:
        try:
            return _FILE.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"`{self._file}` cannot be read, so what pairings wrote is not known",
                hint="move it away; take their rules out of config.toml by hand",
            ) from error

    def _keep(self, rules: Sequence[_Written]) -> None:
        try:
            replace_file(self._file, _FILE.dump_json(tuple(rules), indent=1))
        except OSError as error:
            raise ConfigError(f"`{self._file}` cannot be written: {error.strerror}") from error


def _take_out(config: Path, rules: Sequence[_Written], *, write: bool) -> dict[_Written, str]:
    """Take rules out of the configuration; say of each what became of it."""
    states: dict[_Written, str] = {}

    def change(text: str) -> str:
        for rule in rules:
            rest = without_block(text, rule.text)
            if rest is not None:
                text, states[rule] = rest, "removed"
            else:
                named = json.dumps(rule.name, ensure_ascii=False)
                states[rule] = "changed" if f"name = {named}" in text else "gone"
        return text

    if write:
        rewrite(config, change)
    else:
        change(config.read_text("utf-8"))
    if not write:
        states = {one: "there" if state == "removed" else state for one, state in states.items()}
    return states


def _view(rule: Rule, *, written: bool) -> PairRuleView:
    state = "there" if rule.allowed_by else "written" if written else "new"
    return PairRuleView.model_validate(
        {
            "direction": rule.direction,
            "name": rule.name,
            "text": rule.text,
            "state": state,
            "allowed_by": rule.allowed_by,
        }
    )
