"""An account's login, as cmesh keeps it: made once by an agent's own command, renewed since.

What a login holds goes into the headers of requests, to where it is renewed, and into one 0600
file; never into a log, a row, an error or a task. All but `load` and `save` is pure.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from cmesh.errors import ConfigError, LoginExpired, RunnerError, RunnerUnavailable
from cmesh.paths import require_private_file, sync
from cmesh.runner.egress.credentials import Account
from cmesh.runner.task_files import write_synced

__all__ = [
    "FILE_BYTES",
    "Login",
    "from_file",
    "from_token",
    "load",
    "renewed",
    "require_usable",
    "save",
]

FILE_BYTES = 64 * 1024
"""The longest file of a login; real ones have 3 to 8 KiB."""

TOKEN_BYTES = 16 * 1024
RENEW_BEFORE = timedelta(minutes=5)
"""So long before an access token ends it is renewed: a request may take its time."""

_LATEST = 253_402_300_799  # 9999-12-31, the last second that a datetime can hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """One login.

    Attributes:
        access: the token for the API.
        made_at: when its owner logged in.
        expires_at: when `access` ends; None = it does not say.
        refresh, client, renew_url: what renews it, who asks, and where; empty = nothing does.
        headers: that the API needs beside the token.
        refused: its provider has refused to renew it, so that its owner must log in again.
    """

    access: str = field(repr=False)
    made_at: datetime
    expires_at: datetime | None = None
    refresh: str = field(default="", repr=False)
    client: str = ""
    renew_url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    refused: bool = False

    @property
    def renews(self) -> bool:
        """The daemon renews it, as far as anybody knows."""
        return bool(self.refresh and self.client and self.renew_url) and not self.refused

    @property
    def ends_at(self) -> datetime | None:
        """When its owner must log in again; None = nobody knows of a time."""
        return None if self.renews else self.expires_at

    def is_over(self, now: datetime) -> bool:
        """Say whether only its owner can make it work again."""
        return self.refused or (self.ends_at is not None and self.ends_at <= now)

    def is_due(self, now: datetime) -> bool:
        """Say whether it is to be renewed now."""
        at = self.expires_at
        return self.renews and at is not None and at - RENEW_BEFORE <= now

    def secrets(self) -> frozenset[str]:
        """Return what must stand in nothing that cmesh keeps or sends."""
        return frozenset(filter(None, (self.access, self.refresh)))


class _Stored(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    access: str
    made_at: datetime
    expires_at: datetime | None = None
    refresh: str = ""
    client: str = ""
    renew_url: str = ""
    headers: dict[str, str] = {}
    refused: bool = False


def load(path: Path) -> Login:
    """Read a login. Blocks on the disk.

    Raises:
        RunnerUnavailable: there is none, others may read it, or it is not whole.
    """
    again = f"cmesh runners login {path.stem}"
    try:
        require_private_file(path, secret=True)
        with path.open("rb") as file:
            stored = _Stored.model_validate_json(file.read(FILE_BYTES))
    except ConfigError as error:
        raise RunnerUnavailable(error.message, hint=error.hint) from error
    except OSError as error:
        why = f"login `{path}` cannot be read: {error.strerror}"
        raise RunnerUnavailable(why, hint=again) from error
    except ValidationError:  # its text would quote the file
        raise RunnerUnavailable(f"login `{path}` is not whole", hint=again) from None
    return Login(**dict(stored))


def save(login: Login, path: Path) -> None:
    """Write a login in the place of an older one; it is on the disk when this returns.

    Raises:
        OSError: the disk refuses; then the older one is there.
    """
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    write_synced(
        fresh, _Stored.model_validate(login, from_attributes=True).model_dump_json().encode()
    )
    fresh.replace(path)
    sync(path.parent)  # the provider takes the older one no more


def require_usable(name: str, login: Login, now: datetime) -> None:
    """Check that a login can be used.

    Raises:
        LoginExpired: its owner must log in again.
    """
    if login.is_over(now):
        raise LoginExpired(
            f"the login of runner `{name}` on this machine has expired",
            hint=f"cmesh runners login {name}",
        )


def from_token(account: Account, token: str, now: datetime) -> Login:
    """Return the login of a token that a program has printed.

    Raises:
        RunnerError: it is no such token; never says what it is.
    """
    if not token.startswith(account.token) or len(token) <= len(account.token):
        raise RunnerError(f"that is no token of this login: it begins with `{account.token}`")
    ends = now + timedelta(days=account.days) if account.days else None
    return Login(access=_word(token, "the token"), made_at=now, expires_at=ends)


def from_file(account: Account, data: bytes, now: datetime) -> Login:
    """Return the login that a program has left in a file.

    Raises:
        RunnerError: the file does not hold one; names what is missing.
    """
    try:
        found: Any = json.loads(data)
    except ValueError:
        raise RunnerError(f"`{account.file}` of the login is not JSON") from None

    def at(keys: str) -> str:
        return _word(_find(found, keys), f"`{keys}` in `{account.file}` of the login")

    access = at(account.access)
    login = Login(
        access=access,
        made_at=now,
        expires_at=_expiry(access),
        headers={name: at(keys) for name, keys in account.headers.items()},
    )
    if not account.renew_url or not _find(found, account.refresh):
        return login
    return replace(
        login,
        refresh=at(account.refresh),
        client=at(account.client),
        renew_url=account.renew_url,
    )


def renewed(login: Login, answer: bytes, now: datetime) -> Login:
    """Return a login after its provider's answer (RFC 6749 section 5.1).

    Raises:
        RunnerError: the answer holds no token.
    """
    try:
        found: Any = json.loads(answer)
    except ValueError:
        raise RunnerError("the answer to a renewal is not JSON") from None
    access = _word(_find(found, "access_token"), "`access_token` of a renewal")
    lasts = _find(found, "expires_in")
    ends = _expiry(access)
    if ends is None and isinstance(lasts, int) and 0 < lasts <= 10 * 365 * 86_400:
        ends = now + timedelta(seconds=lasts)
    # A provider that hands out no new one lets the old one stand.
    refresh = _find(found, "refresh_token") or login.refresh
    return replace(login, access=access, expires_at=ends, refresh=_word(refresh, "`refresh_token`"))


def _find(found: Any, keys: str) -> Any:
    for key in keys.split("."):
        table = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        found = table.get(key)
    return found


def _word(value: Any, what: str) -> str:
    """Return a text that can stand in a header.

    Raises:
        RunnerError: it cannot.
    """
    if not isinstance(value, str) or not value or len(value) > TOKEN_BYTES:
        raise RunnerError(f"{what} is missing")
    if not all("!" <= one <= "~" for one in value):
        raise RunnerError(f"{what} is no plain word")
    return value


def _expiry(token: str) -> datetime | None:
    """Return when a JSON web token ends by its own word (RFC 7519 section 4.1.4); None = unsaid.

    Its signature is its provider's to check: what it says here decides when it is renewed.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return None
    at = _find(claims, "exp")
    if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at <= _LATEST:
        return None
    return datetime.fromtimestamp(at, UTC)
