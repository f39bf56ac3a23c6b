"""The form of the rule tables of `config.toml`: what TOML may hold, checked by pydantic.

Form only: what a rule needs to make sense as a whole is `cmesh.policy.parse`'s.
The JSON Schema of the configuration is made from these classes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from cmesh.model import Operation, Profile

__all__ = [
    "DURATION_PATTERN",
    "Duration",
    "InboundAllowTable",
    "InboundDenyTable",
    "InboundTables",
    "LimitsTable",
    "Location",
    "OutboundAllowTable",
    "OutboundDenyTable",
    "OutboundTables",
    "PolicyTables",
    "Problem",
    "Table",
    "TextForm",
    "key_of",
    "known_keys",
    "problems",
]

Location = tuple[str | int, ...]
"""Where a value stands: keys, and indexes from 0 into lists."""

DURATION_PATTERN = r"^[1-9][0-9]{0,5}[smhd]$"
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _seconds(value: object) -> int:
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value):
        raise PydanticCustomError("duration", 'a duration such as "90s", "15m", "4h" or "30d"')
    return int(value[:-1]) * _UNIT_S[value[-1]]


Duration = Annotated[
    int,
    BeforeValidator(_seconds),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
]
"""Seconds, written as a whole number and a unit."""


@dataclass(frozen=True, slots=True)
class TextForm:
    """For `Annotated[str, ...]`: a text of a form, with the words that say which.

    The whole text must fit `pattern`; the schema carries it between `^` and `$`.
    """

    pattern: str
    words: str

    def __get_pydantic_core_schema__(
        self, source: type[str], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"pattern": f"^(?:{self.pattern})$"}

    def _check(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise PydanticCustomError("text_form", "{words}", {"words": self.words})
        return text


_Operation = Annotated[Operation, Field(strict=False)]
_Profile = Annotated[Profile, Field(strict=False)]
_RuleName = Annotated[str, Field(min_length=1, max_length=200)]
_SelectorText = Annotated[str, Field(min_length=1, max_length=320)]
_Runner = Annotated[str, Field(min_length=1, max_length=80)]
_Path = Annotated[str, Field(min_length=1, max_length=4096)]
_Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Table(BaseModel):
    """A TOML table; an unknown key and a value of another type are errors."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


class LimitsTable(Table):
    """What one peer may use under a rule; a key left out sets no limit."""

    runtime: Duration | None = None
    """Longest run; a longer wish is narrowed to it."""
    concurrent: _Count | None = None
    """Tasks of one peer that may run or wait at the same time."""
    per_day: _Count | None = None
    """Tasks accepted from one peer in a day."""
    cost_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """US dollars a task may cost; the rule then allows only runners that report cost."""
    output_bytes: Annotated[int, Field(ge=0, le=2**30)] | None = None
    """Bytes of output kept of a task; a larger wish is narrowed to it."""


class _Rule(Table):
    name: _RuleName
    """Names the rule in decisions, the audit and error texts; unique in its direction."""
    peers: Annotated[list[_SelectorText], Field(min_length=1)]
    """Selectors: `node:ID`, `user:LOGIN`, `tag:NAME`, `grant:NAME`, or `*` for any peer."""


class InboundAllowTable(_Rule):
    """Something peers may ask of this node."""

    operations: Annotated[list[_Operation], Field(min_length=1)]
    """What may be asked for."""
    profiles: list[_Profile] = Field(default_factory=list[Profile])
    """What a task may do here; `full` stands in a rule of its own, with `consent`."""
    runners: list[_Runner] = Field(default_factory=list[str])
    """Agents by name, or `command:NAME`."""
    paths: list[_Path] = Field(default_factory=list[str])
    """Absolute directories; a task starts in one of them or below one."""
    accept: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(
        default_factory=list[str]
    )
    """Acceptance commands that may be asked for, exact arguments, no shell."""
    approval: Literal["never", "ask"] = "never"
    """`ask` lets each request wait for this node's owner."""
    on_revoke: Literal["end", "stay"] = "end"
    """What becomes of a running task whose caller loses this right."""
    router: bool = False
    """Also for nodes that advertise routes, when named by `node:`."""
    shared: bool = False
    """Also for nodes of other tailnets, when named by `node:`."""
    limits: LimitsTable = Field(default_factory=LimitsTable)
    """What one peer may use under this rule."""
    consent: Annotated[str, Field(max_length=200)] = ""
    """The sentence that a rule with profile `full` must carry."""


class InboundDenyTable(_Rule):
    """Something peers may never ask of this node; a key left out means whatever it is."""

    operations: Annotated[list[_Operation], Field(min_length=1)] | None = None
    """Denied operations."""
    profiles: Annotated[list[_Profile], Field(min_length=1)] | None = None
    """Denied profiles."""
    runners: Annotated[list[_Runner], Field(min_length=1)] | None = None
    """Denied runners."""
    paths: Annotated[list[_Path], Field(min_length=1)] | None = None
    """Denied directories, with all that is below them and all that they are below."""


class OutboundAllowTable(_Rule):
    """Something this node may ask of workers."""

    profiles: Annotated[list[_Profile], Field(min_length=1)]
    """Profiles that may be asked for."""
    runners: Annotated[list[_Runner], Field(min_length=1)] | None = None
    """Runners that may be asked for; left out: any."""
    repos: Annotated[list[_Path], Field(min_length=1)] | None = None
    """Local directories that requests may come from, or from below; left out: any."""
    send_changes: bool = False
    """Uncommitted changes of the project may be sent along."""
    prompt_bytes: Annotated[int, Field(ge=1, le=200_000)] | None = None
    """Longest prompt in UTF-8 bytes; left out: no limit of the rule's."""


class OutboundDenyTable(_Rule):
    """Something this node never asks of workers; a key left out means whatever it is."""

    profiles: Annotated[list[_Profile], Field(min_length=1)] | None = None
    """Denied profiles."""
    runners: Annotated[list[_Runner], Field(min_length=1)] | None = None
    """Denied runners."""
    repos: Annotated[list[_Path], Field(min_length=1)] | None = None
    """Local directories nothing is sent from, with all above and below them."""


class InboundTables(Table):
    """What peers may ask of this node. Without rules: nothing."""

    allow: list[InboundAllowTable] = Field(default_factory=list[InboundAllowTable])
    """Rules that allow."""
    deny: list[InboundDenyTable] = Field(default_factory=list[InboundDenyTable])
    """Rules that deny; they win over every rule that allows."""


class OutboundTables(Table):
    """What this node may ask of workers. Without rules: nothing."""

    allow: list[OutboundAllowTable] = Field(default_factory=list[OutboundAllowTable])
    """Rules that allow."""
    deny: list[OutboundDenyTable] = Field(default_factory=list[OutboundDenyTable])
    """Rules that deny; they win over every rule that allows."""


class PolicyTables(Table):
    """Both directions."""

    inbound: InboundTables = Field(default_factory=InboundTables)
    """What peers may ask of this node."""
    outbound: OutboundTables = Field(default_factory=OutboundTables)
    """What this node may ask of workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a value.

    Attributes:
        where: the value, or the unknown or missing key.
        expected: what should stand there, for people.
        unknown: the key itself is not known at this place.
    """

    where: Location
    expected: str
    unknown: bool = False


def problems(error: ValidationError) -> list[Problem]:
    """Return what pydantic found, unknown keys first: they often explain missing ones."""
    found = [_problem(item) for item in error.errors(include_url=False, include_context=True)]
    return sorted(found, key=lambda problem: not problem.unknown)


def key_of(where: Location) -> str:
    """Return the key's path as people write it: `inbound.allow[0].peers[1]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")


def known_keys(model: type[BaseModel], where: Location) -> list[str]:
    """Return the keys that the table at `where`'s parent knows."""
    current = model
    for part in where[:-1]:
        if isinstance(part, str) and part in current.model_fields:
            current = _table_in(current.model_fields[part].annotation) or current
    return list(current.model_fields)


def _table_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner: Sequence[Any] = get_args(annotation)
    return next((table for part in inner if (table := _table_in(part))), None)


def _problem(item: ErrorDetails) -> Problem:
    where, expected = item["loc"], _expected(item)
    if where and where[-1] == _KEY_ITSELF:
        return Problem(where=where[:-1], expected=f"{expected} as its name")
    return Problem(where=where, expected=expected, unknown=item["type"] == "extra_forbidden")


def _expected(item: ErrorDetails) -> str:
    kind = item["type"]
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return words.format(item.get("ctx", {})[bound]).replace("'", '"')
    return _EXPECTED.get(kind) or item["msg"].removeprefix("Input should be ")


_KEY_ITSELF = "[key]"  # pydantic's last location of an error about a key of a free table
_BOUNDS = {
    "enum": ("one of {}", "expected"),
    "literal_error": ("one of {}", "expected"),
    "too_short": ("at least {} item", "min_length"),
    "too_long": ("at most {} items", "max_length"),
    "string_too_short": ("at least {} character", "min_length"),
    "string_too_long": ("at most {} characters", "max_length"),
    "greater_than": ("more than {}", "gt"),
    "greater_than_equal": ("at least {}", "ge"),
    "less_than_equal": ("at most {}", "le"),
}
_EXPECTED = {
    "missing": "this key",
    "extra_forbidden": "a known key",
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
