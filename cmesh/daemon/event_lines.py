"""What an event says in one line, for a person and for a model alike. Pure.

The data is a peer's word: each part is made harmless here, whoever made it.
"""

from cmesh.daemon.answers import EventView
from cmesh.text import one_line

__all__ = ["event_line"]


def event_line(event: EventView, limit: int) -> str:
    """Return an event's text with what matters of its data, in at most `limit` characters."""
    text, data = event.text, event.data
    match event.kind:
        case "tool_call":
            # What it was called with, by the word that says most in the fewest characters.
            parts = [_of(data, "command") or _of(data, "path") or _of(data, "arguments")]
            text = ": ".join([text, *(part for part in parts if part)])
        case "tool_result":
            text = _result(text, data)
        case "retry" if _of(data, "attempt"):
            most = f" of {_of(data, 'max_retries')}" if _of(data, "max_retries") else ""
            text = f"{text} (try {_of(data, 'attempt')}{most})"
        case _:
            pass
    return one_line(text, limit)


def _result(text: str, data: dict[str, object]) -> str:
    code = data.get("exit_code")
    if isinstance(code, int) and code:
        return f"exit {code}: {text}"
    return f"failed: {text}" if data.get("is_error") is True else text


def _of(data: dict[str, object], key: str) -> str:
    value = data.get(key)
    return "" if value is None else str(value)
