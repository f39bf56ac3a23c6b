"""What keeps this node from its work, or will keep the first task: found before somebody asks.

Looks at the configuration against the machine; decides and changes nothing.
"""

import asyncio
from collections.abc import Container, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cmesh.config import Config
from cmesh.daemon.answers import Problem
from cmesh.daemon.core import Daemon
from cmesh.errors import CmeshError, NodeError, RootRefused, RunnerUnavailable, SandboxUnavailable
from cmesh.model import Profile
from cmesh.nearest import did_you_mean
from cmesh.platform.users import is_superuser
from cmesh.policy.rules import InboundRule
from cmesh.runner.registry import RunnerStatus

__all__ = ["problems"]

MISSING_PATH = "missing_path"
NOT_CONFIGURED = "not_configured"
KEY_EXPIRES = "key_expires_soon"
MACHINES_UNREAD = "machines_not_read"
KEY_FILE_MISSING = "key_file_missing"
LOGIN_EXPIRES = "login_expires_soon"
KEY_WARNING = timedelta(days=14)
"""So long before a node key or a runner's login expires the owner is told."""


async def problems(daemon: Daemon) -> list[Problem]:
    """Say what is in the way, the worst first."""
    config = daemon.rules.config()
    found: list[CmeshError] = []
    if daemon.rules.error is not None:
        found.append(daemon.rules.error)
    if daemon.configured:
        try:
            daemon.presence.require_up()
        except NodeError as error:
            found.append(error)
    listed = [Problem(code=e.code, what=e.message, next=e.hint) for e in found]
    if daemon.configured and daemon.presence.phase == "login" and daemon.presence.trouble:
        what = f"{daemon.presence.trouble}, so a person must log this node in"
        then = "put the key there, mode 0600, then `cmesh up --replace`; or `cmesh login`"
        listed.append(Problem(code=KEY_FILE_MISSING, what=what, next=then))
    if not daemon.configured:
        what = f"there is no configuration at `{daemon.settings.config_file}`"
        listed.append(Problem(code=NOT_CONFIGURED, what=what, next="run `cmesh setup`"))
    if daemon.machines.trouble:
        what, then = daemon.machines.trouble, "nothing: each peer tells again with its next link"
        listed.append(Problem(code=MACHINES_UNREAD, what=what, next=then))
    listed += _expiring(daemon)
    listed += _broken_manifests(daemon)
    naming = [rule for rule in config.policy.inbound if rule.runners]
    rules = [rule for rule in naming if rule.effect == "allow"]
    if not naming and not config.runners and not config.commands:
        return listed
    # Looks at programs, keys and directories, so not on the event loop.
    runners = await asyncio.to_thread(daemon.runners.status)
    missing = await asyncio.to_thread(_missing_paths, rules)
    is_root = is_superuser()
    soon = daemon.settings.clock.now() + KEY_WARNING
    return [
        *listed,
        *_root(rules, config, is_root=is_root),
        *_sandbox(daemon, rules, config),
        *_unknown_runners(naming, config, [runner.name for runner in runners]),
        *_unusable_runners(rules, config, runners, daemon.rules.manifests.broken, soon),
        *missing,
    ]


def _broken_manifests(daemon: Daemon) -> Iterable[Problem]:
    told = {error.message: error for error in daemon.rules.manifests.broken.values()}
    for error in told.values():  # a folder that cannot be read breaks several at once
        yield Problem(code=error.code, what=error.message, next=error.hint)


def _expiring(daemon: Daemon) -> list[Problem]:
    """Warn of node keys that end soon: this node's, and those of the peers it has links to."""
    soon = daemon.settings.clock.now() + KEY_WARNING
    own = daemon.presence.status
    found: list[Problem] = []
    if own is not None and not own.expired and own.key_expiry and own.key_expiry <= soon:
        found.append(_expires("this node's key", own.key_expiry, "here"))
    for link in daemon.links.all():
        who = link.identity
        if who.key_expiry is not None and who.key_expiry <= soon:
            label = who.label
            found.append(_expires(f"the node key of `{label}`", who.key_expiry, f"on `{label}`"))
    return found


def _expires(what: str, at: datetime, where: str) -> Problem:
    return Problem(
        code=KEY_EXPIRES,
        what=f"{what} expires at {at.isoformat(timespec='minutes')}; links end then",
        next=f"extend it in the tailnet's console, or run `cmesh login` {where} once it has expired",
    )


def _root(rules: Sequence[InboundRule], config: Config, *, is_root: bool) -> Iterable[Problem]:
    if is_root and rules and not config.worker.allow_root:
        yield Problem(
            code=RootRefused.code,
            what="the daemon runs as root, so it refuses every task that the rules allow",
            next="run it as an ordinary user, or set `allow_root = true` under `[worker]`",
        )


def _sandbox(daemon: Daemon, rules: Sequence[InboundRule], config: Config) -> Iterable[Problem]:
    """Say what keeps a sandboxed profile from running here, once that is known."""
    found = daemon.sandboxes.found
    for profile in Profile if found else ():
        named = next((rule for rule in rules if profile in rule.bases), None)
        if named is None:
            continue
        try:
            daemon.sandboxes.check(profile, config.sandbox)
        except SandboxUnavailable as error:
            what = f"rule `{named.name}`: {error.message}"
            yield Problem(code=error.code, what=what, next=error.hint)


def _unknown_runners(
    rules: Sequence[InboundRule], config: Config, known: Sequence[str]
) -> Iterable[Problem]:
    named = [(f"rule `{rule.name}`", name) for rule in rules for name in rule.runners]
    named += [(f"`[runners.{name}]`", name) for name in config.runners]
    for where, name in named:
        if name in known:
            continue
        meant = did_you_mean(name, known)
        command = name.removeprefix("command:")
        add = f"add `[commands.{command}]`" if command != name else f"`cmesh runners new {name}`"
        yield Problem(
            code=RunnerUnavailable.code,
            what=f"{where} names the runner `{name}`, which is not here",
            next=f"{f'{meant} else ' if meant else ''}{add}; runners here: {', '.join(known)}",
        )


def _unusable_runners(
    rules: Sequence[InboundRule],
    config: Config,
    runners: Sequence[RunnerStatus],
    broken: Container[str],
    soon: datetime,
) -> Iterable[Problem]:
    # A runner that nobody configured and no rule names is no problem.
    wanted = {name for rule in rules for name in rule.runners} | set(config.runners)
    wanted |= {f"command:{name}" for name in config.commands}
    for runner in runners:
        if runner.name in wanted and not runner.available and runner.name not in broken:
            yield Problem(code=runner.code, what=runner.reason, next=runner.hint)
        elif runner.name in wanted and runner.ends_at is not None and runner.ends_at <= soon:
            at = runner.ends_at.isoformat(timespec="minutes")
            yield Problem(
                code=LOGIN_EXPIRES,
                what=f"the login of runner `{runner.name}` expires at {at}",
                next=f"cmesh runners login {runner.name}",
            )
        elif runner.name in wanted and runner.untested is not None:
            error = runner.untested
            yield Problem(code=error.code, what=error.message, next=error.hint)


def _missing_paths(rules: Sequence[InboundRule]) -> list[Problem]:
    return [
        Problem(
            code=MISSING_PATH,
            what=f"rule `{rule.name}` names `{path}`, which is no directory here",
            next="make the directory, or correct `paths` of the rule",
        )
        for rule in rules
        for path in rule.paths
        if not _is_directory(path)
    ]


def _is_directory(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:
        return False
