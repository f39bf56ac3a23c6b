"""Checks of the node on its tailnet, and of the peers there. Pure."""

from collections.abc import Iterator
from datetime import timedelta

from cmesh.model import host_label
from cmesh.setup.doctor.facts import DaemonFacts, Facts, PeerFact
from cmesh.setup.doctor.finding import Finding, Group

__all__ = ["KEY_WARNING", "OFFSET_S", "node", "peers"]

KEY_WARNING = timedelta(days=14)
"""So long before a node key expires its owner is warned; the daemon warns then too."""

OFFSET_S = 60.0
"""A clock that is so far off makes the tailnet's handshakes and certificates fail soon."""

PEERS_MOST = 30
"""Peers that each get a line; of the others only a count."""

_NODE, _PEERS = Group("node"), Group("peers")

_KNOWN = frozenset({"key_expires_soon", "login_required", "control_unreachable"})
"""Codes of the daemon's own problems that a check here tells of in more words."""


def node(facts: Facts) -> Iterator[Finding]:
    """Judge where the node stands, its key, the way to the control server, and the clock."""
    daemon = facts.daemon
    if daemon is None:
        yield _NODE.skipped("phase", "only a running daemon knows its node", "cmesh up")
    else:
        yield _phase(daemon)
        yield from _name(facts, daemon)
        yield from _key(facts, daemon)
        for warning in daemon.health:
            yield _NODE.warning("health", warning, "see `cmesh status`; the node keeps trying")
    yield from _control(facts)
    yield from _clock(facts)


def _phase(daemon: DaemonFacts) -> Finding:
    where = f"`{daemon.node}` on {daemon.tailnet or 'the tailnet'}"
    if daemon.phase == "up":
        test = ", a local test tailnet that protects nothing" if daemon.testnet else ""
        return _NODE.ok("phase", f"up as {where}{test}")
    if daemon.phase == "setup":
        return _NODE.warning("phase", "no node yet: this machine is not configured", "cmesh up")
    if daemon.phase == "login":
        lacks = next((one for one in daemon.problems if one.code == "key_file_missing"), None)
        if lacks is not None:
            return _NODE.problem("phase", lacks.what, lacks.next)
        return _NODE.problem("phase", "the node waits for a person to log it in", "cmesh login")
    if daemon.phase == "starting":
        return _NODE.warning("phase", "the node is on its way up", "cmesh status")
    told = ("node", "control", "login_required")
    why = next((one for one in daemon.problems if one.code.startswith(told)), None)
    what = why.what if why else f"the node is {daemon.phase}"
    return _NODE.problem("phase", what, (why.next if why else "") or "cmesh down; cmesh up")


def _name(facts: Facts, daemon: DaemonFacts) -> Iterator[Finding]:
    wanted = facts.config.node.hostname if facts.config else ""
    label = host_label(daemon.node)
    numbered = wanted != label and label.removeprefix(f"{wanted}-").isdecimal()
    if daemon.phase == "up" and wanted and numbered:
        what = f"this node is `{label}` to the tailnet: another one has the name `{wanted}`"
        step = "give it a `hostname` of its own in config.toml, or remove the other one there"
        yield _NODE.note("name", what, step)


def _key(facts: Facts, daemon: DaemonFacts) -> Iterator[Finding]:
    if daemon.phase != "up":
        return
    if daemon.key_expiry is None:
        yield _NODE.ok("key", "the node key does not expire")
        return
    left = daemon.key_expiry - facts.now
    if left <= timedelta():
        yield _NODE.problem("key", "the node key has expired", "cmesh login")
        return
    days = f"the node key expires in {left.days} days"
    if left <= KEY_WARNING:
        step = "extend it in the tailnet's console, or `cmesh login` once it has expired"
        yield _NODE.warning("key", days, step)
    else:
        yield _NODE.ok("key", days)


def _control(facts: Facts) -> Iterator[Finding]:
    control = facts.control
    if control is None:
        return
    if control.proxy:
        what = (
            f"`{control.url}` answers by this shell's proxy only, and the daemon is started without"
            " the proxy's variables"
        )
        yield _NODE.problem("control", what, "let this machine reach it without the proxy")
    elif control.reached:
        yield _NODE.ok("control", f"`{control.url}` answers")
    else:
        what = f"`{control.url}` does not answer: {control.problem}"
        step = "check the network and `control_url` in config.toml; the node keeps trying"
        yield _NODE.problem("control", what, step)


def _clock(facts: Facts) -> Iterator[Finding]:
    control = facts.control
    if control is None or control.offset_s is None:
        yield _NODE.skipped("clock", "no server told its time, so this clock was not compared")
        return
    offset = control.offset_s
    if abs(offset) < OFFSET_S:
        yield _NODE.ok("clock", f"within {max(abs(offset), 1):.0f} s of the control server's")
        return
    way = "ahead of" if offset > 0 else "behind"
    what = f"this machine's clock is {abs(offset):.0f} s {way} the control server's"
    yield _NODE.problem("clock", what, "set the clock: `timedatectl set-ntp true`")


def peers(facts: Facts) -> Iterator[Finding]:
    """Judge each peer that is trusted or linked; count the others."""
    if facts.peers is None:
        why = facts.peers_error
        what = why.what if why else "only a running daemon knows its peers"
        yield _PEERS.skipped("peers", what, why.next if why else "cmesh up")
        return
    near = [one for one in facts.peers if one.trust != "unknown" or one.link != "none"]
    for peer in near[:PEERS_MOST]:
        yield _peer(peer)
    others = len(facts.peers) - min(len(near), PEERS_MOST)
    if not facts.peers:
        yield _PEERS.note("peers", "the tailnet has no other node", "set cmesh up on another one")
    elif others:
        yield _PEERS.note("peers", f"{others} more nodes on the tailnet", "cmesh peers")


def _peer(peer: PeerFact) -> Finding:
    """Say how one peer stands; the first thing that is wrong counts."""
    name = f"`{peer.name}`"
    if peer.expired:
        return _PEERS.problem(peer.name, f"{name}: its node key has expired", "cmesh login there")
    if peer.trust == "changed":
        what = f"{name} shows another cmesh key than the one that is trusted"
        step = (
            f"compare `cmesh status` there with `cmesh peers`, then `cmesh peers trust {peer.name}`"
        )
        return _PEERS.problem(peer.name, what, step)
    if peer.trust == "waiting":
        step = f"compare its fingerprint in `cmesh peers`, then `cmesh peers trust {peer.name}`"
        return _PEERS.warning(peer.name, f"{name} waits for you to trust it", step)
    if not peer.online:
        return _PEERS.note(peer.name, f"{name} is offline")
    if peer.path_problem:
        what = f"{name} is online and does not answer: {peer.path_problem}"
        return _PEERS.warning(peer.name, what, "check its network, and `cmesh doctor` there")
    if peer.link == "down":
        what = f"{name} is reached, and there is no link with its daemon"
        return _PEERS.warning(peer.name, what, "see `cmesh status` there: is its daemon up?")
    return _PEERS.ok(peer.name, f"{name}: {_way(peer)}, {_offer(peer)}")


def _way(peer: PeerFact) -> str:
    took = f" in {peer.ping_ms:g} ms" if peer.ping_ms is not None else ""
    version = f", cmesh {peer.version}" if peer.version else ""
    if peer.direct is None:
        return f"trusted{version}"
    how = "direct" if peer.direct else f"by the relay {peer.relay or 'of the tailnet'}"
    return f"{how}{took}{version}"


def _offer(peer: PeerFact) -> str:
    """Say what may be asked there, by the peer's own word."""
    if not peer.may_ask:
        return "nothing may be asked there" if peer.link == "connected" else "not linked now"
    runners = f" with {', '.join(peer.runners)}" if peer.runners else ""
    return f"I may ask for {', '.join(peer.may_ask)}{runners} there"
