"""Which rules a pairing would write: profile `query`, one directory, one peer by its node id.

What the owner's own rules allow already is found out by asking them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmesh.daemon.core import Daemon
from cmesh.daemon.pair_calls import PairRulesArguments
from cmesh.daemon.roots import real_path
from cmesh.daemon.runner_views import runners
from cmesh.errors import PairingEnded, RootRefused, RunnerUnavailable, UsageError
from cmesh.model import Identity, Limits, Operation, Profile
from cmesh.platform.users import is_superuser
from cmesh.policy.decide import decide_inbound, decide_outbound
from cmesh.policy.match import is_at_or_below, normal_path, overlaps
from cmesh.policy.request import InboundRequest, OutboundRequest
from cmesh.setup.configtext import rule_text
from cmesh.setup.plan import AS_ROOT_HINT
from cmesh.text import one_line

__all__ = ["Rule", "Wanted"]

RUNTIME, CONCURRENT, PER_DAY = "15m", 2, 50
"""What a paired machine may use here; the owner raises it in config.toml."""

PROMPT_BYTES = 20_000

_COMMENT = "Written by `cmesh pair`; `cmesh pair --undo {peer}` takes it out."


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule that would be written; `allowed_by`: the owner's own rule says it already."""

    direction: str
    name: str
    text: str
    allowed_by: str = ""


class Wanted:
    """Works out the rules of one daemon's pairings; changes nothing."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def rules(
        self, identity: Identity, name: str, arguments: PairRulesArguments
    ) -> list[Rule]:
        """Return the rules that a paired peer would get.

        Raises:
            UsageError, RunnerUnavailable, RootRefused: as `checked`.
            PairingEnded: the rule would say more of the peer than the person was shown.
        """
        rules: list[Rule] = []
        if arguments.directory:
            _require_shown(identity, name, arguments)
            directory, names = await self.checked(arguments.directory, arguments.runners)
            rules.append(self._inbound(identity, name, directory, names))
        if arguments.ask:
            rules.append(self._outbound(identity, name))
        return rules

    def cannot_work(self) -> str:
        """Say why this machine would refuse every task of a peer; empty = it would not."""
        if not is_superuser() or self._daemon.rules.config().worker.allow_root:
            return ""
        return "the daemon here runs as root, so it would refuse every task"

    async def checked(self, directory: str, named: Sequence[str]) -> tuple[str, list[str]]:
        """Return a directory as it really is, empty where none is named, and who works in it.

        Raises:
            UsageError: the directory is none that a pairing may give to a peer.
            RunnerUnavailable: no agent can work in it, or not one that is named.
            RootRefused: no task would run here.
        """
        if refusal := self.cannot_work():
            raise RootRefused(refusal, hint=AS_ROOT_HINT)
        place = await asyncio.to_thread(self._directory, directory) if directory else ""
        return place, await self._runners(named)

    def _directory(self, text: str) -> str:
        """Return a directory as it really is, if a pairing may give it to a peer."""
        path = real_path(_expanded(text))
        if normal_path(path) is None or not Path(path).is_dir():
            raise UsageError(
                f"`{text}` is no directory here", hint="name one from its root: /srv/myapp"
            )
        home = real_path(str(Path.home()))
        settings = self._daemon.settings
        own = [real_path(str(one)) for one in (settings.state_dir, settings.config_file.parent)]
        if Path(path) == Path(path).parent or is_at_or_below(home, (path,)):
            raise UsageError(
                f"`{path}` is more than one project: all of your files would be read",
                hint="name the directory of one project; wider rules are yours to write",
            )
        if any(overlaps(path, (one,)) for one in own):
            raise UsageError(
                f"`{path}` is cmesh's own, or holds it", hint="name the directory of a project"
            )
        return path

    async def _runners(self, named: Sequence[str]) -> list[str]:
        """Return who may work for the peer: those named, else every agent that can in a sandbox."""
        known = {one.name: one for one in (await runners(self._daemon)).runners}
        if named:
            for name in named:
                one = known.get(name)
                if one is None or not one.available:
                    raise RunnerUnavailable(
                        f"runner `{name}`: {one.reason if one else 'not on this machine'}",
                        hint=(one.hint if one else "") or "cmesh runners list",
                    )
            return list(dict.fromkeys(named))
        query = Profile.QUERY.value
        found = [
            name
            for name, one in known.items()
            if one.available and query in one.profiles and not name.startswith("command:")
        ]
        if not found:
            raise RunnerUnavailable(
                "no agent can work here in a sandbox",
                hint="`cmesh runners list` says why; or name a command: `--runner command:NAME`",
            )
        return found

    def _inbound(self, identity: Identity, peer: str, directory: str, names: Sequence[str]) -> Rule:
        name = self._free("inbound", f"pair: {peer} may ask about {Path(directory).name}")
        fields: dict[str, object] = {
            "name": name,
            "peers": [f"node:{identity.node_id}"],
            "operations": [Operation.TASK.value, Operation.FOLLOW_UP.value],
            "profiles": [Profile.QUERY.value],
            "runners": list(names),
            "paths": [directory],
            "limits": {"runtime": RUNTIME, "concurrent": CONCURRENT, "per_day": PER_DAY},
        }
        text = rule_text("inbound", fields | _special(identity), comment=_COMMENT.format(peer=peer))
        return Rule(
            direction="inbound",
            name=name,
            text=text,
            allowed_by=self._allows_in(identity, directory, names),
        )

    def _outbound(self, identity: Identity, peer: str) -> Rule:
        name = self._free("outbound", f"pair: ask {peer}")
        fields: dict[str, object] = {
            "name": name,
            "peers": [f"node:{identity.node_id}"],
            "profiles": [Profile.QUERY.value],
            "prompt_bytes": PROMPT_BYTES,
        }
        text = rule_text("outbound", fields, comment=_COMMENT.format(peer=peer))
        return Rule(
            direction="outbound", name=name, text=text, allowed_by=self._allows_out(identity)
        )

    def _free(self, direction: str, base: str) -> str:
        """Return a name that no other rule has."""
        policy = self._daemon.rules.policy()
        rules = policy.inbound if direction == "inbound" else policy.outbound
        taken = {rule.name for rule in rules}
        base = one_line(base, 140)
        free = (base, *(f"{base} {number}" for number in range(2, len(taken) + 3)))
        return next(name for name in free if name not in taken)

    def _allows_in(self, identity: Identity, directory: str, names: Sequence[str]) -> str:
        """Name a rule that allows all of it already; empty = none does."""
        rule = ""
        for runner in names:
            request = InboundRequest(
                identity=identity,
                operation=Operation.TASK,
                profile=Profile.QUERY,
                runner=runner,
                directory=directory,
                accept=(),
                runtime_s=1,
                output_bytes=Limits().output_bytes,
                cost_usd=None,
                running=0,
                today=0,
                reports_cost=True,
                reports=frozenset({"turns", "tokens"}),
                chain=(),
                self_id=self._daemon.self_id(),
            )
            decision = decide_inbound(request, self._daemon.rules.policy())
            if decision.effect != "allow":
                return ""
            rule = decision.rule or ""
        return rule

    def _allows_out(self, identity: Identity) -> str:
        request = OutboundRequest(
            identity=identity,
            profile=Profile.QUERY,
            runner="",
            project="",
            prompt_bytes=PROMPT_BYTES,
            sends_changes=False,
            chain=(),
            self_id=self._daemon.self_id(),
        )
        decision = decide_outbound(request, self._daemon.rules.policy())
        return (decision.rule or "") if decision.effect == "allow" else ""


def _expanded(text: str) -> str:
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        return text  # nobody has that name: it stays relative, and is refused


def _require_shown(identity: Identity, name: str, arguments: PairRulesArguments) -> None:
    for is_so, shown, what in (
        (identity.shared, arguments.shared, "is a node of another tailnet"),
        (identity.router, arguments.router, "routes subnets"),
    ):
        if is_so and not shown:
            raise PairingEnded(
                f"`{name}` {what}, which was not so when it was shown; no rule was written",
                hint=f"make sure that it is the machine you mean, then `cmesh pair {name}`",
            )


def _special(identity: Identity) -> dict[str, object]:
    """Return what a rule must say for a node of another tailnet, or one that advertises routes."""
    flags: dict[str, object] = {"shared": True} if identity.shared else {}
    return flags | ({"router": True} if identity.router else {})
