"""One turn of the OpenAI responses API, as far as a self-test needs it. Pure."""

from collections.abc import Iterator, Mapping

from cmesh.runner.selftest.reply import DONE, Reply, as_stream

__all__ = ["answer"]

_USAGE: Mapping[str, object] = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}


def answer(path: str, body: Mapping[str, object]) -> Reply | None:
    """Return the answer to a POST; None = the API has nothing at this path."""
    if path != "/v1/responses":
        return None
    part: Mapping[str, object] = {"type": "output_text", "text": DONE, "annotations": []}
    item: Mapping[str, object] = {
        "type": "message",
        "id": "msg_selftest",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    response: Mapping[str, object] = {
        "id": "resp_selftest",
        "object": "response",
        "status": "completed",
        "model": str(body.get("model", "")),
        "output": [item],
        "usage": _USAGE,
    }
    return as_stream(_events(response, item))


def _events(
    response: Mapping[str, object], item: Mapping[str, object]
) -> Iterator[Mapping[str, object]]:
    begun: Mapping[str, object] = {"status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": {**response, **begun}}
    yield {"type": "response.output_item.added", "output_index": 0, "item": item}
    at = {"output_index": 0, "item_id": item["id"], "content_index": 0}
    yield {"type": "response.output_text.delta", **at, "delta": DONE}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": response}
