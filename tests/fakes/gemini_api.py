"""The Gemini API of the scripted model, as far as gemini 0.61 uses it: plain, and as a stream.

Checked against that program. Beside its conversation it asks for JSON of a form of its own, for
example which model is to answer; such a question gets the least that fills the form.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.fakes.dialogue import Json, Said

__all__ = ["METHOD", "dialogue", "error", "events", "filled", "form", "reply"]

METHOD = re.compile(r"/v1(?:beta)?/models/[^/:]+:(\w+)")
TEXT_PIECE = 16
USAGE = {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}


def dialogue(body: Json) -> list[Json]:
    """Return what a request says was said so far; the parts of one reply are one message."""
    messages: list[Json] = []
    for content in body.get("contents", []):
        role = "assistant" if content.get("role") == "model" else "user"
        blocks = [block for part in content.get("parts", []) for block in _blocks(part)]
        if role == "assistant" and messages and messages[-1]["role"] == "assistant":
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
    return messages


def form(body: Json) -> Json | None:
    """Return the JSON schema that an answer must have; None = it is free."""
    wanted = body.get("generationConfig", {})
    schema: Json | None = wanted.get("responseJsonSchema") or wanted.get("responseSchema")
    return schema


def filled(schema: Json) -> Json:
    """Return a response with the least that fills a schema."""
    return _response([{"text": json.dumps(_least(schema))}])


def reply(says: Said) -> Json:
    """Return a turn as a whole response."""
    parts: list[Json] = []
    if says.text is not None or not says.calls:
        parts.append({"text": says.text or ""})
    for identifier, name, arguments in says.calls:
        parts.append({"functionCall": {"id": identifier, "name": name, "args": arguments}})
    return _response(parts)


def events(response: Json) -> Iterator[Json]:
    """Yield a response as the pieces of its stream; the last one has its end and its usage."""
    candidate = response["candidates"][0]
    for part in candidate["content"]["parts"]:
        text = part.get("text", "")
        for at in range(0, len(text), TEXT_PIECE):
            yield _piece([{"text": text[at : at + TEXT_PIECE]}])
        if "functionCall" in part:
            yield _piece([part])
    last = candidate | {"content": {"role": "model", "parts": [{"text": ""}]}}
    yield response | {"candidates": [last]}


def error(status: int, kind: str, message: str) -> Json:
    """Return the body of an answer that is an error."""
    return {"error": {"code": status, "message": message, "status": kind.upper()}}


def _response(parts: list[Json]) -> Json:
    content = {"role": "model", "parts": parts}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": USAGE,
        "modelVersion": "fake",
    }


def _piece(parts: list[Json]) -> Json:
    return {"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0}]}


def _blocks(part: Json) -> Iterator[Json]:
    if "functionCall" in part:
        call = part["functionCall"]
        yield {"type": "tool_use", "id": call.get("id", ""), "name": call["name"]}
    elif "functionResponse" in part:
        answer = part["functionResponse"]
        result = {"type": "tool_result", "tool_use_id": answer.get("id", "")}
        yield result | {"content": _result(answer.get("response", {}))}
    elif part.get("text") and not part.get("thought"):
        yield {"type": "text", "text": part["text"]}


def _result(response: Json) -> str:
    return "\n".join(str(response[key]) for key in ("output", "error") if key in response)


def _least(schema: Json) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    match str(schema.get("type", "")).lower():
        case "object":
            wanted = schema.get("required", [])
            return {name: _least(schema["properties"][name]) for name in wanted}
        case "array":
            return []
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return False
        case _:
            return "x"
