"""Renewing a login: once for all who ask, to its end whoever goes away, and never after a no."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.daemon.logins import Logins
from cmesh.errors import LoginExpired, RunnerError, RunnerUnavailable
from cmesh.paths import key_file, login_file, login_home
from cmesh.runner.egress.credentials import Account
from cmesh.runner.logins import load
from cmesh.store.records import AuditRecord
from tests.fakes.issuer import Issuer

pytestmark = pytest.mark.anyio

LIMIT_S = 20.0


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


class Kept:
    """Logins in a directory, with the rows that they have made."""

    def __init__(self, state: Path, issuer: Issuer) -> None:
        self.state, self.issuer = state, issuer
        self.rows: list[AuditRecord] = []
        self.logins = Logins(state, SystemClock(), self.audit)
        self.path = login_file(state, "codex")
        self.account = Account(
            argv=("login",),
            file="auth.json",
            access="access_token",
            refresh="refresh_token",
            client="client_id",
            headers={"x-account": "account_id"},
            renew_url=f"{issuer.url}/oauth/token",
        )

    async def audit(self, record: AuditRecord) -> None:
        self.rows.append(record)

    async def log_in(self, lasts_s: int = 60) -> None:

        self.issuer.lasts_s = lasts_s
        home = login_home(self.state, "codex")
        home.mkdir(parents=True)
        fields = self.issuer.grant() | {"client_id": "app_x", "account_id": "a-1"}
        (home / "auth.json").write_text(json.dumps(fields))
        await self.logins.keep("codex", self.account)
        self.issuer.lasts_s = 3600

    async def ask(self) -> str:
        async with asyncio.timeout(LIMIT_S):
            token, headers = await self.logins.bearer(str(self.path))
        assert headers == ((b"x-account", b"a-1"),)
        return token


@pytest.fixture
async def kept(tmp_path: Path, issuer: Issuer) -> AsyncIterator[Kept]:
    kept = Kept(tmp_path, issuer)
    yield kept
    await kept.logins.close()


async def test_of_many_requests_one_renews_and_all_get_the_new_token(kept: Kept) -> None:
    await kept.log_in()
    tokens = await asyncio.gather(*(kept.ask() for _ in range(20)))
    assert set(tokens) == {kept.issuer.access[1]}
    assert len(kept.issuer.renewals) == 1
    assert load(kept.path).refresh == kept.issuer.refresh[1]
    assert [row.kind for row in kept.rows] == ["login_kept", "login_renewed"]
    for row in kept.rows:
        assert not any(secret in str(row) for secret in (*kept.issuer.access, *kept.issuer.refresh))


async def test_a_login_that_still_lasts_asks_nobody(kept: Kept) -> None:
    await kept.log_in(lasts_s=3600)
    assert await kept.ask() == kept.issuer.access[0]
    assert kept.issuer.renewals == []


async def test_a_request_that_goes_away_leaves_its_renewal_to_its_end(kept: Kept) -> None:
    await kept.log_in()
    asking = asyncio.create_task(kept.ask())
    while not kept.issuer.renewals:
        await asyncio.sleep(0)
    asking.cancel()
    await kept.logins.close()
    assert load(kept.path).refresh == kept.issuer.refresh[1]


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_who_was_refused_is_over_until_its_owner_logs_in(kept: Kept, status: int) -> None:
    await kept.log_in()
    kept.issuer.refuses = status
    for _ in range(2):
        with pytest.raises(LoginExpired):
            await kept.ask()
    assert len(kept.issuer.renewals) == 1
    assert kept.rows[-1].kind == "login_refused"
    kept.issuer.refuses = 0
    await kept.log_in(lasts_s=3600)
    assert await kept.ask() == kept.issuer.access[-1]


async def test_a_provider_in_trouble_ends_no_login(kept: Kept) -> None:
    await kept.log_in(lasts_s=60)
    kept.issuer.refuses = 503
    assert await kept.ask() == kept.issuer.access[0]  # it still lasts a minute
    await kept.log_in(lasts_s=-1)
    with pytest.raises(RunnerUnavailable, match="cannot be renewed now") as error:
        await kept.ask()
    assert not isinstance(error.value, LoginExpired)
    asked = len(kept.issuer.renewals)
    with pytest.raises(RunnerUnavailable):
        await kept.ask()
    assert len(kept.issuer.renewals) == asked  # not at every request


async def test_a_login_takes_the_place_of_a_key_and_its_home_goes(kept: Kept) -> None:
    key = key_file(kept.state, "codex")
    key.parent.mkdir()
    key.write_text("sk-a-key")
    await kept.log_in()
    assert [path.name for path in key.parent.iterdir()] == ["codex.json"]
    assert await kept.logins.drop("codex")
    assert not await kept.logins.drop("codex")
    assert list(key.parent.iterdir()) == []


async def test_a_login_that_left_nothing_or_a_link_keeps_the_older_one(kept: Kept) -> None:
    await kept.log_in(lasts_s=3600)
    home = login_home(kept.state, "codex")
    home.mkdir()
    with pytest.raises(RunnerError, match="left nothing"):
        await kept.logins.keep("codex", kept.account)
    assert not home.exists()
    home.mkdir()
    (home / "auth.json").symlink_to(kept.path)
    with pytest.raises(RunnerError, match="a link"):
        await kept.logins.keep("codex", kept.account)
    assert await kept.ask() == kept.issuer.access[0]
