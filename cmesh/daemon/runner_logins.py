"""An account's login for a runner: how its owner makes one, and what is told of it."""

from collections.abc import Mapping

from cmesh.daemon.core import Daemon
from cmesh.daemon.runner_answers import AccountView, LoginView
from cmesh.errors import RunnerError, RunnerUnavailable, UsageError
from cmesh.paths import login_file, login_home
from cmesh.runner.egress.credentials import Account
from cmesh.runner.logins import Login, load
from cmesh.runner.manifest import Manifest

__all__ = ["account_view", "drop", "keep", "login_of"]

_HOME = "{home}"


async def keep(daemon: Daemon, name: str) -> LoginView:
    """Take what the agent's own login has left in its home; see `Logins.keep`.

    Raises:
        RunnerUnavailable: there is no such runner.
        UsageError: it has no login of an account.
        RunnerError: nothing of use was left, or the disk refuses.
    """
    account = _account(daemon, name)
    try:
        login = await daemon.logins.keep(name, account)
    except OSError as error:
        raise RunnerError(f"the login cannot be kept: {error.strerror}") from error
    replaced = daemon.runners.key_file_named(name)
    return LoginView(
        name=name,
        kept=True,
        file=str(login_file(daemon.settings.state_dir, name)),
        expires_at=login.ends_at,
        renews=login.renews,
        note=f"`key_file` of [runners.{name}] goes before it" if replaced else "",
    )


async def drop(daemon: Daemon, name: str) -> LoginView:
    """Delete a runner's login, also that of one that is not there any more.

    Raises:
        RunnerError: the disk refuses.
    """
    try:
        deleted = await daemon.logins.drop(name)
    except OSError as error:
        raise RunnerError(f"the login cannot be deleted: {error.strerror}") from error
    return LoginView(name=name, kept=False, deleted=deleted)


def account_view(daemon: Daemon, manifest: Manifest | None, program: str) -> AccountView | None:
    """Return how a runner is logged in with an account; None = it cannot be."""
    account = manifest.credential.account if manifest and manifest.credential else None
    if manifest is None or account is None or not program:
        return None
    home = str(login_home(daemon.settings.state_dir, manifest.name))
    return AccountView(
        argv=[program, *account.argv],
        env=_env(manifest.env, home),
        home=home,
        prints=bool(account.token),
    )


def login_of(daemon: Daemon, name: str) -> Login | None:
    """Return the login that a runner uses, if it uses one. Blocks on the disk."""
    place = daemon.runners.login_file(name)
    if place is None:
        return None
    try:
        return load(place)
    except RunnerUnavailable:
        return None


def _account(daemon: Daemon, name: str) -> Account:
    manifest = daemon.rules.manifests.by_name.get(name)
    if manifest is None:
        raise RunnerUnavailable(
            f"no runner `{name}` on this machine",
            hint=f"runners: {', '.join(daemon.runners.names())}",
        )
    if manifest.credential is None or manifest.credential.account is None:
        raise UsageError(
            f"`{name}` has no login that cmesh could keep from its tasks",
            hint=f"cmesh runners login {name} --key",
        )
    return manifest.credential.account


def _env(templates: Mapping[str, str], home: str) -> dict[str, str]:
    """Return the variables that lead the program to its home; none that only a task has."""
    filled = {name: text.replace(_HOME, home) for name, text in templates.items()}
    return {name: text for name, text in filled.items() if "{" not in text}
