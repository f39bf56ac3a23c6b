"""The steps `peer` and `pair`: one other machine, one narrow rule in a direction. Pure.

They differ in what makes its key trusted: a fingerprint that the person compares, or a code.
"""

from collections.abc import Sequence
from pathlib import Path

from cmesh.errors import PeerUntrusted, RootRefused, UnknownPeer, UsageError
from cmesh.nearest import did_you_mean
from cmesh.setup.configtext import rule_names, rule_text, with_rule
from cmesh.setup.facts import Facts, PeerFact
from cmesh.setup.plan import AS_ROOT_HINT, Block, ByCode, Plan, Trusting, Wish
from cmesh.text import one_line

__all__ = ["fits", "peer"]

_LIMITS = {"runtime": "15m", "concurrent": 2, "per_day": 50}
_PROMPT_BYTES = 20_000

_ALLOWS = {"ask": "ask", "work": "work for", "both": "ask, and work for,"}


def peer(facts: Facts, wish: Wish) -> Plan:
    """Return what lets two machines work together; raises as `plan_of`."""
    if facts.config is None:
        raise UsageError("this machine is not set up yet", hint='setup_step(step="machine")')
    found = _found(facts, wish.peer)
    if not wish.allow:
        raise UsageError("say what to allow", hint="allow is `ask`, `work` or `both`")
    text, blocks, effects = facts.config, list[Block](), list[str]()
    if wish.allow in ("ask", "both") and not (found.asks and not wish.repository):
        blocks.append(Block(direction="outbound", text=_outbound(facts, wish, found)))
        effects.append(f"agents in {_repository(facts, wish)} may send prompts to `{found.name}`")
    if wish.allow in ("work", "both") and not (found.works and not wish.directory):
        if facts.root_refused:
            raise RootRefused(
                f"the daemon here runs as root, so it would refuse every task of `{found.name}`",
                hint=AS_ROOT_HINT,
            )
        blocks.append(Block(direction="inbound", text=_inbound(facts, wish, found)))
        effects.append(_reads(facts, wish, found))
    for block in blocks:
        text = with_rule(text, block.direction, block.text)
    by_code = _by_code(found) if wish.step == "pair" else None
    trust = None if wish.step == "pair" else _trusting(found)
    if trust is not None:
        effects.append(
            f"trusts the cmesh key `{trust.fingerprint}` of `{found.name}`:"
            " `cmesh status` on that machine must show the same"
        )
    if by_code is not None:
        effects.append(
            f"trusts the cmesh key that `{found.name}` ({found.node_id}) proves by a code: shown at"
            " a terminal of one of the two machines, typed at one of the other"
        )
    return Plan(
        step=wish.step,
        title=f"{_ALLOWS[wish.allow]} `{found.name}`",
        file=str(facts.config_file),
        before=facts.config,
        after=text,
        blocks=tuple(blocks),
        trust=trust,
        by_code=by_code,
        effects=tuple(effects),
    )


def fits(facts: Facts, directory: str) -> bool:
    """Say whether a directory is narrow enough for a rule."""
    try:
        _narrow(facts, directory, "directory")
    except UsageError:
        return False
    return True


def _reads(facts: Facts, wish: Wish, peer: PeerFact) -> str:
    runners = _runners(facts, wish)
    models = not all(name.startswith("command:") for name in runners)
    return (
        f"`{peer.name}` may have {', '.join(runners)} read {wish.directory} here, in a sandbox"
        " that changes nothing there" + "; what an agent reads goes to its model" * models
    )


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


def _by_code(peer: PeerFact) -> ByCode | None:
    """Return whom a code has to prove; None = one has proved the key already."""
    _require_no_other_key(peer)
    if peer.by_code and peer.trust == "trusted":
        return None
    return ByCode(node_id=peer.node_id, name=peer.name, trusted=peer.trust == "trusted")


def _require_no_other_key(peer: PeerFact) -> None:
    if peer.trust == "changed":
        raise PeerUntrusted(
            f"`{peer.name}` shows another key than the trusted one",
            hint=f"find out why; then `cmesh peers trust {peer.name}` in a terminal",
        )


def _trusting(peer: PeerFact) -> Trusting | None:
    if peer.trust == "trusted":
        return None
    _require_no_other_key(peer)
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
