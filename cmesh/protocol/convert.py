"""Between the values of `cmesh.model` and their wire forms in `cmesh.protocol.messages`.

Pure. What leaves is cut to the wire's limits; what came keeps its texts as signed,
so scrub a result where it is shown.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from cmesh.errors import LocalProtocolError, RemoteProtocolError
from cmesh.model import Changes, Event, Limits, NodeId, Result, TaskId, TaskSpec, Usage
from cmesh.protocol.evidence import Evidence
from cmesh.protocol.messages import EventMessage, Submit
from cmesh.protocol.outcome import (
    Artifacts,
    Basis,
    Outcome,
    Patch,
)
from cmesh.protocol.spec import SentChanges, Spec
from cmesh.text import cut, one_line, scrub, scrub_data

__all__ = [
    "DATA_CHARACTERS",
    "EVENT_DATA_BYTES",
    "EVENT_TEXT_CHARACTERS",
    "INLINE_BYTES",
    "event_from",
    "event_message",
    "inline_output",
    "outcome_from",
    "result_from",
    "spec_from",
    "submit",
    "wire_spec",
]

INLINE_BYTES = 64 * 1024
"""A kept output up to this size travels inside the result."""

DATA_CHARACTERS = 64_000
"""Larger data of an event is left out on the wire."""

EVENT_TEXT_CHARACTERS, EVENT_DATA_BYTES = 8_000, 16 * 1024
"""What is kept of an event that came; its sender may have written more for its own owner."""

UNKNOWN_CODE = "unknown_code"
"""Stands for an error code that is not of the form all codes have."""

_CODE_FORM = re.compile(r"([a-z][a-z0-9_]{0,63})?")
_TEXT, _SENTENCE, _CODE, _VERSION = 64_000, 2_000, 64, 200


def submit(spec: TaskSpec, *, waited: bool = False) -> Submit:
    """Return the message that asks a worker to take `spec`; `waited` = it lay in an outbox.

    Raises:
        LocalProtocolError: a field is outside the wire's limits; names it.
    """
    return Submit(
        task_id=spec.task_id,
        spec=wire_spec(spec),
        payload_hash=spec.payload_hash(),
        waited=waited,
    )


def wire_spec(spec: TaskSpec) -> Spec:
    """Return the wire form of `spec`; raises as `submit` does."""
    try:
        return Spec(
            runner=spec.runner,
            profile=spec.profile,
            directory=spec.directory,
            prompt=spec.prompt,
            runtime_s=spec.limits.runtime_s,
            output_bytes=spec.limits.output_bytes,
            cost_usd=spec.limits.cost_usd,
            turns=spec.limits.turns,
            tokens=spec.limits.tokens,
            accept=spec.accept,
            origin=spec.origin,
            not_after=spec.not_after,
            traceparent=spec.traceparent,
            follows=spec.follows,
            artifacts=spec.artifacts,
            base=spec.base,
            changes=None if spec.changes is None else SentChanges(**asdict(spec.changes)),
            answer_schema=spec.answer_schema,
        )
    except ValidationError as error:
        raise LocalProtocolError(f"the task cannot be sent: {_first(error)}") from None


def spec_from(message: Submit) -> TaskSpec:
    """Return the task a peer asks for.

    Raises:
        RemoteProtocolError: the payload's hash is not the one it came with.
    """
    wire = message.spec
    spec = TaskSpec(
        task_id=TaskId(message.task_id),
        runner=wire.runner,
        profile=wire.profile,
        directory=wire.directory,
        prompt=wire.prompt,
        limits=Limits(
            runtime_s=wire.runtime_s,
            output_bytes=wire.output_bytes,
            cost_usd=wire.cost_usd,
            turns=wire.turns,
            tokens=wire.tokens,
        ),
        accept=wire.accept,
        origin=tuple(NodeId(node) for node in wire.origin),
        not_after=wire.not_after,
        traceparent=wire.traceparent,
        follows=None if wire.follows is None else TaskId(wire.follows),
        artifacts=wire.artifacts,
        base=wire.base,
        changes=None if wire.changes is None else Changes(**wire.changes.model_dump()),
        answer_schema=wire.answer_schema,
    )
    if spec.payload_hash() != message.payload_hash:
        raise RemoteProtocolError("the peer sent a `submit` whose payload hash is wrong")
    return spec


def event_message(task_id: TaskId, event: Event) -> EventMessage:
    """Return the wire form of `event`."""
    return EventMessage(
        task_id=task_id,
        seq=event.seq,
        ts=event.ts,
        kind=_fit(event.kind, _CODE),
        text=_fit(event.text, _TEXT),
        data=_small(event.data),
    )


def event_from(message: EventMessage) -> Event:
    """Return the event a peer sent, scrubbed and cut; too much data gives way to a mark."""
    data = {}
    if message.data:
        size = len(json.dumps(message.data, ensure_ascii=False).encode("utf-8", "replace"))
        data = {"left_out_bytes": size} if size > EVENT_DATA_BYTES else scrub_data(message.data)
    return Event(
        seq=message.seq,
        ts=message.ts,
        kind=one_line(message.kind, _CODE),
        text=cut(scrub(message.text), EVENT_TEXT_CHARACTERS),
        data=data,
    )


def outcome_from(result: Result, inline: bytes = b"") -> Outcome:
    """Return the wire form of `result`; `inline` is the kept output, at most `INLINE_BYTES`."""
    return Outcome(
        state=result.state,
        witness=_fit(result.witness, _SENTENCE),
        exit_code=result.exit_code,
        text=_fit(result.text, _TEXT),
        error=_fit(result.error, _SENTENCE),
        code=result.code if _CODE_FORM.fullmatch(result.code) else UNKNOWN_CODE,
        output_bytes=result.output_bytes,
        output_sha256=result.output_sha256,
        output_kept=result.output_kept,
        output_inline=base64.b64encode(inline).decode("ascii"),
        truncated=result.truncated,
        cost_usd=result.usage.cost_usd,
        tokens_in=result.usage.tokens_in,
        tokens_out=result.usage.tokens_out,
        turns=result.usage.turns,
        runner_version=_fit(result.runner_version, _VERSION),
        profile_enforced=result.profile_enforced,
        credential=result.credential,
        processes_left=result.processes_left,
        started_at=result.started_at,
        ended_at=result.ended_at,
        follow_up=result.follow_up or None,
        follow_up_until=result.follow_up_until,
        redacted=result.redacted or None,
        basis=Basis.model_validate(dict(result.basis)) if result.basis else None,
        patch=Patch.model_validate(dict(result.patch)) if result.patch else None,
        artifacts=Artifacts.model_validate(dict(result.artifacts)) if result.artifacts else None,
        evidence=Evidence.model_validate(dict(result.evidence)) if result.evidence else None,
        answer=result.answer or None,
        **_unnamed(result.extra),
    )


def result_from(outcome: Outcome) -> Result:
    """Return the result a peer sent; texts are as it signed them, not scrubbed."""
    return Result(
        state=outcome.state,
        witness=outcome.witness,
        exit_code=outcome.exit_code,
        text=outcome.text,
        error=outcome.error,
        code=outcome.code,
        output_bytes=outcome.output_bytes,
        output_kept=outcome.output_kept,
        output_sha256=outcome.output_sha256,
        truncated=outcome.truncated,
        usage=Usage(
            cost_usd=outcome.cost_usd,
            tokens_in=outcome.tokens_in,
            tokens_out=outcome.tokens_out,
            turns=outcome.turns,
        ),
        runner_version=outcome.runner_version,
        profile_enforced=outcome.profile_enforced,
        credential=outcome.credential,
        processes_left=outcome.processes_left,
        started_at=outcome.started_at,
        ended_at=outcome.ended_at,
        follow_up=outcome.follow_up or "",
        follow_up_until=outcome.follow_up_until,
        redacted=outcome.redacted or 0,
        basis={} if outcome.basis is None else outcome.basis.model_dump(mode="json"),
        patch={} if outcome.patch is None else outcome.patch.model_dump(mode="json"),
        artifacts={} if outcome.artifacts is None else outcome.artifacts.model_dump(mode="json"),
        evidence={} if outcome.evidence is None else outcome.evidence.model_dump(mode="json"),
        answer=outcome.answer or "",
        extra=outcome.model_extra or {},
    )


def inline_output(outcome: Outcome) -> bytes | None:
    """Return the kept output that came inside a result; None = it must be fetched.

    Raises:
        RemoteProtocolError: it is not base64, or not the output whose hash was signed.
    """
    if not outcome.output_sha256:
        return b""
    if not outcome.output_inline and outcome.output_kept:
        return None
    try:
        data = base64.b64decode(outcome.output_inline, validate=True)
    except ValueError:  # of base64, or of a text that is not even ASCII
        raise RemoteProtocolError("the peer sent an output that is not base64") from None
    if hashlib.sha256(data).hexdigest() != outcome.output_sha256:
        raise RemoteProtocolError("the peer sent an output whose hash is wrong")
    return data


def _fit(text: str, limit: int) -> str:
    """Cut `text`; a lone surrogate has no UTF-8 form and becomes a question mark."""
    return cut(text.encode("utf-8", "replace").decode("utf-8"), limit)


def _unnamed(extra: Mapping[str, object]) -> dict[str, Any]:
    """Return what no field of this version is named after: an older one may have stored it so."""
    return {name: value for name, value in extra.items() if name not in Outcome.model_fields}


def _small(data: Mapping[str, object]) -> dict[str, object]:
    """Return `data`, or a mark in its place: no event may be too large to be sent at all."""
    characters = len(json.dumps(dict(data), ensure_ascii=False, default=str))
    if characters > DATA_CHARACTERS:
        return {"left_out_characters": characters}
    return dict(data)


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"`{where}`: {first['msg'].lower()}"
