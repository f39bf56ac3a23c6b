"""How a manifest says which credential its program takes, and how the daemon's gateway adds it.

A key, or the login of an account by the program's own command.

Tables of a manifest only; `gate` says what comes of them for one task.
"""

import re
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cmesh.policy.mistakes import wanted
from cmesh.policy.tables import TextForm
from cmesh.runner.egress.request import is_name

__all__ = ["Account", "Credential", "Gateway", "Variable"]

_VARIABLE = "letters, digits and underscores, no digit first"
_ROUTE = 'a method and path such as "POST /v1/messages" or "POST /models/*:ask"'
_API = 'an address such as "https://api.example.com/v1", without port and a slash at its end'
_HEADER = 'the name of a header in lower case such as "x-api-key"'
_RENEW = 'an address such as "https://login.example.com/token", or `http` on this machine'
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_DOTS = re.compile(r"/\.\.?(/|$)")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _api(text: str) -> str:
    try:
        url = urlsplit(text)
    except ValueError:
        raise wanted(_API) from None
    plain = url.scheme == "https" and url.netloc == (url.hostname or "")
    if not plain or not is_name(url.netloc) or url.query or url.fragment or text.endswith("/"):
        raise wanted(_API)
    return text


def _renew(text: str) -> str:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise wanted(_RENEW) from None
    host, bare = url.hostname or "", not (url.query or url.fragment or "@" in url.netloc)
    secure = url.scheme == "https" and is_name(host) and port is None
    own = url.scheme == "http" and host in _LOOPBACK
    if text and not (bare and url.path.startswith("/") and (secure or own)):
        raise wanted(_RENEW)
    return text


def _route(text: str) -> str:
    if _DOTS.search(text):
        raise wanted(_ROUTE)
    return text


Variable = Annotated[str, TextForm(r"[A-Za-z_][A-Za-z0-9_]*", _VARIABLE)]
Header = Annotated[str, TextForm(r"[a-z][a-z0-9-]*", _HEADER)]
Headers = Annotated[str, TextForm(r"[a-z][a-z0-9-]*\*?", f"{_HEADER}, or `x-app-*` for many")]
Scheme = Annotated[str, TextForm(r"[A-Za-z]*", 'a word such as "Bearer"')]
Keys = Annotated[
    str, TextForm(r"([a-z_]+(\.[a-z_]+)*)?", 'names joined by dots such as "tokens.access_token"')
]
"""Where a value stands in a JSON object; empty = nowhere."""
InLogin = Annotated[
    str, TextForm(r"([A-Za-z0-9_-][A-Za-z0-9._-]*)?", "the name of a file in the home")
]
Route = Annotated[
    str,
    TextForm(r"(GET|POST) (/(\*|[A-Za-z0-9_.-]+)(:[A-Za-z]+)?)+", _ROUTE),
    AfterValidator(_route),
]


class Gateway(_Table):
    """How the daemon asks the model's API in the program's place, and adds the key.

    Attributes:
        base_url: of the API, where the owner names no other.
        header: that carries the key, and in the task the task's own credential.
        scheme: a word before it, such as `Bearer`.
        routes: `METHOD /path` below the base URL; `*` is a name that is a whole part of the path,
            but for `:verb` after it. Nothing else is asked with the key.
        query: names of parameters that may come with them.
        headers: what else of the program's is handed on, by name; `*` ends one that begins so.
    """

    base_url: Annotated[str, AfterValidator(_api)]
    header: Header
    scheme: Scheme = ""
    routes: tuple[Route, ...]
    query: tuple[Annotated[str, TextForm(r"[A-Za-z_]+", "the name of a parameter")], ...] = ()
    headers: tuple[Headers, ...] = ()


class Account(_Table):
    """How the program logs in with an account, once for all tasks; only the gateway uses it.

    The login runs at its owner's terminal in a home of its own, and leaves a file there or prints
    a token. No task is ever given either.

    Attributes:
        argv: of the program's own login.
        variable: that holds the task's own credential; empty = that of a key.
        header, scheme: of the login, in the task and to the API, as of a gateway.
        base_url: of the API for accounts; empty = that of the gateway.
        file: JSON that the login leaves in its home; empty = it prints a token.
        token: how such a token begins; `days`: how long it lasts.
        access, refresh, client: where these stand in the file, by RFC 6749: the token for the API,
            the one that renews it, and who asks for that.
        headers: more headers for the API, and where their values stand in the file.
        renew_url: where the access token is renewed; empty = it is not.
    """

    argv: Annotated[tuple[str, ...], Field(min_length=1)]
    variable: Annotated[str, TextForm(r"([A-Za-z_][A-Za-z0-9_]*)?", _VARIABLE)] = ""
    header: Header = "authorization"
    scheme: Scheme = "Bearer"
    base_url: Annotated[str, AfterValidator(lambda text: text and _api(text))] = ""
    file: InLogin = ""
    token: Annotated[str, TextForm(r"[A-Za-z0-9_-]*", 'a beginning such as "sk-app-"')] = ""
    days: Annotated[int, Field(ge=0, le=3650)] = 0
    access: Keys = ""
    refresh: Keys = ""
    client: Keys = ""
    headers: dict[Header, Keys] = {}
    renew_url: Annotated[str, AfterValidator(_renew)] = ""

    @model_validator(mode="after")
    def _leaves_one_thing(self) -> Self:
        if bool(self.file) == bool(self.token) or bool(self.file) != bool(self.access):
            raise wanted("a `file` with `access` in it, or how its `token` begins", "file")
        if bool(self.renew_url) != bool(self.refresh and self.client):
            raise wanted("with `refresh` and `client`, and none of them without", "renew_url")
        return self


class Credential(_Table):
    """How the program takes its key; the variable's value is never in an argv.

    Attributes:
        variable: holds the key; with a gateway, in a sandbox, the task's own credential.
        base_url_variable: empty where the program takes that URL by `base_url` of `[options]`.
        gateway: None = a task holds the key itself.
        account: how it logs in with an account instead; None = it cannot.
    """

    variable: Variable
    base_url_variable: Annotated[str, TextForm(r"([A-Za-z_][A-Za-z0-9_]*)?", _VARIABLE)] = ""
    gateway: Gateway | None = None
    account: Account | None = None

    @model_validator(mode="after")
    def _keeps_its_account(self) -> Self:
        # INVARIANT: a task never holds an account's login, so it needs what adds it.
        if self.account is not None and self.gateway is None:
            raise wanted("no account without a [credential.gateway]", "account")
        return self

    def by_account(self) -> "Credential":
        """Return how a task asks its model where the owner has logged in with an account."""
        account, gateway = self.account, self.gateway
        if account is None or gateway is None:
            return self
        changed = {
            "base_url": account.base_url or gateway.base_url,
            "header": account.header,
            "scheme": account.scheme,
        }
        return self.model_copy(
            update={
                "variable": account.variable or self.variable,
                "gateway": gateway.model_copy(update=changed),
            }
        )
