"""What a daemon says of itself, its peers and its rules: facts gathered into views."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC
from typing import Literal

from cmesh import __version__
from cmesh.daemon.advice import needed_there, offered_instead
from cmesh.daemon.answers import (
    DecisionView,
    KeepsView,
    MachineView,
    OutboxView,
    PeersView,
    PeerView,
    StatusView,
)
from cmesh.daemon.arguments import ExplainArguments
from cmesh.daemon.core import Daemon
from cmesh.daemon.followup import standing
from cmesh.daemon.machines import STALE
from cmesh.daemon.problems import problems
from cmesh.daemon.roots import real_path
from cmesh.daemon.runner_views import manifest_lines, self_test_lines
from cmesh.daemon.views import Knowledge, LinkState, decision_view, machine_view
from cmesh.errors import CmeshError, PeerUnreachable, PolicyDenied, UsageError
from cmesh.keys import fingerprint
from cmesh.model import (
    Direction,
    Identity,
    Limits,
    NodeId,
    Operation,
    Profile,
    TaskId,
    TaskSpec,
    TaskState,
    host_label,
)
from cmesh.nearest import did_you_mean
from cmesh.node.whois import Peer
from cmesh.policy.audit import decide_question
from cmesh.policy.decide import (
    Decision,
    InboundRequest,
    OutboundRequest,
    decide_inbound,
    decide_outbound,
)
from cmesh.policy.rules import RUN_OPERATIONS
from cmesh.protocol.facts import QUEUED, SENT, UNKNOWN
from cmesh.protocol.link_messages import May
from cmesh.store.records import TaskSnapshot

__all__ = [
    "explain",
    "failed_fields",
    "knowledge",
    "link_state",
    "peer_view",
    "peers",
    "status",
    "tells",
]


async def status(daemon: Daemon) -> StatusView:
    """Say what this daemon is and does; works in every phase."""
    config = daemon.rules.config()
    presence, clock = daemon.presence, daemon.settings.clock
    seen = presence.status
    allow = [rule for rule in config.policy.inbound if rule.effect == "allow"]
    containment, note = daemon.supervisor.containment
    found = daemon.sandboxes.found
    profiles = sorted({profile.value for rule in allow for profile in rule.bases})
    unfinished = await daemon.store.unfinished()
    # One that has ended may still owe its worker a receipt; that is no work handed out.
    outbound = [
        task for task in unfinished if task.record.direction is Direction.OUT and not task.terminal
    ]
    down = {one.name: one.reason for one in daemon.runners.seen if not one.available}
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
        handed_out=len(outbound),
        outbox=_outbox(daemon, outbound),
        worker=bool(allow),
        profiles=profiles,
        runners=[n for n in daemon.runners.names() if n not in down],
        runners_down=down,
        machine=_own_machine(daemon),
        containment=containment,
        containment_note=note,
        enforcement=found.label if found else "",
        enforcement_note=found.why if found else "",
        self_tests=await asyncio.to_thread(self_test_lines, daemon),
        manifests=manifest_lines(daemon.rules.manifests),
        state_dir=str(daemon.settings.state_dir),
        config_file=str(daemon.settings.config_file),
        pid=os.getpid(),
        uptime_s=round((clock.now() - daemon.started_at).total_seconds(), 1),
        store_seq=daemon.store.head[0],
        keeps=_own_keeps(daemon),
        problems=await problems(daemon),
    )


def _outbox(daemon: Daemon, outbound: Sequence[TaskSnapshot]) -> list[OutboxView]:
    """Group the tasks that no worker has taken yet by their worker, the most urgent first."""
    waiting: dict[NodeId, list[TaskSnapshot]] = {}
    for task in outbound:
        if task.state in (QUEUED, SENT):
            waiting.setdefault(task.record.peer_id, []).append(task)
    found = [
        OutboxView(
            peer=host_label(tasks[0].record.peer),
            node_id=peer_id,
            tasks=len(tasks),
            link=link_state(daemon, peer_id),
            code=error.code if (error := daemon.links.contact(peer_id).error) else "",
            expires_at=min(task.record.spec.not_after for task in tasks),
        )
        for peer_id, tasks in waiting.items()
    ]
    return sorted(found, key=lambda one: one.expires_at)


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
        name=identity.label,
        node_id=identity.node_id,
        user=identity.user,
        tags=list(identity.tags),
        addresses=list(identity.addresses),
        online=peer.online,
        expired=identity.expired,
        shared=identity.shared,
        link=link_state(daemon, identity.node_id),
        trust=daemon.trust.standing(identity.node_id),
        trusted_by=daemon.trust.confirmed_by(identity.node_id),
        fingerprint=daemon.trust.fingerprint(identity.node_id),
        version=contact.software,
        may_ask=[profile.value for profile in contact.may.profiles],
        runners=list(contact.may.runners),
        paths=list(contact.may.paths),
        operations=list(contact.may.operations),
        last_contact_s=age,
        machine=_machine(daemon, identity.node_id),
        keeps=None if contact.at is None else _keeps(contact.may),
    )


def _machine(daemon: Daemon, peer_id: NodeId) -> MachineView | None:
    heard = daemon.machines.of(peer_id)
    if heard is None:
        return None
    age = daemon.settings.clock.now() - heard.at
    return machine_view(heard.machine, known_s=age.total_seconds(), stale=age > STALE)


def _own_machine(daemon: Daemon) -> MachineView | None:
    own, age_s = daemon.survey.own(), daemon.survey.age_s
    return None if own is None or age_s is None else machine_view(own, known_s=age_s)


def link_state(daemon: Daemon, peer_id: NodeId) -> LinkState:
    """Say how a peer is reached at the moment."""
    if daemon.links.get(peer_id) is not None:
        return "connected"
    if daemon.links.dialling(peer_id):
        return "connecting"
    return "down" if daemon.links.contact(peer_id).error is not None else "none"


async def knowledge(daemon: Daemon, task: TaskSnapshot) -> Knowledge:
    """Return what is known of a task besides its rows."""
    record = task.record
    link = link_state(daemon, record.peer_id)
    follow_up = await standing(daemon.store, task, daemon.settings.clock.now())
    if record.direction is Direction.IN:
        return Knowledge(link=link, follow_up=follow_up)
    if task.state == TaskState.DENIED and task.code == PolicyDenied.code:
        may, name = daemon.links.contact(record.peer_id).may, host_label(record.peer)
        advice = offered_instead(name, may, record.spec)
        return Knowledge(link=link, follow_up=follow_up, advice=advice)
    note = daemon.caller.hearsay.note(record.task_id)
    code, reason = note.code, note.reason
    contact = daemon.links.contact(record.peer_id)
    heard, error = daemon.caller.hearsay.heard(record.task_id), contact.error
    if heard is not None and contact.at is not None and link == "connected":
        # A worker tells news of a task at once, so a word about another says: none of this one.
        heard = max(heard, contact.at)
    if not code and link != "connected" and error is not None and not task.terminal:
        code, reason = error.code, _kept(task, error)
    if task.state == UNKNOWN:
        code, reason = task.code, task.reason
    elsewhere = daemon.caller.elsewhere(record.task_id)
    if elsewhere:
        code, reason = "store_replaced", _elsewhere(host_label(record.peer))
    retry_in_s = None
    if note.retry_after_s is not None:
        retry_in_s = note.at + note.retry_after_s - daemon.settings.clock.monotonic()
    return Knowledge(
        retry_in_s=retry_in_s,
        link=link,
        heard_at=heard,
        code=code,
        reason=reason,
        elsewhere=elsewhere,
        processes_left=daemon.caller.hearsay.processes_left(record.task_id),
        follow_up=follow_up,
    )


def _kept(task: TaskSnapshot, error: CmeshError) -> str:
    """Say why a task's worker cannot be reached, what helps, and what becomes of the task."""
    name = host_label(task.record.peer)
    step = error.hint
    if isinstance(error, PeerUnreachable):
        # The error's own advice ends with one for a call that failed, and this one has not.
        step = error.first_step
    until = task.record.spec.not_after.astimezone(UTC)
    fate = (
        f"kept here, and sent once `{name}` takes it, until {until:%Y-%m-%d %H:%M} UTC"
        if task.state == QUEUED
        else f"`{name}` is asked again once it can be reached"
    )
    return "; ".join(part for part in (error.message, step, fate) if part)


def _elsewhere(name: str) -> str:
    return (
        f"the store of `{name}` is not the one this task was sent to, so nobody can say whether"
        " it ran: it is not sent again and cannot be ended; look there for what it did, then"
        " delegate it anew"
    )


def failed_fields(decision: Decision) -> list[Mapping[str, str]]:
    """Return a decision's failed conditions as plain fields, for the audit."""
    return [asdict(item) for item in decision.failed]


async def explain(daemon: Daemon, arguments: ExplainArguments, project: str) -> DecisionView:
    """Decide a hypothetical request with today's rules.

    Raises:
        UnknownPeer: nobody has that name.
        UsageError: there is no such operation.
        ConfigError: the file cannot be used, so there are no rules to decide with.
    """
    daemon.rules.require_in_force()
    operation = _operation(arguments.operation)
    peer = await daemon.presence.peer(arguments.peer)
    identity = await daemon.presence.identify(peer.identity.node_id)
    policy = daemon.rules.policy()
    if arguments.direction == "outbound" and operation not in RUN_OPERATIONS:
        size = arguments.prompt_bytes
        return decision_view(decide_question(identity, policy, statement_bytes=size))
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
        view = decision_view(decide_outbound(outbound, policy))
        return view.model_copy(update={"there": _there(daemon, arguments, identity)})
    reports = tells(daemon, arguments.runner)
    inbound = InboundRequest(
        identity=identity,
        operation=operation,
        profile=Profile(arguments.profile),
        runner=arguments.runner,
        directory=await asyncio.to_thread(real_path, arguments.directory),
        accept=tuple(arguments.accept),
        runtime_s=arguments.timeout_s,
        output_bytes=Limits().output_bytes,
        cost_usd=arguments.cost_usd or None,
        turns=arguments.turns or None,
        tokens=arguments.tokens or None,
        running=0,
        today=0,
        reports_cost="cost" in reports,
        reports=reports - {"cost"},
        chain=(),
        self_id=daemon.self_id(),
    )
    return decision_view(decide_inbound(inbound, policy))


def _there(daemon: Daemon, arguments: ExplainArguments, identity: Identity) -> str:
    """Say what a peer would deny, as far as it has said what it offers."""
    may, operation = daemon.links.contact(identity.node_id).may, _operation(arguments.operation)
    spec = TaskSpec(
        task_id=TaskId(""),
        runner=arguments.runner,
        profile=arguments.profile,
        directory=arguments.directory or "".join(may.paths[:1]),
        prompt="",
        limits=Limits(runtime_s=arguments.timeout_s),
        not_after=daemon.settings.clock.now(),
        follows=TaskId("") if operation is Operation.FOLLOW_UP else None,
    )
    return needed_there(identity.label, may, spec)


def tells(daemon: Daemon, runner: str) -> frozenset[str]:
    """Return what a runner tells while it runs, `cost` if it tells that; nothing for a command."""
    manifest = daemon.rules.manifests.by_name.get(runner)
    if manifest is None:
        return frozenset()
    return frozenset(manifest.reports) | ({"cost"} if manifest.reports_cost else set[str]())


def _operation(name: str) -> Operation:
    try:
        return Operation(name)
    except ValueError as error:
        known = [operation.value for operation in Operation]
        meant = did_you_mean(name, known, most=1)
        hint = f"{meant} one of {', '.join(known)}".lstrip()
        raise UsageError(f"there is no operation `{name}`", hint=hint) from error


def _keeps(may: May) -> KeepsView:
    return _keeps_of(may.keep_text_days, may.keep_output_days, may.store_prompts)


def _own_keeps(daemon: Daemon) -> KeepsView:
    store = daemon.rules.config().store
    return _keeps_of(store.keep_text_days, store.keep_output_days, store.store_prompts)


def _keeps_of(
    text: int | None, output: int | None, prompts: Literal["text", "digest"]
) -> KeepsView:
    days = [one for one in (text, output) if one is not None]
    # A file whose texts are gone has no name any more.
    return KeepsView(text_days=text, output_days=min(days, default=None), prompts=prompts)
