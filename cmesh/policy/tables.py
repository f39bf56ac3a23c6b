"""The form of the rule tables of `config.toml`: what TOML may hold, checked by pydantic.

Form only: what a rule needs to make sense as a whole is `cmesh.policy.parse`'s.
The JSON Schema of the configuration is made from these classes.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from cmesh.model import Operation, Profile

__all__ = [
    "DURATION_PATTERN",
    "Duration",
    "InboundAllowTable",
    "InboundDenyTable",
    "InboundTables",
    "LimitsTable",
    "OutboundAllowTable",
    "OutboundDenyTable",
    "OutboundTables",
    "PolicyTables",
    "ProfileLimitsTable",
    "ProfileTable",
    "Table",
    "TextForm",
]

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
_ProfileName = Annotated[
    str, TextForm(r"[a-z][a-z0-9-]{0,31}", "lower-case letters, digits and hyphens, at most 32")
]
_PARTS = 32  # of both lists a sandbox holds twice as many, each by a descriptor of its own
_BOUND = 16  # of `bind_ignored`, each by a descriptor of its own
_Relative = Annotated[str, Field(min_length=1, max_length=1024)]
_Host = Annotated[
    str,
    Field(max_length=253),
    # The last label begins with a letter, so no address passes for a name.
    TextForm(
        r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
        'a whole host name in lower case such as "pypi.org", no address',
    ),
]
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


class ProfileLimitsTable(Table):
    """What the processes of one task may use; a key left out is as the base has it."""

    memory_mib: Annotated[int, Field(ge=64)] | None = None
    """Memory of one process, in MiB."""
    processes: Annotated[int, Field(ge=1)] | None = None
    """Processes of the whole task at a time."""
    open_files: Annotated[int, Field(ge=16)] | None = None
    """Open files of one process."""
    file_mib: Annotated[int, Field(ge=1)] | None = None
    """Longest file that may be written, in MiB."""
    disk_mib: Annotated[int, Field(ge=1)] | None = None
    """What the task may add to its places on the disk, in MiB."""


class ProfileTable(Table):
    """A profile of your own: a built-in one with something taken away."""

    base: Literal["query", "edit", "build"]
    """The profile it narrows; a caller asks for it by this word."""
    read: Annotated[list[_Relative], Field(min_length=1, max_length=_PARTS)] | None = None
    """What is visible of the task's directory, relative to it; left out: all."""
    write: Annotated[list[_Relative], Field(min_length=1, max_length=_PARTS)] | None = None
    """What may be written of the task's copy, relative to it; left out: all."""
    hosts: list[_Host] = Field(default_factory=list[str])
    """Hosts that may be reached on port 443 besides the model's; base `build` only."""
    limits: ProfileLimitsTable = Field(default_factory=ProfileLimitsTable)
    """What the processes of one task may use."""


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
    turns: _Count | None = None
    """Answers of the model in a task; the rule then allows only runners that tell them."""
    tokens: Annotated[int, Field(ge=1, le=10**12)] | None = None
    """Tokens a task may read and write; the rule then allows only runners that tell them."""
    cost_usd_per_day: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """US dollars that all tasks of one peer may cost in a UTC day; needs what `cost_usd` needs."""
    tokens_per_day: Annotated[int, Field(ge=1, le=10**12)] | None = None
    """Tokens of all tasks of one peer in a UTC day; needs what `tokens` needs."""
    runtime_per_day: Duration | None = None
    """Run time of all tasks of one peer in a UTC day, added up."""
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
    profiles: list[_ProfileName] = Field(default_factory=list[str])
    """What a task may do here, built in or of `[profiles.NAME]`; `full` stands in a rule of its own, with `consent`."""
    runners: list[_Runner] = Field(default_factory=list[str])
    """Agents by name, built in or of `runners/NAME.toml`, or `command:NAME`."""
    paths: list[_Path] = Field(default_factory=list[str])
    """Absolute directories; a task starts in one of them or below one."""
    accept: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(
        default_factory=list[str]
    )
    """Acceptance commands that may be asked for, exact arguments, no shell."""
    bind_ignored: list[_Relative] = Field(default_factory=list[str], max_length=_BOUND)
    """Folders of the task's directory that git ignores, such as `node_modules`, that `edit` and `build` may read."""
    take_changes: bool = False
    """Uncommitted changes of the caller may come with a task of `edit` or `build`, into its copy."""
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
    """The owner's profiles, and the rules of both directions."""

    profiles: dict[_ProfileName, ProfileTable] = Field(default_factory=dict[str, ProfileTable])
    """Profiles of your own, by name."""
    inbound: InboundTables = Field(default_factory=InboundTables)
    """What peers may ask of this node."""
    outbound: OutboundTables = Field(default_factory=OutboundTables)
    """What this node may ask of workers."""
