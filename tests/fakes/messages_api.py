"""The Anthropic messages API of the scripted model: plain, and as a stream of events."""

import json
from collections.abc import Iterator

from tests.fakes.dialogue import Json, Said

__all__ = ["dialogue", "events", "reply"]

TEXT_PIECE = 16
USAGE = {"input_tokens": 100, "output_tokens": 20}


def dialogue(body: Json) -> list[Json]:
    """Return what a request says was said so far."""
    messages: list[Json] = body.get("messages", [])
    return messages


def reply(body: Json, turn: Json, says: Said) -> Json:
    """Return a turn as a message."""
    content: list[Json] = []
    if says.text is not None:
        content.append({"type": "text", "text": says.text})
    for identifier, name, arguments in says.calls:
        content.append({"type": "tool_use", "id": identifier, "name": name, "input": arguments})
    return {
        "id": f"msg_{says.depth:08d}",
        "type": "message",
        "role": "assistant",
        "model": body.get("model", "fake"),
        "content": content or [{"type": "text", "text": ""}],
        "stop_reason": turn.get("stop", "tool_use" if says.calls else "end_turn"),
        "stop_sequence": None,
        "usage": USAGE | turn.get("usage", {}),
    }


def events(message: Json) -> Iterator[Json]:
    """Yield a message as the events of the streaming API."""
    usage = message["usage"]
    empty: Json = {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    yield {"type": "message_start", "message": message | empty}
    for index, block in enumerate(message["content"]):
        text = block["type"] == "text"
        start = {"type": "text", "text": ""} if text else block | {"input": {}}
        yield {"type": "content_block_start", "index": index, "content_block": start}
        whole = block["text"] if text else json.dumps(block["input"])
        for at in range(0, len(whole), TEXT_PIECE):
            piece = whole[at : at + TEXT_PIECE]
            delta = (
                {"type": "text_delta", "text": piece}
                if text
                else {"type": "input_json_delta", "partial_json": piece}
            )
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    out = {"output_tokens": usage["output_tokens"]}
    yield {"type": "message_delta", "delta": ended, "usage": out}
    yield {"type": "message_stop"}
