"""Looking at this machine and its tailnet for the wizard: facts, and nothing changed.

To know whether cmesh runs on another machine of the same tailnet it is called once, at the port
of the link; what it may do here is decided as always.
"""

import asyncio
import platform
import socket
from pathlib import Path

from cmesh.daemon import runner_views
from cmesh.daemon.arguments import Context
from cmesh.daemon.core import Daemon
from cmesh.daemon.roots import real_path
from cmesh.daemon.runner_answers import RunnerView
from cmesh.daemon.trust import BY_CODE
from cmesh.errors import NotCmesh, PeerUnreachable, PeerUntrusted, ServiceFailed
from cmesh.keys import fingerprint
from cmesh.model import Identity, host_label
from cmesh.node.whois import Peer
from cmesh.platform.users import is_superuser
from cmesh.policy.match import match_peer
from cmesh.runner.programs import Programs
from cmesh.setup import registering, tailscale
from cmesh.setup.facts import AgentFact, Facts, PeerFact, RunnerFact, SystemTailscale, UnitFact
from cmesh.setup.plan import FOREVER
from cmesh.setup.records import Applied, Records, read_text
from cmesh.setup.service import here, manager
from cmesh.setup.service.kept import read_kept
from cmesh.setup.surroundings import Surroundings, surroundings

__all__ = ["Look"]

MEET_LIMIT_S = 4.0
MEET_MOST = 16
"""Machines that are called in one look."""


class Look:
    """Looks; keeps what a login shell says of `PATH` and nothing else."""

    def __init__(self, daemon: Daemon, records: Records) -> None:
        self._daemon = daemon
        self._records = records
        self._programs = Programs()
        self._called: set[str] = set()

    async def facts(self, context: Context, *, meet: bool = False) -> Facts:
        """Return all there is to know; with `meet` unknown machines are called first."""
        daemon = self._daemon
        if daemon.configured:
            await daemon.presence.rising()
        found = await self._peers(meet=meet)
        runners = await runner_views.runners(daemon)
        config, status = daemon.rules.config(), daemon.presence.status
        file = daemon.settings.config_file
        text = await asyncio.to_thread(read_text, file)
        applied = await asyncio.to_thread(self._records.applied)
        state = daemon.settings.state_dir
        holding = daemon.sandboxes.found
        phase = daemon.presence.phase if daemon.configured else "setup"
        return Facts(
            os=platform.system().lower(),
            arch=platform.machine(),
            host=socket.gethostname(),
            home=Path.home().resolve(),
            config_file=file,
            state_dir=state,
            config=text,
            problem=daemon.rules.error.message if daemon.rules.error else "",
            phase=phase,
            node=host_label(status.name) if status else config.node.hostname,
            login_url=daemon.presence.login_url if phase != "up" else "",
            tailnet=status.tailnet if status else "",
            testnet=status.testnet if status else False,
            control_url=config.node.control_url,
            fingerprint=fingerprint(daemon.key.public),
            keep_text=_kept(config.store.keep_text_days, applied),
            kept_asked=_asked(applied, "machine"),
            own=tuple(one.resolve() for one in (file.parent, state)),
            project=real_path(context.project),
            agents=await asyncio.to_thread(self._agents),
            agents_asked=_asked(applied, "agents"),
            runners=tuple(self._runner(one) for one in runners.runners if _counts(one, self)),
            peers=tuple(found),
            tailscale=await asyncio.to_thread(self._tailscale),
            sandbox=holding.label if holding else "",
            service=await asyncio.to_thread(_keeper, state),
            serviceable=await asyncio.to_thread(_serviceable, state),
            unit=await asyncio.to_thread(_unit, state, file.parent),
            service_asked=any(one.plan.step == "service" for one in applied),
            wanted_name=config.node.hostname,
            trouble=daemon.presence.trouble if daemon.configured else "",
            root_refused=is_superuser() and not config.worker.allow_root,
        )

    def moment(self) -> tuple[object, ...]:
        """Return what tells that something the wizard waits for has changed; cheap."""
        daemon = self._daemon
        links = sorted(
            (link.identity.node_id, str(daemon.links.contact(link.identity.node_id).may))
            for link in daemon.links.all()
        )
        return (
            daemon.configured,
            daemon.presence.phase,
            daemon.presence.login_url,
            daemon.rules.config().sha256,
            daemon.trust.shown(),
            tuple(links),
        )

    async def _peers(self, *, meet: bool) -> list[PeerFact]:
        daemon = self._daemon
        if daemon.presence.phase != "up" or not daemon.configured:
            return []
        found = [peer for peer in await daemon.presence.node.peers() if not peer.identity.expired]
        if meet:
            await self._meet(found)
        return [self._peer(peer) for peer in found]

    async def _meet(self, peers: list[Peer]) -> None:
        """Call machines of which nothing is known, and those that a link is wanted with."""
        links, trust = self._daemon.links, self._daemon.trust
        todo = [
            peer.identity.node_id
            for peer in peers
            if peer.online
            and not peer.identity.shared
            and links.get(peer.identity.node_id) is None
            and (
                peer.identity.node_id not in self._called
                or trust.standing(peer.identity.node_id) == "trusted"
                or isinstance(links.contact(peer.identity.node_id).error, PeerUnreachable)
            )
        ]
        self._called |= set(todo)
        await asyncio.gather(
            *(links.attempt(one, MEET_LIMIT_S, unasked=True) for one in todo[:MEET_MOST])
        )

    def _peer(self, peer: Peer) -> PeerFact:
        daemon, identity = self._daemon, peer.identity
        node_id = identity.node_id
        contact, standing = daemon.links.contact(node_id), daemon.trust.standing(node_id)
        refused = isinstance(contact.error, PeerUntrusted)  # by a cmesh that does not know us
        answered = contact.at is not None or standing != "unknown" or refused
        is_cmesh = True if answered else False if isinstance(contact.error, NotCmesh) else None
        asks, works = self._rules(identity)
        return PeerFact(
            name=identity.label,
            node_id=node_id,
            user=identity.user,
            online=peer.online,
            shared=identity.shared,
            is_cmesh=is_cmesh,
            linked=daemon.links.get(node_id) is not None,
            trust=standing,
            fingerprint=daemon.trust.fingerprint(node_id),
            by_code=daemon.trust.confirmed_by(node_id) == BY_CODE,
            asks=asks,
            works=works,
            may_ask=tuple(profile.value for profile in contact.may.profiles),
            runners=tuple(contact.may.runners),
            paths=tuple(contact.may.paths),
        )

    def _rules(self, identity: Identity) -> tuple[bool, bool]:
        """Say whether an outbound, and an inbound rule allows something with a peer."""
        policy = self._daemon.rules.policy()
        asks = any(r.effect == "allow" and match_peer(identity, r.peers) for r in policy.outbound)
        works = any(r.effect == "allow" and match_peer(identity, r.peers) for r in policy.inbound)
        return asks, works

    def _runner(self, view: RunnerView) -> RunnerFact:
        obstacle = view.reason or view.refused
        return RunnerFact(
            name=view.name,
            program=view.program or self._daemon.runners.find(view.name),
            version=view.version,
            sandboxed="query" in view.profiles,
            needs_key=view.takes_key and not view.available,
            obstacle=obstacle,
        )

    def find(self, name: str) -> str:
        """Return the program of a runner; empty = it is not on this machine."""
        return self._daemon.runners.find(name)

    def _agents(self) -> tuple[AgentFact, ...]:
        return registering.seen(self.surroundings())

    def surroundings(self) -> Surroundings:
        """Return where agents keep their settings here; blocks at first."""
        return surroundings(self._programs)

    def _tailscale(self) -> SystemTailscale | None:
        return tailscale.find(self._programs.find("tailscale"))


def _counts(view: RunnerView, look: Look) -> bool:
    return view.available or view.wanted or bool(look.find(view.name))


def _serviceable(state: Path) -> bool:
    return manager.which(here.surroundings(state)) is not None


def _keeper(state: Path) -> str:
    """Return the manager that starts the daemon by itself; empty = none does."""
    kept = read_kept(state)
    if kept is None or not manager.standing(kept, here.surroundings(state)).enabled:
        return ""
    return kept.manager


def _unit(state: Path, config: Path) -> UnitFact | None:
    try:
        return here.unit_fact(state, config)
    except ServiceFailed:  # no unit file can name these directories
        return None


def _kept(days: int | None, applied: list[Applied]) -> str | None:
    if days is not None:
        return f"{days}d"
    said = [one.plan.kept for one in applied if one.plan.kept and not one.undone]
    return FOREVER if said[-1:] == [FOREVER] else None


def _asked(applied: list[Applied], step: str) -> bool:
    """Say whether the step's question was answered before; of `machine` it is that of texts."""
    return any(
        one.plan.step == step and not one.undone and (step != "machine" or one.plan.kept)
        for one in applied
    )
