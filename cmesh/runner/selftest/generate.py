"""One turn of the Gemini API, as far as a self-test needs it. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from cmesh.runner.selftest.reply import DONE, Reply, as_json, as_stream

__all__ = ["answer"]

_METHOD = re.compile(r"/v1(?:beta)?/models/[^/:]+:(\w+)")
_USAGE: Mapping[str, object] = {
    "promptTokenCount": 1,
    "candidatesTokenCount": 1,
    "totalTokenCount": 2,
}


def answer(path: str, body: Mapping[str, object]) -> Reply | None:
    """Return the answer to a POST; None = the API has nothing at this path.

    Before a conversation gemini asks for JSON of a form of its own: which model is to answer.
    That is no turn, and gets the least that fills the form.
    """
    method = _METHOD.fullmatch(path)
    if method is None:
        return None
    form = _form(body)
    said = _response(DONE if form is None else json.dumps(_least(form)))
    match method[1]:
        case "countTokens":
            return as_json({"totalTokens": 1}, turn=False)
        case "generateContent":
            return as_json(said, turn=form is None)
        case "streamGenerateContent":
            return replace(as_stream([said]), turn=form is None)
        case _:
            return None


def _response(text: str) -> Mapping[str, object]:
    content = {"role": "model", "parts": [{"text": text}]}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": _USAGE,
        "modelVersion": "selftest",
    }


def _form(body: Mapping[str, object]) -> Mapping[str, object] | None:
    wanted = _table(body.get("generationConfig"))
    form = wanted.get("responseJsonSchema") or wanted.get("responseSchema")
    return _table(form) if form else None


def _least(form: Mapping[str, object]) -> object:
    """Return the least that fills a JSON schema, which may write its types in capitals."""
    choices = form.get("enum")
    if isinstance(choices, list) and choices:
        return cast("list[object]", choices)[0]
    match str(form.get("type", "")).lower():
        case "object":
            return {name: _least(_table(of)) for name, of in _table(form.get("properties")).items()}
        case "array":
            return []
        case "integer" | "number":
            return form.get("minimum", 1)
        case "boolean":
            return False
        case _:
            return DONE


def _table(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}
