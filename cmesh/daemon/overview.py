"""What a daemon says of itself, its peers and its rules: facts gathered into views."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import asdict

from cmesh import __version__
from cmesh.daemon.core import Daemon
from cmesh.daemon.operations import (
    DecisionView,
    ExplainArguments,
    PeersView,
    PeerView,
    Problem,
    StatusView,
)
from cmesh.daemon.rules import real_path
from cmesh.daemon.views import Knowledge, LinkState, decision_view
from cmesh.errors import CmeshError, NodeError, UsageError
from cmesh.keys import fingerprint
from cmesh.model import Direction, Limits, NodeId, Operation, Profile
from cmesh.node.whois import Peer
from cmesh.policy.decide import (
    Decision,
    InboundRequest,
    OutboundRequest,
    decide_inbound,
    decide_outbound,
)
from cmesh.store.records import TaskSnapshot

__all__ = [
    "explain",
    "failed_fields",
    "knowledge",
    "link_state",
    "peer_view",
    "peers",
    "status",
]


async def status(daemon: Daemon) -> StatusView:
    """Say what this daemon is and does; works in every phase."""
    config = daemon.rules.config()
    presence, clock = daemon.presence, daemon.settings.clock
    seen = presence.status
    allow = [rule for rule in config.policy.inbound if rule.effect == "allow"]
    profiles = sorted({profile.value for rule in allow for profile in rule.profiles})
    return StatusView(
        version=__version__,
        phase=presence.phase if daemon.configured else "setup",
        node=seen.name if seen else config.node.hostname,
        node_id=daemon.self_id(),
        user=(",".join(seen.tags) or seen.user) if seen else "",
        addresses=list(seen.addresses) if seen else [],
        tailnet=seen.tailnet if seen else "",
        testnet=seen.testnet if seen else False,
        login_url=presence.login_url,
        key_expiry=seen.key_expiry if seen else None,
        fingerprint=fingerprint(daemon.key.public),
        links=len(daemon.links.all()),
        running=daemon.worker.running,
        waiting=daemon.worker.waiting,
        worker=bool(allow),
        profiles=profiles,
        runners=list(daemon.runners.names()),
        state_dir=str(daemon.settings.state_dir),
        config_file=str(daemon.settings.config_file),
        pid=os.getpid(),
        uptime_s=round((clock.now() - daemon.started_at).total_seconds(), 1),
        store_seq=daemon.store.head[0],
        problems=await _problems(daemon),
    )


async def peers(daemon: Daemon) -> PeersView:
    """List the tailnet's nodes.

    Raises:
        NodeError: the node is not up.
    """
    daemon.presence.require_up()
    found = await daemon.presence.node.peers()
    return PeersView(peers=[peer_view(daemon, peer) for peer in found])


def peer_view(daemon: Daemon, peer: Peer) -> PeerView:
    """Show a peer, and what is known of cmesh on it."""
    identity = peer.identity
    contact = daemon.links.contact(identity.node_id)
    age = None
    if contact.at is not None:
        age = round((daemon.settings.clock.now() - contact.at).total_seconds(), 1)
    return PeerView(
        name=identity.name.partition(".")[0],
        node_id=identity.node_id,
        user=identity.user,
        tags=list(identity.tags),
        addresses=list(identity.addresses),
        online=peer.online,
        expired=identity.expired,
        shared=identity.shared,
        link=link_state(daemon, identity.node_id),
        trust=daemon.trust.standing(identity.node_id),
        fingerprint=daemon.trust.fingerprint(identity.node_id),
        version=contact.software,
        may_ask=[profile.value for profile in contact.may.profiles],
        runners=list(contact.may.runners),
        paths=list(contact.may.paths),
        last_contact_s=age,
    )


def link_state(daemon: Daemon, peer_id: NodeId) -> LinkState:
    """Say how a peer is reached at the moment."""
    if daemon.links.get(peer_id) is not None:
        return "connected"
    if daemon.links.dialling(peer_id):
        return "connecting"
    return "down" if daemon.links.contact(peer_id).error is not None else "none"


def knowledge(daemon: Daemon, task: TaskSnapshot) -> Knowledge:
    """Return what is known of a task besides its rows."""
    record = task.record
    link = link_state(daemon, record.peer_id)
    if record.direction is Direction.IN:
        return Knowledge(link=link)
    note = daemon.caller.note(record.task_id)
    code, reason = note.code, note.reason
    error = daemon.links.contact(record.peer_id).error
    if not code and link != "connected" and error is not None:
        code, reason = error.code, f"{error.message}; {error.hint}" if error.hint else error.message
    return Knowledge(
        link=link,
        heard_at=daemon.caller.heard(record.task_id),
        code=code,
        reason=reason,
        elsewhere=daemon.caller.elsewhere(record.task_id),
    )


def failed_fields(decision: Decision) -> list[Mapping[str, str]]:
    """Return a decision's failed conditions as plain fields, for the audit."""
    return [asdict(item) for item in decision.failed]


async def explain(daemon: Daemon, arguments: ExplainArguments, project: str) -> DecisionView:
    """Decide a hypothetical request with today's rules.

    Raises:
        UnknownPeer: nobody has that name.
        UsageError: there is no such operation.
    """
    peer = await daemon.presence.peer(arguments.peer)
    identity = await daemon.identify(peer.identity.node_id)
    policy = daemon.rules.policy()
    if arguments.direction == "outbound":
        outbound = OutboundRequest(
            identity=identity,
            profile=arguments.profile,
            runner=arguments.runner,
            project=project,
            prompt_bytes=arguments.prompt_bytes,
            sends_changes=False,
            chain=(),
            self_id=daemon.self_id(),
        )
        return decision_view(decide_outbound(outbound, policy))
    try:
        operation = Operation(arguments.operation)
    except ValueError as error:
        known = ", ".join(operation.value for operation in Operation)
        raise UsageError(f"no operation `{arguments.operation}`", hint=f"one of {known}") from error
    inbound = InboundRequest(
        identity=identity,
        operation=operation,
        profile=Profile(arguments.profile),
        runner=arguments.runner,
        directory=await asyncio.to_thread(real_path, arguments.directory or "/"),
        accept=tuple(arguments.accept),
        runtime_s=arguments.timeout_s,
        output_bytes=Limits().output_bytes,
        cost_usd=None,
        running=0,
        today=0,
        reports_cost=arguments.runner == "claude",
        chain=(),
        self_id=daemon.self_id(),
    )
    return decision_view(decide_inbound(inbound, policy))


async def _problems(daemon: Daemon) -> list[Problem]:
    found: list[CmeshError] = []
    if daemon.rules.error is not None:
        found.append(daemon.rules.error)
    if daemon.configured:
        try:
            daemon.presence.require_up()
        except NodeError as error:
            found.append(error)
    problems = [Problem(code=e.code, what=e.message, next=e.hint) for e in found]
    if not daemon.configured:
        what = f"there is no configuration at `{daemon.settings.config_file}`"
        problems.append(Problem(code="not_configured", what=what, next="run `cmesh up`"))
    return problems
