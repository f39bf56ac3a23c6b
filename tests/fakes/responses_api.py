"""The OpenAI responses API of the scripted model, as far as codex 0.169 uses it: a stream.

Checked against that program. It offers an MCP server's tools as a namespace `mcp__SERVER`, and
a call names both; a script says `mcp__SERVER__TOOL`, as with any other agent.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.fakes.dialogue import Json, Said

__all__ = ["dialogue", "events", "reply"]

TEXT_PIECE = 16
USAGE = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
TOOK = re.compile(r"Wall time: .*\nOutput:\n?")
"""codex says how long a call took before what the tool said; only the latter is of interest."""


def dialogue(body: Json) -> list[Json]:
    """Return what a request says was said so far; the items of one reply are one message."""
    messages: list[Json] = []
    for item in body.get("input", []):
        role, content = _message(item)
        if not role:
            continue
        if role == "assistant" and messages and messages[-1]["role"] == "assistant":
            messages[-1]["content"] += content
        else:
            messages.append({"role": role, "content": content})
    return messages


def reply(body: Json, says: Said) -> Json:
    """Return a turn as a whole response."""
    spaces = [tool["name"] for tool in body.get("tools", []) if tool.get("type") == "namespace"]
    output: list[Json] = []
    if says.text is not None or not says.calls:
        part: Json = {"type": "output_text", "text": says.text or "", "annotations": []}
        message: Json = {"type": "message", "id": f"msg_{says.depth:08d}", "role": "assistant"}
        output.append(message | {"status": "completed", "content": [part]})
    for identifier, name, arguments in says.calls:
        space = next((space for space in spaces if name.startswith(f"{space}__")), "")
        call: Json = {"type": "function_call", "id": f"fc_{identifier}", "call_id": identifier}
        call |= {"name": name.removeprefix(f"{space}__") if space else name}
        call |= {"namespace": space} if space else {}
        output.append(call | {"arguments": json.dumps(arguments), "status": "completed"})
    return {
        "id": f"resp_{says.depth:08d}",
        "object": "response",
        "status": "completed",
        "model": body.get("model", "fake"),
        "output": output,
        "usage": USAGE,
    }


def events(response: Json) -> Iterator[Json]:
    """Yield a response as the events of its stream."""
    yield {
        "type": "response.created",
        "response": response | {"status": "in_progress", "output": [], "usage": None},
    }
    for index, item in enumerate(response["output"]):
        about = {"output_index": index, "item_id": item["id"]}
        yield {"type": "response.output_item.added", "output_index": index, "item": item}
        for part in item.get("content", []):
            for at in range(0, len(part["text"]), TEXT_PIECE):
                delta = {"content_index": 0, "delta": part["text"][at : at + TEXT_PIECE]}
                yield {"type": "response.output_text.delta"} | about | delta
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": "response.completed", "response": response}


def _message(item: Json) -> tuple[str, list[Json]]:
    """Return role and content of an input item; no role = it says nothing to the model here."""
    match item.get("type", "message"):
        case "message":
            texts = [{"type": "text", "text": part.get("text", "")} for part in item["content"]]
            role = item["role"]
            return (role, texts) if role in ("user", "assistant") else ("", [])
        case "function_call":
            call = {"type": "tool_use", "id": item["call_id"], "name": item["name"]}
            return "assistant", [call]
        case "function_call_output":
            result = {"type": "tool_result", "tool_use_id": item["call_id"]}
            return "user", [result | {"content": _result(item["output"])}]
        case _:
            return "", []


def _result(output: Any) -> Any:
    if isinstance(output, str):
        return TOOK.sub("", output, count=1)
    return [part for part in output if not TOOK.fullmatch(part.get("text", ""))]
