"""How a manifest says which credential its program takes, and how the daemon's gateway adds it.

Tables of a manifest only; `gate` says what comes of them for one task.
"""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict

from cmesh.policy.mistakes import wanted
from cmesh.policy.tables import TextForm
from cmesh.runner.egress.request import is_name

__all__ = ["Credential", "Gateway", "Variable"]

_VARIABLE = "letters, digits and underscores, no digit first"
_ROUTE = 'a method and path such as "POST /v1/messages" or "POST /models/*:ask"'
_API = 'an address such as "https://api.example.com/v1", without port and a slash at its end'
_HEADER = 'the name of a header in lower case such as "x-api-key"'
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


def _route(text: str) -> str:
    if _DOTS.search(text):
        raise wanted(_ROUTE)
    return text


Variable = Annotated[str, TextForm(r"[A-Za-z_][A-Za-z0-9_]*", _VARIABLE)]
Header = Annotated[str, TextForm(r"[a-z][a-z0-9-]*", _HEADER)]
Headers = Annotated[str, TextForm(r"[a-z][a-z0-9-]*\*?", f"{_HEADER}, or `x-app-*` for many")]
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
    scheme: Annotated[str, TextForm(r"[A-Za-z]*", 'a word such as "Bearer"')] = ""
    routes: tuple[Route, ...]
    query: tuple[Annotated[str, TextForm(r"[A-Za-z_]+", "the name of a parameter")], ...] = ()
    headers: tuple[Headers, ...] = ()


class Credential(_Table):
    """How the program takes its key; the variable's value is never in an argv.

    Attributes:
        variable: holds the key; with a gateway, in a sandbox, the task's own credential.
        base_url_variable: empty where the program takes that URL by `base_url` of `[options]`.
        gateway: None = a task holds the key itself.
    """

    variable: Variable
    base_url_variable: Annotated[str, TextForm(r"([A-Za-z_][A-Za-z0-9_]*)?", _VARIABLE)] = ""
    gateway: Gateway | None = None
