"""Runners as they act here, and one looked at from its program to its self-test."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from cmesh.config import Config
from cmesh.daemon.core import Daemon
from cmesh.daemon.runner_answers import (
    CheckItem,
    CheckView,
    ManifestView,
    RunnersView,
    RunnerView,
    SelfTestView,
)
from cmesh.daemon.runner_logins import account_view, login_of
from cmesh.daemon.selftests import wanted
from cmesh.errors import CmeshError, LoginExpired, RunnerUnavailable
from cmesh.model import Limits, Profile, TaskId, TaskSpec
from cmesh.runner.command import Host, start_argv
from cmesh.runner.logins import Login
from cmesh.runner.manifest import PLACEHOLDERS, load_manifests
from cmesh.runner.own_manifests import Manifests, file_of
from cmesh.runner.runner import Runner
from cmesh.runner.standing import SelfTest

__all__ = ["check", "manifest_lines", "runners", "self_test_lines"]

_SILENT = frozenset({"none", "passed"})


async def runners(daemon: Daemon) -> RunnersView:
    """Return every runner, asking the machine in a thread."""
    await daemon.sandboxes.find()
    return await asyncio.to_thread(_runners, daemon)


async def check(daemon: Daemon, name: str) -> CheckView:
    """Look at one runner, and run its self-test when it can start in a sandbox.

    Raises:
        RunnerUnavailable: there is none of this name.
    """
    try:
        runner = await asyncio.to_thread(daemon.runners.resolve, name)
    except RunnerUnavailable as error:
        if name not in daemon.runners.names():
            raise
        items = _manifest_items(daemon, name)
        if not all(item.ok for item in items):
            return CheckView(name=name, ok=False, items=items)
        found = await asyncio.to_thread(daemon.runners.find, name)
        items.append(CheckItem(what="program", ok=bool(found), found=found or error.message))
        if found:
            what = "login" if isinstance(error, LoginExpired) else "key"
            items.append(CheckItem(what=what, ok=False, found=error.message))
        items[-1] = items[-1].model_copy(update={"next": error.hint})
        return CheckView(name=name, ok=False, items=items)
    items = _manifest_items(daemon, name)
    items.append(CheckItem(what="program", ok=True, found=runner.program))
    if runner.account:
        login = await asyncio.to_thread(login_of, daemon, name)
        items.append(CheckItem(what="login", ok=True, found=_login(login)))
    elif runner.key_file is not None:
        items.append(CheckItem(what="key", ok=True, found=_key(runner)))
    sandbox = await _sandbox(daemon, runner)
    items.append(sandbox)
    tested = runner.test
    if sandbox.ok and tested.state != "none":
        tested = await daemon.self_tests.check(name)
    runner = replace(runner, test=tested)
    items += _versions(runner, tested)
    ok = all(item.ok for item in items)
    return CheckView(name=name, ok=ok, items=items, self_test=_view(daemon, name, tested))


def self_test_lines(daemon: Daemon) -> list[str]:
    """Say how each wanted runner stands whose self-test has not passed.

    Looks at programs and keys, so not for the event loop.
    """
    named = wanted(daemon.rules.config())
    if not named:
        return []
    return [
        f"{status.name} {status.version}: {status.test.label}"
        for status in daemon.runners.status()
        if status.name in named and status.test.state not in _SILENT
    ]


def manifest_lines(manifests: Manifests) -> list[str]:
    """Say in one line each which manifests are the owner's."""
    return [
        f"{name}: {path}{', in the place of the built-in one' if name in load_manifests() else ''}"
        for name, path in manifests.own.items()
    ]


def _manifest(daemon: Daemon, name: str) -> ManifestView:
    manifests = daemon.rules.manifests
    error = manifests.broken.get(name)
    if name not in manifests.own and error is None:
        return ManifestView()
    return ManifestView(
        file=str(file_of(daemon.settings.config_file.parent, name)),
        replaces=name in load_manifests(),
        problem=error.message if error else "",
    )


def _manifest_items(daemon: Daemon, name: str) -> list[CheckItem]:
    """Return what there is to say of an own manifest; nothing of a built-in one."""
    view, error = _manifest(daemon, name), daemon.rules.manifests.broken.get(name)
    if error is not None:
        return [CheckItem(what="manifest", ok=False, found=error.message, next=error.hint)]
    return [CheckItem(what="manifest", ok=True, found=view.file)] if view.file else []


async def _sandbox(daemon: Daemon, runner: Runner) -> CheckItem:
    found = await daemon.sandboxes.find()
    obstacle = _obstacle(daemon, runner, Profile.QUERY)
    if obstacle is not None:
        return CheckItem(what="sandbox", ok=False, found=obstacle.message, next=obstacle.hint)
    return CheckItem(what="sandbox", ok=True, found=found.label)


def _obstacle(daemon: Daemon, runner: Runner, profile: Profile) -> CmeshError | None:
    """Say what keeps a runner from a profile here, whatever its version; None = nothing."""
    if profile is Profile.FULL:
        return None
    try:
        daemon.sandboxes.check(profile, daemon.rules.config().sandbox)
        if not runner.network().empty:
            daemon.sandboxes.require_network()
    except CmeshError as error:
        return error
    return None


def _versions(runner: Runner, tested: SelfTest) -> list[CheckItem]:
    """Return what speaks for this version: the range it was tried in, and its self-test."""
    items: list[CheckItem] = []
    refused, versions = runner.untested(), runner.manifest.versions
    step = refused.hint if refused is not None else ""
    if versions is not None or runner.own:
        tried = versions is not None and versions.hold(runner.version)
        whose = "tried by its manifest's word" if runner.own else "tried by us"
        found = f"{runner.version or 'it names none'}; {whose}: {_range(runner) or 'none'}"
        items.append(
            CheckItem(what="version", ok=tried or tested.state == "passed", found=found, next=step)
        )
    if tested.state != "none":
        ok = tested.state == "passed"
        again = step or ("" if ok else "see the reason; then check again")
        items.append(CheckItem(what="self-test", ok=ok, found=tested.label, next=again))
    return [item.model_copy(update={"next": ""}) if item.ok else item for item in items]


def _range(runner: Runner) -> str:
    versions = runner.manifest.versions
    return f"{versions.first} to below {versions.below}" if versions else ""


def _runners(daemon: Daemon) -> RunnersView:
    config = daemon.rules.config()
    return RunnersView(runners=[_runner(daemon, config, name) for name in daemon.runners.names()])


def _runner(daemon: Daemon, config: Config, name: str) -> RunnerView:
    is_wanted = name in wanted(config) or name.startswith("command:")
    try:
        runner = daemon.runners.resolve(name)
    except RunnerUnavailable as error:
        return RunnerView(
            name=name,
            wanted=is_wanted,
            reason=error.message,
            hint=error.hint,
            takes_key=daemon.runners.takes_key(name),
            login="account" if daemon.runners.login_file(name) else "",
            account=account_view(
                daemon, daemon.rules.manifests.by_name.get(name), daemon.runners.find(name)
            ),
            manifest=_manifest(daemon, name),
        )
    refused = runner.untested()
    profiles = [
        profile
        for profile in runner.manifest.profiles
        if (profile is Profile.FULL or refused is None)
        and _obstacle(daemon, runner, profile) is None
    ]
    return RunnerView(
        name=name,
        wanted=is_wanted,
        available=True,
        program=runner.program,
        version=runner.version,
        tried=_range(runner),
        credential=runner.credential(Profile.QUERY),
        takes_key=runner.manifest.credential is not None,
        login="account" if runner.account else "key" if runner.key_file else "",
        expires_at=runner.ends_at,
        renews=runner.renews,
        account=account_view(daemon, runner.manifest, runner.program),
        profiles=[profile.value for profile in profiles],
        refused=refused.message if refused else "",
        hint=refused.hint if refused else "",
        argv={profile.value: _argv(runner, profile) for profile in runner.manifest.profiles},
        hosts=list(runner.manifest.network.hosts),
        base_url=runner.base_url,
        env=sorted(_env(runner)),
        follow_up=runner.manifest.session is not None,
        reports_cost=runner.reports_cost,
        reports=list(runner.manifest.reports),
        self_test=_view(daemon, name, runner.test),
        manifest=_manifest(daemon, name),
    )


def _key(runner: Runner) -> str:
    behind = runner.gateway(Profile.QUERY) is not None
    who = (
        "the gateway adds it, so that no task in a sandbox holds it" if behind else "tasks hold it"
    )
    return f"{runner.key_file}, yours alone; {who}"


def _login(login: Login | None) -> str:
    """Say what is known of an account's login, and until when it counts."""
    if login is None:
        return ""
    made, ends = login.made_at.date().isoformat(), login.ends_at
    until = "renewed by the daemon" if login.renews else "until when is not known"
    if ends is not None:
        until = f"until {ends.date().isoformat()}"
    return f"an account's, made {made}, {until}; the gateway adds it, so that no task holds it"


def _env(runner: Runner) -> set[str]:
    credential = runner.manifest.credential
    own = {credential.variable} if credential is not None else set[str]()
    return own | set(runner.env) | set(runner.manifest.env) | set(runner.manifest.env_json)


def _argv(runner: Runner, profile: Profile) -> list[str]:
    """Return what would be started; what only a task knows stays as it is in the manifest."""
    values: Mapping[str, str] = {name: f"{{{name}}}" for name in PLACEHOLDERS}
    values = {**values, "model": runner.model, "base_url": runner.base_url}
    host = Host(
        program=runner.program,
        arguments=runner.arguments,
        search_path="",
        env={},
        home="",
        tmp="",
        model=runner.model,
        base_url=runner.base_url,
    )
    spec = TaskSpec(
        task_id=TaskId(""),
        runner=runner.name,
        profile=profile,
        directory="",
        prompt="",
        limits=Limits(),
        not_after=datetime.max.replace(tzinfo=UTC),
    )
    return list(start_argv(spec, runner.manifest, host, values))


def _view(daemon: Daemon, name: str, test: SelfTest) -> SelfTestView:
    return SelfTestView(
        state=test.state,
        sprung=list(test.sprung),
        reason=test.reason,
        at=test.at,
        running=daemon.self_tests.running(name),
    )
