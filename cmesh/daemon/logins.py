"""The accounts' logins of this worker: taken from an agent's own login, renewed, thrown away.

INVARIANT: one process, and one task of it at a time, renews a login: providers take a token that
renews once, and may end the whole login for a second use.
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from cmesh.clock import Clock
from cmesh.errors import RunnerError, RunnerUnavailable
from cmesh.paths import key_file, login_file, login_home
from cmesh.runner.egress.credentials import Account
from cmesh.runner.egress.gateway import Bearer
from cmesh.runner.egress.outside import INTERNET, Outside
from cmesh.runner.egress.reach import Limits, Means
from cmesh.runner.egress.renew import ask
from cmesh.runner.logins import (
    FILE_BYTES,
    Login,
    from_file,
    from_token,
    load,
    renewed,
    require_usable,
    save,
)
from cmesh.store.records import AuditRecord

__all__ = ["Logins"]

logger = logging.getLogger(__name__)

PRINTED = "printed"
"""In a login's home: a token that a program has printed."""

LOGIN_KEPT, LOGIN_DROPPED = "login_kept", "login_dropped"
LOGIN_RENEWED, LOGIN_REFUSED = "login_renewed", "login_refused"
"""Kinds of audit rows; none holds a part of a login."""

AGAIN_AFTER_S = 10.0
"""After a renewal that nobody answered."""

_REFUSALS = frozenset({400, 401, 403})
"""Statuses by which a provider says that this login is not renewed any more (RFC 6749 5.2)."""


class Logins:
    """All logins of one daemon; used from one event loop."""

    def __init__(
        self,
        state: Path,
        clock: Clock,
        audit: Callable[[AuditRecord], Awaitable[None]],
        outside: Outside = INTERNET,
    ) -> None:
        self._state = state
        self._clock = clock
        self._audit = audit
        self._means = Means(outside=outside, clock=clock, limits=Limits())
        self._locks: dict[str, asyncio.Lock] = {}
        self._renewals: set[asyncio.Task[Login]] = set()
        self._again_at: dict[str, float] = {}

    async def keep(self, name: str, account: Account) -> Login:
        """Take what the agent's own login has left in its home, which is deleted; on the record.

        It counts from the next request on, in the place of an older login and of a kept key.

        Raises:
            RunnerError: nothing of use was left there.
            OSError: the disk refuses.
        """
        async with self._lock(name):
            home = login_home(self._state, name)
            try:
                login = await asyncio.to_thread(self._taken, name, account, home)
            finally:
                await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
            ends = login.expires_at.isoformat() if login.expires_at else None
            data = {"runner": name, "expires_at": ends, "renews": login.renews}
            await self._audit(AuditRecord(kind=LOGIN_KEPT, data=data))
            return login

    async def drop(self, name: str) -> bool:
        """Delete a login; say whether there was one."""
        async with self._lock(name):
            try:
                await asyncio.to_thread(login_file(self._state, name).unlink)
            except FileNotFoundError:
                return False
            await self._audit(AuditRecord(kind=LOGIN_DROPPED, data={"runner": name}))
            return True

    async def bearer(self, path: str) -> Bearer:
        """Return what goes into a request now; renews the login first when it is due.

        Raises:
            LoginExpired: its owner must log in again.
            RunnerUnavailable: there is none, or it cannot be renewed just now.
        """
        name = Path(path).stem
        login = await asyncio.to_thread(load, Path(path))
        if login.is_due(self._clock.now()):
            # INVARIANT: a renewal that was begun is brought to its end, whoever goes away: its
            # provider may have taken the old token back already.
            renewal = asyncio.get_running_loop().create_task(self._renew(name, Path(path)))
            self._renewals.add(renewal)
            renewal.add_done_callback(self._renewals.discard)
            login = await asyncio.shield(renewal)
        require_usable(name, login, self._clock.now())
        return login.access, tuple(
            (header.encode(), value.encode()) for header, value in login.headers.items()
        )

    async def close(self) -> None:
        """Wait for what is being renewed."""
        if self._renewals:
            await asyncio.gather(*self._renewals, return_exceptions=True)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _taken(self, name: str, account: Account, home: Path) -> Login:
        now = self._clock.now()
        place = home / (account.file or PRINTED)
        try:
            if place.is_symlink():
                raise RunnerError(f"`{place.name}` of the login is a link")
            with place.open("rb") as file:
                data = file.read(FILE_BYTES + 1)
        except FileNotFoundError:
            raise RunnerError("the login has left nothing; log in again") from None
        if len(data) > FILE_BYTES:
            raise RunnerError(f"`{place.name}` of the login is too large")
        if account.file:
            login = from_file(account, data, now)
        else:
            login = from_token(account, data.decode("ascii", "replace").strip(), now)
        save(login, login_file(self._state, name))
        key_file(self._state, name).unlink(missing_ok=True)
        self._again_at.pop(name, None)
        return login

    async def _renew(self, name: str, path: Path) -> Login:
        async with self._lock(name):
            login = await asyncio.to_thread(load, path)
            now = self._clock.now()
            if not login.is_due(now):  # the one before has done it
                return login
            still = login.expires_at is not None and now < login.expires_at
            if self._clock.monotonic() >= self._again_at.get(name, 0.0):
                try:
                    return await self._renewed(name, path, login)
                except (OSError, RunnerError) as error:
                    self._again_at[name] = self._clock.monotonic() + AGAIN_AFTER_S
                    why = error.message if isinstance(error, RunnerError) else str(error)
                    data = {"runner": name, "why": why}
                    logger.warning("login_unrenewed", extra={"data": data})
            if still:
                return login
            raise RunnerUnavailable(
                f"the login of runner `{name}` cannot be renewed now",
                hint=f"cmesh runners login {name}",
            )

    async def _renewed(self, name: str, path: Path, login: Login) -> Login:
        form = {
            "grant_type": "refresh_token",
            "client_id": login.client,
            "refresh_token": login.refresh,
        }
        status, body = await ask(login.renew_url, form, self._means)
        if status in _REFUSALS:
            fresh = replace(login, refused=True)
        elif status == 200:
            fresh = renewed(login, body, self._clock.now())
        else:
            raise OSError(f"its provider answered {status}")
        await asyncio.to_thread(save, fresh, path)
        kind = LOGIN_REFUSED if fresh.refused else LOGIN_RENEWED
        ends = fresh.expires_at.isoformat() if fresh.expires_at else None
        data = {"runner": name, "expires_at": ends, "status": status}
        with contextlib.suppress(RunnerError):
            await self._audit(AuditRecord(kind=kind, data=data))
        return fresh
