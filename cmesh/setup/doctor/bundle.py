"""What a bug report needs, and no more: versions, findings, states, the daemon's log in outline.

Pure. Two nets hold what is private back: only fields and words that are listed here go in, and
every name the facts know is put under a made-up one, then secrets of known forms are masked.
Prompts, results and keys are no part of the facts.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, cast

from cmesh.config import Config
from cmesh.policy.rules import InboundRule, OutboundRule
from cmesh.redact import Redactor
from cmesh.setup.doctor.examine import Report
from cmesh.setup.doctor.facts import Facts

__all__ = ["LOG_LINES", "PARTS", "Aliases", "contents"]

LOG_LINES = 400
NAME_CHARACTERS = 3
"""A shorter name is not looked for: it would be found everywhere."""

PARTS = {
    "versions.json": "versions of cmesh, Tailscale, Python and the system",
    "findings.json": "the check list; names stand as peer-1, user-1 …",
    "state.json": "the daemon's phase, counts, sandbox, sizes, the disk's free space",
    "rules.json": "the rules in outline: profiles, kinds of peers, limits; no names or paths",
    "daemon-log.txt": f"the last {LOG_LINES} lines of its log: time, level, event, error code",
}
"""What is in a bundle, told before it is written."""

_LINE = re.compile(r"(\S+) (debug|info|warning|error|critical) (cmesh[\w.]*) ([a-z_]+)( .*)?")
_PAIR = re.compile(
    r" (code|pid|status|seconds|tasks|schema|attempt|phase|kind)=([\w.:+-]{1,40})(?= |$)"
)
_FRAME = re.compile(r'\s+File ".*((?:cmesh|site-packages|lib)/[\w/.-]+)", line (\d+), in (\w+)')
_RAISED = re.compile(r"((?:\w+\.)*\w+(?:Error|Exception|Refused|Closed|Exit|Interrupt))(?::|$)")


class Aliases:
    """Puts made-up names in the place of those that the facts know."""

    def __init__(self, facts: Facts) -> None:
        self._of: dict[str, str] = {}
        for kind, names in _names(facts):
            for name in names:
                if len(name) >= NAME_CHARACTERS and name not in self._of:
                    number = 1 + sum(1 for one in self._of.values() if one.startswith(f"<{kind}-"))
                    self._of[name] = f"<{kind}-{number}>"
        longest_first = sorted(self._of, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(name) for name in longest_first) or r"(?!)")
        self._redactor = Redactor()

    def text(self, text: str) -> str:
        """Return the text without known names and without secrets of known forms."""
        return self._redactor.text(self._pattern.sub(lambda found: self._of[found[0]], text))[0]

    def within(self, value: object) -> object:
        """Return a document with `text` of each text: as JSON writes it, a name may look otherwise."""
        if isinstance(value, dict):
            items = cast("dict[object, object]", value).items()
            return {self.text(str(key)): self.within(item) for key, item in items}
        if isinstance(value, list | tuple):
            return [self.within(item) for item in cast("list[object]", value)]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.text(str(value))


def contents(facts: Facts, report: Report, *, versions: dict[str, str], log: str) -> dict[str, str]:
    """Return the files of a bundle by name, those of `PARTS`; `log` is the end of the daemon's."""
    aliases = Aliases(facts)
    findings = [
        {**asdict(one), "target": "", "check": _check(one.group, one.check, aliases)}
        for one in report.findings
    ]
    documents: dict[str, object] = {
        "versions.json": versions,
        "findings.json": findings,
        "state.json": _state(facts),
        "rules.json": _rules(facts.config),
    }
    files = {
        name: json.dumps(aliases.within(document), indent=2) + "\n"
        for name, document in documents.items()
    }
    files["daemon-log.txt"] = aliases.text("".join(f"{line}\n" for line in _outline(log)))
    return files


def _check(group: str, check: str, aliases: Aliases) -> str:
    return aliases.text(check) if group == "peers" else check


def _names(facts: Facts) -> Iterator[tuple[str, Iterable[str]]]:
    daemon, config = facts.daemon, facts.config
    yield "config", [facts.config_file, facts.config_file.rpartition("/")[0]]
    yield "state", [facts.state.path, facts.state.socket_path]
    yield "path", _paths(facts)
    yield "home", [facts.home]
    if daemon is not None:
        yield "this-node", [daemon.node, daemon.node.partition(".")[0], daemon.node_id]
        yield "user", [daemon.user, *_short(daemon.user)]
        yield "tailnet", [daemon.tailnet]
        yield "address", daemon.addresses
    for peer in facts.peers or ():
        yield "peer", [peer.node_id, peer.name]
        yield "user", [peer.user, *_short(peer.user)]
        yield "address", peer.addresses
        yield "path", peer.paths
    if config is not None:
        policy = config.policy
        rules = (*policy.inbound, *policy.outbound)
        yield "rule", [rule.name for rule in rules]
        yield "who", [selector.value for rule in rules for selector in rule.peers]
        yield "this-node", [config.node.hostname]
        yield "label", [*config.node.labels, *(tag for tag in config.node.tags)]
        yield "command", config.commands
    if facts.control is not None and "tailscale.com" not in facts.control.url:
        yield "control", [facts.control.url, facts.control.url.partition("://")[2]]


def _short(user: str) -> list[str]:
    return [user.partition("@")[0]] if "@" in user else []


def _paths(facts: Facts) -> list[str]:
    paths = [place.path for place in facts.state.places]
    paths += [
        path for one in facts.runners or () for path in (one.program, one.shell_program or "")
    ]
    if facts.config is not None:
        policy = facts.config.policy
        paths += [path for rule in policy.inbound for path in rule.paths]
        paths += [path for rule in policy.outbound for path in rule.repos]
        keys = [one.key_file for one in facts.config.runners.values()]
        paths += [str(path) for path in (*keys, facts.config.node.auth_key_file) if path]
    # `/` would be found everywhere; a longer path hides what is below it too.
    return [path for path in dict.fromkeys(paths) if path.count("/") > 1]


def _state(facts: Facts) -> dict[str, object]:
    state, daemon = facts.state, facts.daemon
    kept: dict[str, object] = {
        name: getattr(state, name)
        for name in (
            "there", "file_system", "network", "socket", "down", "replacing", "store", "outputs",
            "tasks", "free", "floor",
        )
    }  # fmt: skip
    if daemon is not None:
        kept["daemon"] = {
            name: getattr(daemon, name)
            for name in (
                "version", "phase", "kind", "testnet", "worker", "enforcement", "containment",
                "running", "rows",
            )
        } | {"problems": [one.code for one in daemon.problems]}  # fmt: skip
    kept["peers"] = len(facts.peers or ())
    kept["runners"] = {
        one.name: {"version": one.version, "available": one.available, "test": one.test}
        for one in facts.runners or ()
        if not one.name.startswith("command:")
    }
    return kept


def _rules(config: Config | None) -> dict[str, Any]:
    if config is None:
        return {}
    return {
        "inbound": [_inbound(rule) for rule in config.policy.inbound],
        "outbound": [_outbound(rule) for rule in config.policy.outbound],
        "worker": asdict(config.worker),
        "sandbox": {
            "accept_tier2_edit": config.sandbox.accept_tier2_edit,
            "accept_tier2_network": config.sandbox.accept_tier2_network,
            "read": len(config.sandbox.read),
        },
        "store": asdict(config.store),
        "commands": len(config.commands),
        "runners": sorted(config.runners),
    }


def _inbound(rule: InboundRule) -> dict[str, object]:
    return {
        "effect": rule.effect,
        "peers": [selector.kind for selector in rule.peers],
        "operations": list(rule.operations),
        "profiles": list(rule.bases),
        "runners": [name.partition(":")[0] for name in rule.runners],
        "paths": len(rule.paths),
        "approval": rule.approval,
        "shared": rule.shared,
        "router": rule.router,
        "limits": {name: value for name, value in asdict(rule.limits).items() if value is not None},
    }


def _outbound(rule: OutboundRule) -> dict[str, object]:
    return {
        "effect": rule.effect,
        "peers": [selector.kind for selector in rule.peers],
        "profiles": list(rule.profiles),
        "repos": len(rule.repos),
        "send_changes": rule.send_changes,
        "prompt_bytes": rule.prompt_bytes,
    }


def _outline(log: str) -> Iterator[str]:
    """Yield of each line what is a word of cmesh's own; of others nothing, but that there were."""
    left_out = 0
    for line in log.splitlines()[-LOG_LINES:]:
        shown = _outlined(line)
        if not shown:
            left_out += 1
            continue
        if left_out:
            yield f"[{left_out} lines left out]"
            left_out = 0
        yield shown
    if left_out:
        yield f"[{left_out} lines left out]"


def _outlined(line: str) -> str:
    if found := _LINE.fullmatch(line):
        pairs = "".join(f" {name}={value}" for name, value in _PAIR.findall(found[5] or ""))
        return f"{found[1]} {found[2]} {found[3]} {found[4]}{pairs}"
    if found := _FRAME.match(line):
        return f"  {found[1]}:{found[2]} in {found[3]}"
    if found := _RAISED.match(line):
        return f"  {found[1]}"
    return ""
