"""Which steps there are, which are done, and the one literal call that comes next. Pure.

Nothing is remembered between steps but what they have changed: whoever comes later, in another
session or after a crash, goes on from what is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cmesh.setup.facts import Facts, PeerFact
from cmesh.setup.plan_peer import fits
from cmesh.text import one_line

__all__ = ["CONTINUE", "Next", "Step", "next_of", "steps_of"]

WAIT_S = 20
CONTINUE = "continue helping me configure cmesh for this new node"
_SERVICE = 'optional: setup_step(step="service"), so that cmesh runs without a session'
_BY_HAND = "optional: the user runs `cmesh service install`, so that it runs without a session"
_NO_MANAGER = (
    "optional: no service manager of this user runs here; after a restart of the machine a command"
    " or an agent's session starts cmesh again (docs/service.md has other supervisors)"
)
_CONFIRM = (
    "the user runs `cmesh confirm` in a terminal of their own, outside of every agent, reads the"
    " change and answers there; you cannot do it for them"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: whether it is done, and on what that rests; `offered`: the wizard can take it."""

    name: str
    done: bool
    what: str
    offered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What comes next.

    Attributes:
        tool, arguments: the call. user: what a person does meanwhile; empty = nothing.
    """

    tool: str
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    user: str = ""


def steps_of(facts: Facts) -> list[Step]:
    """Return every step, in order."""
    configured = facts.config is not None
    agents = [agent.name for agent in facts.agents if agent.state == "ours"]
    allowed = [peer for peer in facts.peers if peer.asks or peer.works]
    met = [peer for peer in allowed if peer.trust == "trusted"]
    return [
        Step(
            name="machine",
            done=configured and _kept_is_said(facts),
            what=_machine_stands(facts) if configured else "no configuration yet",
        ),
        Step(name="login", done=facts.phase == "up", what=_login(facts)),
        Step(
            name="agents",
            done=not _unregistered(facts),
            what=f"registered with {', '.join(agents) or 'no agent'}",
        ),
        Step(name="peer", done=bool(met), what=_peers(facts, allowed)),
        Step(
            name="service",
            done=bool(facts.service),
            what=_service(facts),
            offered=_offers_service(facts),
        ),
        Step(
            name="verify",
            done=any(peer.linked and (peer.may_ask or peer.works) for peer in met),
            what=_verified(met),
        ),
    ]


def next_of(facts: Facts, *, pending: bool) -> Next:
    """Return the next call; `pending`: a change waits for its person."""
    if pending:
        return Next(tool="setup_check", arguments={"wait_s": WAIT_S}, user=_CONFIRM)
    if facts.problem:
        return Next(
            tool="setup_check",
            user=f"the user mends {facts.config_file}: {facts.problem}",
        )
    if facts.config is None or not _kept_is_said(facts):
        return _machine(facts)
    if facts.phase != "up":
        return _rise(facts)
    missing = _unregistered(facts)
    if missing:
        return Next(tool="setup_step", arguments={"step": "agents", "agents": missing})
    return _peer(facts)


def _machine(facts: Facts) -> Next:
    arguments: dict[str, object] = {"step": "machine", "keep_text": "30d"}
    if facts.config is None:
        arguments["name"] = facts.host.partition(".")[0]
        system = facts.tailscale
        if system is not None and system.control_url:
            arguments["control_url"] = system.control_url
    say = (
        "tell the user that a task's prompt and output are kept for 30 days after its end and then"
        " erased; another time, or `forever`, if they want that"
    )
    return Next(tool="setup_step", arguments=arguments, user=say)


def _rise(facts: Facts) -> Next:
    look = {"wait_s": WAIT_S}
    if facts.login_url:
        user = f"the user opens {_page(facts.login_url)} and logs this machine in"
        return Next(tool="setup_check", arguments=look, user=user)
    if facts.phase in ("down", "failed"):
        user = "the user runs `cmesh login` in a terminal, which says what is wrong"
        return Next(tool="setup_check", arguments=look, user=user)
    return Next(tool="setup_check", arguments=look)


def _peer(facts: Facts) -> Next:
    met = [peer for peer in facts.peers if (peer.asks or peer.works) and peer.trust == "trusted"]
    for peer in met:
        if peer.linked and peer.may_ask and peer.asks:
            return _question(facts, peer)
    candidates = sorted(
        (peer for peer in facts.peers if peer.is_cmesh and not peer.shared and peer not in met),
        key=lambda peer: (peer.trust != "waiting", not peer.online, peer.name),
    )
    if not met and candidates:
        return _introduce(facts, candidates[0])
    if not met:
        tailnet = f" of the tailnet `{facts.tailnet}`" if facts.tailnet else ""
        user = (
            "the user installs cmesh on the other machine, opens an agent there and says:"
            f' "{CONTINUE}"; it logs in to an account{tailnet}'
        )
        return Next(tool="setup_check", arguments={"wait_s": WAIT_S}, user=user)
    peer = met[0]
    if peer.linked and peer.works:
        if _offers_service(facts):
            user = (
                f"`{peer.name}` may ask this machine now; ask the user whether systemd shall keep"
                " cmesh here, so that it answers without a session; if not, the setup is done"
            )
            return Next(tool="setup_step", arguments={"step": "service"}, user=user)
        return Next(tool="list_peers", user=f"`{peer.name}` may ask this machine now; ask there")
    user = f'on `{peer.name}` the user says to its agent: "{CONTINUE}"'
    return Next(tool="setup_check", arguments={"wait_s": WAIT_S}, user=user)


def _introduce(facts: Facts, peer: PeerFact) -> Next:
    """Return the step that lets two machines work together.

    What is proposed is a proposal: the person sees it whole, and says no where it is not meant.
    """
    arguments: dict[str, object] = {"step": "pair", "peer": peer.name, "allow": "ask"}
    both = (
        f'the same on `{peer.name}` (the user says to its agent: "{CONTINUE}"); then the user runs'
        " `cmesh confirm` in a terminal of their own on both: one shows a code, which the user types"
        " on the other"
    )
    if peer.may_ask or facts.root_refused:
        return Next(tool="setup_step", arguments=arguments, user=both)
    if not facts.workable:
        return Next(tool="setup_step", arguments=arguments, user=_login_first(facts, peer) + both)
    arguments["allow"] = "work"
    else_ask = f"or `ask`, if this machine shall ask `{peer.name}`, or `both`; {both}"
    if fits(facts, facts.project):
        arguments["directory"] = facts.project
        user = f"tell the user that `{peer.name}` may then ask about {facts.project}; {else_ask}"
    else:
        arguments["directory"] = "…"
        user = f"ask the user about which one directory here `{peer.name}` may ask; {else_ask}"
    return Next(tool="setup_step", arguments=arguments, user=user)


def _login_first(facts: Facts, peer: PeerFact) -> str:
    """Return what lets an agent here work for others; empty = none is here."""
    keyless = next((one.name for one in facts.runners if one.needs_key and one.program), "")
    if not keyless:
        return ""
    return (
        f"if this machine shall work for `{peer.name}`, the user first runs `cmesh runners login"
        f" {keyless}` (an account), or with `--key` (an API key), in a terminal, and you call"
        " setup_check again; "
    )


def _question(facts: Facts, peer: PeerFact) -> Next:
    arguments: dict[str, object] = {
        "peer": peer.name,
        "prompt": "What is in this directory? One sentence.",
        "directory": peer.paths[0] if peer.paths else "…",
        "runner": peer.runners[0] if peer.runners else "…",
        "profile": "query",
    }
    return Next(
        tool="delegate", arguments=arguments, user=_SERVICE if _offers_service(facts) else ""
    )


def _machine_stands(facts: Facts) -> str:
    unsaid = "" if _kept_is_said(facts) else " is there; how long texts are kept was not said yet"
    return f"{facts.config_file}{unsaid}"


def _service(facts: Facts) -> str:
    if facts.service:
        return f"{facts.service} keeps the daemon"
    if facts.unit is not None:
        return _SERVICE
    return _BY_HAND if facts.serviceable else _NO_MANAGER


def _offers_service(facts: Facts) -> bool:
    """Say whether the wizard can have systemd keep the daemon, and nobody has said no to it."""
    return facts.unit is not None and not facts.service and not facts.service_asked


def _verified(met: Sequence[PeerFact]) -> str:
    linked = [peer for peer in met if peer.linked]
    if not linked:
        return "no link yet with a machine that a rule here is about"
    ready = [f"`{peer.name}`" for peer in linked if peer.may_ask or peer.works]
    if not ready:
        names = ", ".join(f"`{peer.name}`" for peer in linked)
        return f"linked with {names}, which lets this machine ask for nothing yet"
    return f"linked with {', '.join(ready)}, and a rule allows what is asked"


def _kept_is_said(facts: Facts) -> bool:
    return facts.keep_text is not None or facts.kept_asked


def _unregistered(facts: Facts) -> list[str]:
    if facts.agents_asked:
        return []
    return [agent.name for agent in facts.agents if agent.state in ("missing", "outdated")]


def _login(facts: Facts) -> str:
    if facts.phase == "up":
        # The tailnet numbers a name that is taken, and writes some letters in another way.
        taken, number = facts.wanted_name.partition(".")[0].lower(), facts.node.rpartition("-")[2]
        renamed = number.isdecimal() and facts.node.lower() == f"{taken}-{number}"
        where = f"`{facts.node}` is on the tailnet" + f" `{facts.tailnet}`" * bool(facts.tailnet)
        return where + f": not `{taken}`, which another node there has" * renamed
    how = {"setup": "comes after `machine`", "login": "waits for a person"}.get(
        facts.phase, facts.phase
    )
    return f"{how}: {one_line(facts.trouble, 300)}" if facts.trouble else how


def _page(url: str) -> str:
    # The control server chose it; anything but a web page has no place before a model.
    return url if urlsplit(url).scheme in ("http", "https") else "(the login URL is no web page)"


def _peers(facts: Facts, allowed: Sequence[PeerFact]) -> str:
    if allowed:
        return "; ".join(f"`{peer.name}`: key {peer.trust}" for peer in allowed)
    seen = sum(peer.is_cmesh is True for peer in facts.peers)
    return f"no rule yet; {seen} of {len(facts.peers)} peers seen to run cmesh"
