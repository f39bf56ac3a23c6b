"""What a login holds, how long it counts, and what an agent may have left of one."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cmesh.errors import LoginExpired, RunnerError, RunnerUnavailable
from cmesh.runner.egress.credentials import Account
from cmesh.runner.logins import Login, from_file, from_token, load, renewed, require_usable, save
from cmesh.runner.manifest import load_manifests
from tests.fakes.issuer import web_token

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = int((NOW + timedelta(hours=1)).timestamp())


def account(name: str) -> Account:
    credential = load_manifests()[name].credential
    assert credential is not None
    assert credential.account is not None
    return credential.account


def left(**tokens: object) -> bytes:
    whole = {
        "access_token": web_token(exp=LATER),
        "refresh_token": "renews-it",
        "account_id": "account-1",
        "oauth_provenance": {"client_id": "app_x"},
    }
    return json.dumps({"tokens": {**whole, **tokens}}).encode()


def test_a_printed_token_lasts_a_year_from_the_day_it_was_handed_over() -> None:
    login = from_token(account("claude"), "sk-ant-oat01-abc", NOW)
    assert (login.renews, login.ends_at) == (False, NOW + timedelta(days=365))
    require_usable("claude", login, NOW + timedelta(days=364))
    with pytest.raises(LoginExpired) as error:
        require_usable("claude", login, NOW + timedelta(days=365))
    assert error.value.hint == "cmesh runners login claude"


@pytest.mark.parametrize("text", ["", "sk-ant-oat", "sk-ant-api03-key", "sk-ant-oat01-a b"])
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(RunnerError) as error:
        from_token(account("claude"), text, NOW)
    assert not text[10:] or text not in error.value.message


def test_a_file_gives_tokens_headers_and_an_end_and_says_what_renews_it() -> None:
    login = from_file(account("codex"), left(), NOW)
    assert login.headers == {"chatgpt-account-id": "account-1"}
    assert (login.client, login.refresh, login.renews) == ("app_x", "renews-it", True)
    assert login.expires_at == NOW + timedelta(hours=1)
    assert login.ends_at is None
    assert not login.is_due(NOW + timedelta(minutes=54))
    assert login.is_due(NOW + timedelta(minutes=55))
    assert "renews-it" not in repr(login)
    assert login.access not in repr(login)


def test_without_what_renews_it_a_login_ends_with_its_token() -> None:
    login = from_file(account("codex"), left(refresh_token=None), NOW)
    assert (login.renews, login.ends_at) == (False, NOW + timedelta(hours=1))
    assert login.is_over(NOW + timedelta(hours=1))


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"{", "not JSON"),
        (b"[]", "tokens.access_token"),
        (b'{"tokens": []}', "tokens.access_token"),
        (left(access_token=""), "tokens.access_token"),
        (left(access_token="a\r\nb"), "no plain word"),
        (left(access_token="a" * 20_000), "tokens.access_token"),
        (left(account_id=None), "tokens.account_id"),
        (left(account_id="a\nhost: evil"), "no plain word"),
        (left(oauth_provenance=None), "client_id"),
    ],
)
def test_a_file_that_is_no_login_is_named_by_what_it_lacks(data: bytes, named: str) -> None:
    with pytest.raises(RunnerError, match=named):
        from_file(account("codex"), data, NOW)


@pytest.mark.parametrize(
    "token",
    [
        "opaque",
        "a.b.c",
        web_token(),
        web_token(exp="soon"),
        web_token(exp=True),
        web_token(exp=-1),
        web_token(exp=10**30),
    ],
)
def test_a_token_that_does_not_say_when_it_ends_is_believed(token: str) -> None:
    login = from_file(account("codex"), left(access_token=token), NOW)
    assert login.expires_at is None
    assert not login.is_due(NOW + timedelta(days=3650))


def test_an_answer_renews_a_login_and_may_keep_what_renews_it() -> None:
    login = from_file(account("codex"), left(), NOW)
    fresh = renewed(login, json.dumps({"access_token": "opaque", "expires_in": 60}).encode(), NOW)
    assert (fresh.access, fresh.refresh) == ("opaque", "renews-it")
    assert fresh.expires_at == NOW + timedelta(minutes=1)
    assert fresh.headers == login.headers
    other = renewed(login, b'{"access_token": "a", "refresh_token": "r2", "expires_in": -5}', NOW)
    assert (other.refresh, other.expires_at) == ("r2", None)
    for answer in (b"", b"[]", b'{"access_token": 7}', b'{"access_token": "a b"}'):
        with pytest.raises(RunnerError):
            renewed(login, answer, NOW)


def test_a_login_is_kept_for_its_owner_alone_and_read_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "codex.json"
    login = from_file(account("codex"), left(), NOW)
    save(Login(access="older", made_at=NOW), place)
    save(login, place)
    assert load(place) == login
    assert place.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [place]
    place.chmod(0o640)
    with pytest.raises(RunnerUnavailable, match="mode 0640"):
        load(place)


def test_a_file_that_is_not_whole_is_refused_without_a_word_of_it(tmp_path: Path) -> None:
    place = tmp_path / "codex.json"
    place.write_text('{"access": "a-secret-token", "made_at": "never"}')
    place.chmod(0o600)
    with pytest.raises(RunnerUnavailable) as error:
        load(place)
    assert "a-secret-token" not in str(error.value)
    assert error.value.hint == "cmesh runners login codex"
