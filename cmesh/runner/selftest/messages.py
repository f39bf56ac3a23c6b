"""One turn of the Anthropic messages API, as far as a self-test needs it. Pure."""

from collections.abc import Iterator, Mapping

from cmesh.runner.selftest.reply import DONE, Reply, as_json, as_stream

__all__ = ["answer"]

_USAGE: Mapping[str, object] = {"input_tokens": 1, "output_tokens": 1}


def answer(path: str, body: Mapping[str, object]) -> Reply | None:
    """Return the answer to a POST; None = the API has nothing at this path."""
    if path == "/v1/messages/count_tokens":
        return as_json({"input_tokens": 1}, turn=False)
    if path != "/v1/messages":
        return None
    message: Mapping[str, object] = {
        "id": "msg_selftest",
        "type": "message",
        "role": "assistant",
        "model": str(body.get("model", "")),
        "content": [{"type": "text", "text": DONE}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": _USAGE,
    }
    return as_stream(_events(message)) if body.get("stream") else as_json(message, turn=True)


def _events(message: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    yield {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}
    at = {"index": 0}
    yield {"type": "content_block_start", **at, "content_block": {"type": "text", "text": ""}}
    yield {"type": "content_block_delta", **at, "delta": {"type": "text_delta", "text": DONE}}
    yield {"type": "content_block_stop", **at}
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}
