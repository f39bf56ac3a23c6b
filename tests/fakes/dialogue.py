"""What a scripted model has been told and says next, whichever API carries it.

A dialogue is a list of messages in the form of the Anthropic API; others are brought into it.
"""

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["Json", "Said", "last_tool_result", "said", "user_text"]

Json = dict[str, Any]
TOOLS = {"$shell": "Bash", "$read": "Read", "$write": "Write"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the model says in one turn.

    Attributes:
        text: None = it says nothing.
        calls: (id, tool, arguments) of each call, in order; an id is unique in its dialogue.
    """

    text: str | None
    calls: tuple[tuple[str, str, Json], ...]
    depth: int


def said(turn: Json, messages: list[Json]) -> Said:
    """Return a turn of a script with all that it takes from the dialogue filled in."""
    text = None
    if "text" in turn:
        text = turn["text"].replace("{{last_tool_result}}", last_tool_result(messages))
    depth = len(messages)
    calls: list[tuple[str, str, Json]] = []
    for index, call in enumerate([turn] if "tool" in turn else turn.get("tools", [])):
        given: Json = call.get("input", {})
        arguments = {name: _matched(value, messages) for name, value in given.items()}
        name: str = TOOLS.get(call["tool"]) or call["tool"]
        calls.append((f"toolu_{depth:04d}{index:04d}", name, arguments))
    return Said(text=text, calls=tuple(calls), depth=depth)


def user_text(message: Json) -> str:
    """Return what a person says in a message; empty for anybody else."""
    if message["role"] != "user":
        return ""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block["type"] == "text")


def last_tool_result(messages: list[Json]) -> str:
    """Return the text of the newest result of a tool; empty = there is none."""
    for message in reversed(messages):
        if isinstance(message["content"], str):
            continue
        for block in reversed(message["content"]):
            if block["type"] == "tool_result":
                return _flat(block.get("content", ""))
    return ""


def _matched(value: Any, messages: list[Json]) -> Any:
    if not isinstance(value, str) or not value.startswith("{{match:"):
        return value
    pattern = value.removeprefix("{{match:").removesuffix("}}")
    for end in range(len(messages), 0, -1):
        found = re.search(pattern, last_tool_result(messages[:end]))
        if found:
            return found[1]
    return value


def _flat(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text", "") for block in content)
