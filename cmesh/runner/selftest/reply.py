"""What the model of a self-test answers to one request, whichever API carries it. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["DONE", "JSON", "STREAM", "Reply", "as_json", "as_stream"]

DONE = "done"
"""All that the model ever says."""

JSON, STREAM = "application/json", "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer.

    Attributes:
        turn: the model has spoken in it, so whoever asked has used the API as for a task.
    """

    status: str = "200 OK"
    kind: str = JSON
    body: bytes = b"{}"
    turn: bool = False


def as_json(value: Mapping[str, object], *, turn: bool) -> Reply:
    """Return an answer in one piece."""
    return Reply(body=json.dumps(value).encode(), turn=turn)


def as_stream(events: Iterable[Mapping[str, object]]) -> Reply:
    """Return a turn of the model as server-sent events, each named by its `type` if it has one."""
    body = "".join(
        (f"event: {event['type']}\n" if "type" in event else "") + f"data: {json.dumps(event)}\n\n"
        for event in events
    )
    return Reply(kind=STREAM, body=body.encode(), turn=True)
