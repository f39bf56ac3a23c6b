"""The fields of messages: what a name, an id, a moment or a hash may be on the wire."""

import json
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

__all__ = [
    "RETRY_MOST_S",
    "UNACKNOWLEDGED_MOST",
    "Code",
    "CodeOrNone",
    "Data",
    "FollowUp",
    "Hex256",
    "HexOrNone",
    "Id",
    "Instant",
    "Key",
    "Minor",
    "Name",
    "Names",
    "Nonce",
    "ObjectOrNone",
    "ParameterName",
    "RetryAfter",
    "Rows",
    "Sentence",
    "Seq",
    "Signature",
    "SqlValue",
    "Unacknowledged",
    "WireMessage",
    "is_unset",
    "storable",
]

RETRY_MOST_S = 7 * 86_400
"""The longest time a refusal may ask for."""


UNACKNOWLEDGED_MOST = 1_024
"""Ended tasks that one message lists; the next link lists the rest. A worker stops at 1,000."""

NAMES_MOST, NAME_CHARACTERS = 200, 320
"""Paths that one list of a patch holds, and the length of each."""

T = TypeVar("T")

FIRST_YEAR, LAST_YEAR = 1970, 9998
"""Years a moment may be of: every time zone and every clock's sum has room for them."""


def storable(data: T) -> T:
    """Refuse what JSON has no form for (NaN, infinities): it could be neither stored nor signed."""
    json.dumps(data, allow_nan=False)
    return data


def is_unset(value: object) -> bool:
    """Leave out a field that came later while it says nothing: older frames stay as they are."""
    return not value


def _utc(moment: datetime) -> datetime:
    """Return it in UTC; the first and the last year have no room for another zone."""
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(f"the year must be {FIRST_YEAR} to {LAST_YEAR}")
    return moment.astimezone(UTC)


Id = Annotated[
    str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$")
]
Unacknowledged = Annotated[tuple[Id, ...], Field(max_length=UNACKNOWLEDGED_MOST)]
Hex256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
HexOrNone = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Key = Annotated[str, Field(min_length=43, max_length=43)]
Signature = Annotated[str, Field(max_length=86)]
Nonce = Annotated[str, Field(min_length=22, max_length=64)]
Name = Annotated[str, Field(max_length=253)]
Names = Annotated[
    tuple[Annotated[str, Field(max_length=NAME_CHARACTERS)], ...], Field(max_length=NAMES_MOST)
]
ObjectOrNone = Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})?$")]
Seq = Annotated[int, Field(ge=0, le=2**53)]
Minor = Annotated[int, Field(ge=0, le=1_000)]
Data = Annotated[dict[str, object], AfterValidator(storable)]
Rows = Annotated[tuple[tuple[object, ...], ...], AfterValidator(storable)]
ParameterName = Annotated[str, Field(min_length=1, max_length=64)]
SqlValue = Annotated[str, Field(max_length=65_536)] | bool | int | float | None
Instant = Annotated[AwareDatetime, AfterValidator(_utc)]
Sentence = Annotated[str, Field(max_length=2_000)]
FollowUp = Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
CodeOrNone = Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]{0,63})?$")]
# Left out when there is none, so that frames without it stay as they are recorded.
RetryAfter = Annotated[
    Annotated[int, Field(ge=0, le=RETRY_MOST_S)] | None,
    Field(exclude_if=lambda seconds: seconds is None),
]


def _require_type(schema: JsonDict) -> None:
    """Say in the JSON Schema what the discriminator asks for: a message names its type."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if isinstance(properties, dict) and "type" in properties and isinstance(required, list):
        schema["required"] = ["type", *required]


class WireMessage(BaseModel):
    """What all messages and their parts share: frozen, and open to newer fields."""

    # JSON has no NaN (RFC 8259); one in a cost would make every comparison false.
    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, json_schema_extra=_require_type
    )
