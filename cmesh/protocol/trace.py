"""W3C Trace Context of tasks: one trace is one call and all that came of it, on every machine. Pure.

A trace's id is that of the caller's own trace where it gave one, else made of its first task's id
or of its group's name. It is the caller's word and joins rows; nothing is decided by it.
"""

import hashlib
import re

from cmesh.model import TaskId

__all__ = ["header", "of_group", "parent_id", "trace_id"]

# Version 00; of a later one only what it has in common with that is read (W3C Trace Context, 3.2).
_HEADER = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?"
)
_TRACE_HEX, _SPAN_HEX = 32, 16
_SAMPLED = "01"
"""Every task is recorded, by both sides."""


def trace_id(traceparent: str) -> str:
    """Return the 32 hex digits of a header's trace id; empty = it is none that counts."""
    found = _HEADER.fullmatch(traceparent)
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
        return ""
    counts = found["trace"].strip("0") and found["parent"].strip("0")
    return found["trace"] if counts else ""


def parent_id(traceparent: str) -> str:
    """Return the 16 hex digits of the span that a header names; empty = it is none that counts."""
    found = _HEADER.fullmatch(traceparent)
    return found["parent"] if found is not None and trace_id(traceparent) else ""


def header(task_id: TaskId, *, within: str = "") -> str:
    """Return the header that a task is sent with, within the trace of another one.

    `within` is a header or a trace's id. Where it is neither, the task begins a trace of its own:
    a UUIDv7 has what a trace id needs, 16 bytes of which the last seven are random.
    """
    digits = task_id.replace("-", "")
    named = within if re.fullmatch("[0-9a-f]{32}", within) and within.strip("0") else ""
    trace = named or trace_id(within) or digits
    return f"00-{trace}-{digits[-_SPAN_HEX:]}-{_SAMPLED}"


def of_group(group: str) -> str:
    """Return the trace id of a group of tasks that one call asked for."""
    return hashlib.sha256(group.encode()).hexdigest()[:_TRACE_HEX]
