"""What a step of the wizard would change: the exact file, every side effect, and its digest. Pure.

A plan changes nothing. It is made from facts and a wish, shown to a person, and applied as it
stands; its digest covers all that is shown and done.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cmesh.configfile import starter_config
from cmesh.errors import PeerUntrusted, RootRefused, UnknownPeer, UsageError
from cmesh.nearest import did_you_mean
from cmesh.setup.configtext import diff, rule_names, rule_text, with_rule, with_value
from cmesh.setup.facts import Facts, PeerFact
from cmesh.text import one_line

__all__ = [
    "AS_ROOT_HINT",
    "FOREVER",
    "NOBODY",
    "Block",
    "Entry",
    "Plan",
    "StepName",
    "Trusting",
    "Wish",
    "plan_of",
]

StepName = Literal["machine", "agents", "peer"]
FOREVER = "forever"
NOBODY = "none"
"""Instead of agents: register with none, and do not ask again."""

_KEEP = re.compile(r"[1-9][0-9]{0,4}d")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
AS_ROOT_HINT = (
    "run the daemon as an ordinary user; or set `allow_root = true` under `[worker]` of config.toml,"
    " then repeat it"
)
_LIMITS = {"runtime": "15m", "concurrent": 2, "per_day": 50}
_PROMPT_BYTES = 20_000


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Wish(_Value):
    """What is asked of a step; empty = its default, or not asked for.

    Attributes:
        keep_text: days such as `30d`, or `forever`.
        allow: of the step `peer`: this machine asks it, works for it, or both.
        directory: where it may work here. repository: from where it may be asked.
    """

    step: StepName
    name: str = ""
    control_url: str = ""
    auth_key_file: str = ""
    keep_text: str = ""
    agents: tuple[str, ...] = ()
    peer: str = ""
    allow: Literal["", "ask", "work", "both"] = ""
    directory: str = ""
    runners: tuple[str, ...] = ()
    repository: str = ""


class Trusting(_Value):
    """A peer's key that is to be trusted, or no more."""

    node_id: str
    name: str
    fingerprint: str


class Entry(_Value):
    """What is changed in one agent's settings: lines, as a diff shows them."""

    agent: str
    add: bool
    diff: str


class Block(_Value):
    """A rule that is put into the file, letter by letter."""

    direction: str
    text: str


class Plan(_Value):
    """One change.

    Attributes:
        before, after: text of `config.toml`; None = no file. Equal = it is left alone.
        blocks: the rules among what is new.
        trust, untrust: keys. agents, unagents: names of agents to register, or to take out.
        entries: what registering, or taking out, changes in the agents' settings.
        effects: everything else that happens, a sentence each, for people.
        widens: what is allowed or exposed afterwards that was not; empty = nothing.
        kept: what was answered to how long texts are kept; empty = it was not asked.
        undoes: id of the applied change that this takes back; empty = none.
    """

    step: StepName
    title: str
    file: str
    before: str | None = None
    after: str | None = None
    blocks: tuple[Block, ...] = ()
    trust: Trusting | None = None
    untrust: Trusting | None = None
    agents: tuple[str, ...] = ()
    unagents: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    effects: tuple[str, ...] = ()
    widens: tuple[str, ...] = ()
    kept: str = ""
    undoes: str = ""

    @property
    def diff(self) -> str:
        """What changes in the file, and in those of agents."""
        own = diff(self.before, self.after, self.file)
        return own + "".join(entry.diff for entry in self.entries)

    @property
    def empty(self) -> bool:
        """Nothing would change."""
        acts = self.trust or self.untrust or self.agents or self.unagents
        return self.before == self.after and not acts

    @property
    def sha256(self) -> str:
        """Digest of all of it, in canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def plan_of(facts: Facts, wish: Wish) -> Plan:
    """Return what the step would change here.

    Raises:
        UsageError: a value cannot be, or one is missing; says which.
        UnknownPeer: no such peer.
        PeerUntrusted: its key is not known yet, or is another than the trusted one.
        RootRefused: this machine would refuse every task, since its daemon is root.
        ConfigError: the file cannot be changed without touching the rest of it.
    """
    return {"machine": _machine, "agents": _agents, "peer": _peer}[wish.step](facts, wish)


def _machine(facts: Facts, wish: Wish) -> Plan:
    fresh = facts.config is None
    text = starter_config(wish.name or facts.host) if facts.config is None else facts.config
    if wish.name and not _HOST.fullmatch(wish.name):
        raise UsageError(
            f"`{one_line(wish.name, 80)}` is no host name",
            hint="letters, digits and hyphens, without a domain",
        )
    if wish.keep_text not in ("", FOREVER) and not _KEEP.fullmatch(wish.keep_text):
        raise UsageError(
            f"`{one_line(wish.keep_text, 40)}` is no time", hint="write 30d, 90d or forever"
        )
    pairs = (
        ("node", "hostname", wish.name),
        ("node", "control_url", wish.control_url),
        ("node", "auth_key_file", wish.auth_key_file),
        ("store", "keep_text", "" if wish.keep_text == FOREVER else wish.keep_text),
    )
    for table, key, value in pairs:
        if value:
            text = with_value(text, table, key, value)
    return Plan(
        step="machine",
        title="set this machine up" if fresh else "change this machine's settings",
        file=str(facts.config_file),
        before=facts.config,
        after=text,
        kept=wish.keep_text,
        effects=tuple(_machine_effects(facts, wish, fresh=fresh)),
    )


def _machine_effects(facts: Facts, wish: Wish, *, fresh: bool) -> list[str]:
    effects: list[str] = []
    if fresh:
        where = wish.control_url or "Tailscale's control server"
        host = wish.name or facts.host.partition(".")[0]
        starts = f"starts this machine's own node, which asks {where} to let it in as `{host}`"
        effects += [
            f"{starts}; {_login(wish)}",
            "nobody may ask this machine for anything, and it may ask nobody, until a later step",
        ]
        if facts.tailscale is not None:
            effects.append("the system's own Tailscale is neither used nor changed")
    elif wish.name or wish.control_url or wish.auth_key_file:
        effects.append("the node takes it up when the daemon starts next: `cmesh up --replace`")
    if wish.keep_text:
        kept = "for ever" if wish.keep_text == FOREVER else f"for {wish.keep_text[:-1]} days"
        effects.append(f"texts of tasks (prompts, outputs) are kept {kept}; peers are told so")
    return effects


def _login(wish: Wish) -> str:
    if wish.auth_key_file:
        return f"the auth key in {one_line(wish.auth_key_file)} logs it in"
    return "the login is a page that you open"


def _agents(facts: Facts, wish: Wish) -> Plan:
    known = {agent.name: agent for agent in facts.agents}
    all_of_them = tuple(n for n, a in known.items() if a.state in ("missing", "outdated"))
    names = () if wish.agents == (NOBODY,) else wish.agents or all_of_them
    for name in names:
        if name not in known:
            raise UsageError(
                f"no agent `{one_line(name, 40)}` was found here",
                hint=f"agents here: {', '.join(known) or 'none'}",
            )
    wanted = [known[name] for name in names if known[name].state != "ours"]
    effects = [
        f"adds `cmesh mcp` to the MCP servers of {agent.title or agent.name}"
        + (f": {agent.place}" if agent.place else "")
        for agent in wanted
    ]
    return Plan(
        step="agents",
        title="register cmesh with the agents here",
        file=str(facts.config_file),
        before=facts.config,
        after=facts.config,
        agents=tuple(agent.name for agent in wanted),
        effects=tuple(effects),
    )


def _peer(facts: Facts, wish: Wish) -> Plan:
    if facts.config is None:
        raise UsageError("this machine is not set up yet", hint='setup_step(step="machine")')
    peer = _found(facts, wish.peer)
    if not wish.allow:
        raise UsageError("say what to allow", hint="allow is `ask`, `work` or `both`")
    text, blocks, effects = facts.config, list[Block](), list[str]()
    if wish.allow in ("ask", "both") and not (peer.asks and not wish.repository):
        blocks.append(Block(direction="outbound", text=_outbound(facts, wish, peer)))
        effects.append(f"agents in {_repository(facts, wish)} may send prompts to `{peer.name}`")
    if wish.allow in ("work", "both") and not (peer.works and not wish.directory):
        if facts.root_refused:
            raise RootRefused(
                f"the daemon here runs as root, so it would refuse every task of `{peer.name}`",
                hint=AS_ROOT_HINT,
            )
        blocks.append(Block(direction="inbound", text=_inbound(facts, wish, peer)))
        runners = _runners(facts, wish)
        models = not all(name.startswith("command:") for name in runners)
        effects.append(
            f"`{peer.name}` may have {', '.join(runners)} read {wish.directory} here, in a sandbox"
            " that changes nothing there" + "; what an agent reads goes to its model" * models
        )
    for block in blocks:
        text = with_rule(text, block.direction, block.text)
    trust = _trusting(peer)
    if trust is not None:
        effects.append(
            f"trusts the cmesh key `{trust.fingerprint}` of `{peer.name}`:"
            " `cmesh status` on that machine must show the same"
        )
    return Plan(
        step="peer",
        title=f"{_ALLOWS[wish.allow]} `{peer.name}`",
        file=str(facts.config_file),
        before=facts.config,
        after=text,
        blocks=tuple(blocks),
        trust=trust,
        effects=tuple(effects),
    )


_ALLOWS = {"ask": "ask", "work": "work for", "both": "ask, and work for,"}


def _found(facts: Facts, name: str) -> PeerFact:
    for peer in facts.peers:
        if name and name in (peer.name, peer.node_id):
            if peer.shared:
                raise UsageError(
                    f"`{peer.name}` is shared in from another tailnet",
                    hint="the wizard allows nothing to such nodes; write its rule yourself",
                )
            return peer
    names = [peer.name for peer in facts.peers]
    raise UnknownPeer(
        f"no peer is named `{one_line(name, 80)}`",
        hint=did_you_mean(name, names) or f"peers: {', '.join(names) or 'none yet'}",
    )


def _trusting(peer: PeerFact) -> Trusting | None:
    if peer.trust == "trusted":
        return None
    if peer.trust == "changed":
        raise PeerUntrusted(
            f"`{peer.name}` shows another key than the trusted one",
            hint=f"find out why; then `cmesh peers trust {peer.name}` in a terminal",
        )
    if not peer.fingerprint:
        raise PeerUntrusted(
            f"`{peer.name}` has not shown a cmesh key yet",
            hint="`cmesh status` on that machine must say `phase up`; then make this call again",
        )
    return Trusting(node_id=peer.node_id, name=peer.name, fingerprint=peer.fingerprint)


def _outbound(facts: Facts, wish: Wish, peer: PeerFact) -> str:
    name = _free(facts.config or "", f"ask {peer.name}")
    fields = {
        "name": name,
        "peers": [f"node:{peer.node_id}"],
        "profiles": ["query"],
        "repos": [_repository(facts, wish)],
        "prompt_bytes": _PROMPT_BYTES,
    }
    return rule_text("outbound", fields)


def _inbound(facts: Facts, wish: Wish, peer: PeerFact) -> str:
    directory = _narrow(facts, wish.directory, "directory")
    name = _free(facts.config or "", f"{peer.name} may ask about {Path(directory).name}")
    fields = {
        "name": name,
        "peers": [f"node:{peer.node_id}"],
        "operations": ["task", "follow_up"],
        "profiles": ["query"],
        "runners": list(_runners(facts, wish)),
        "paths": [directory],
        "limits": _LIMITS,
    }
    return rule_text("inbound", fields)


def _repository(facts: Facts, wish: Wish) -> str:
    return _narrow(facts, wish.repository or facts.project, "repository")


def _narrow(facts: Facts, text: str, key: str) -> str:
    """Return a directory that is narrow enough for a rule.

    Raises:
        UsageError: it is missing, relative, or holds far more than a project.
    """
    path = facts.home / text[2:] if text.startswith("~/") else Path(text)
    if not text or not path.is_absolute() or ".." in path.parts:
        raise UsageError(f"`{key}` must be an absolute directory", hint="for example `/srv/myapp`")
    held = [facts.home, facts.config_file.parent, facts.state_dir, *facts.own]
    if any(one.is_relative_to(path) for one in held) or len(path.parts) <= 1:
        raise UsageError(
            f"`{path}` holds your home or cmesh's own files", hint="name one project's directory"
        )
    if any(path.is_relative_to(one) for one in held[1:]):
        raise UsageError(f"`{path}` belongs to cmesh", hint="name one project's directory")
    return str(path)


def _runners(facts: Facts, wish: Wish) -> Sequence[str]:
    ready = [runner.name for runner in facts.workable]
    for name in wish.runners:
        if name not in ready:
            known = next((one for one in facts.runners if one.name == name), None)
            why = known.obstacle if known and known.obstacle else "it cannot run in a sandbox here"
            raise UsageError(
                f"`{one_line(name, 60)}` cannot work here: {why}", hint=_runner_hint(ready, name)
            )
    if not (wish.runners or ready):
        keyless = next((one.name for one in facts.runners if one.needs_key and one.program), "")
        login = (
            f"in a terminal the user runs `cmesh runners login {keyless}` for an account, or"
            f" `cmesh runners login {keyless} --key` for an API key; then again"
        )
        raise UsageError(
            "no agent here can work for others yet",
            hint=login if keyless else "`cmesh runners list` says what is missing",
        )
    return wish.runners or ready


def _runner_hint(ready: Sequence[str], name: str) -> str:
    return f"ready: {', '.join(ready)}" if ready else f"`cmesh runners check {name}` in a terminal"


def _free(config: str, base: str) -> str:
    """Return a rule's name that no rule of the file has."""
    taken = rule_names(config)
    names = (base, *(f"{base} {number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)
