"""The model of a self-test: it answers its API in one turn, and notes who asks elsewhere."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from cmesh.runner.egress.outside import Streams
from cmesh.runner.selftest.model import ANSWERS, BODY_BYTES, Model
from cmesh.runner.traps.trapset import Api

pytestmark = pytest.mark.anyio

LIMIT_S = 10
CANARY = "canary-1"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def models() -> AsyncIterator[dict[Api, Model]]:
    made: dict[Api, Model] = {api: Model(api, CANARY) for api in ANSWERS}
    yield made
    for model in made.values():
        await model.close()


def request(path: str, body: object = None, *fields: str, method: str = "POST") -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = [f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(data)}", *fields]
    return "\r\n".join([*head, "", ""]).encode() + data


@contextlib.asynccontextmanager
async def connected(model: Model) -> AsyncGenerator[Streams]:
    reader, writer = await model.connect()
    yield reader, writer
    writer.close()


async def ask(streams: Streams, data: bytes) -> tuple[int, str]:
    """Send a request; return status and body of its answer."""
    reader, writer = streams
    writer.write(data)
    async with asyncio.timeout(LIMIT_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        size = int(head.partition("content-length: ")[2].split("\r\n")[0])
        body = b"" if data.startswith(b"HEAD") else await reader.readexactly(size)
    return int(head.split(" ")[1]), body.decode()


def events(body: str) -> list[dict[str, object]]:
    return [
        json.loads(line.removeprefix("data: "))
        for line in body.splitlines()
        if line.startswith("data: ")
    ]


def said(response: Any) -> str:
    """Return the text of an answer of the Gemini API."""
    [candidate] = response["candidates"]
    assert candidate["finishReason"] == "STOP"
    text: str = candidate["content"]["parts"][0]["text"]
    return text


async def test_each_api_has_one_turn_on_a_connection_that_stays(models: dict[Api, Model]) -> None:
    async with connected(models["messages"]) as messages:
        assert await ask(messages, request("/model/", method="HEAD")) == (200, "")
        _status, body = await ask(messages, request("/model/v1/messages/count_tokens", {}))
        assert json.loads(body) == {"input_tokens": 1}
        assert models["messages"].turns == 0
        _status, body = await ask(messages, request("/model/v1/messages?beta=true", {"model": "m"}))
        assert json.loads(body)["content"] == [{"type": "text", "text": "done"}]
        _status, body = await ask(messages, request("/model/v1/messages", {"stream": True}))
        assert [event["type"] for event in events(body)][-1] == "message_stop"
        assert models["messages"].turns == 2
    async with connected(models["responses"]) as responses:
        _status, body = await ask(responses, request("/model/v1/responses", {"stream": True}))
        assert events(body)[-1]["type"] == "response.completed"
        assert (await ask(responses, request("/model/v1/messages", {})))[0] == 404
        assert (await ask(responses, request("/v1/responses", {})))[0] == 404
        assert models["responses"].turns == 1
    async with connected(models["generate"]) as generate:
        way = "/model/v1beta/models/gemini-3:"
        _status, body = await ask(generate, request(f"{way}countTokens", {}))
        assert (json.loads(body), models["generate"].turns) == ({"totalTokens": 1}, 0)
        _status, body = await ask(generate, request(f"{way}generateContent", {}))
        assert said(json.loads(body)) == "done"
        _status, body = await ask(generate, request(f"{way}streamGenerateContent?alt=sse", {}))
        assert [said(event) for event in events(body)] == ["done"]
        assert (await ask(generate, request(f"{way}embedContent", {})))[0] == 404
        assert (await ask(generate, request("/model/v1/messages", {})))[0] == 404
        assert models["generate"].turns == 2
    assert {name for model in models.values() for name in model.sprung} == set()


async def test_a_question_for_json_of_a_form_is_no_turn_and_gets_the_least_of_that_form(
    models: dict[Api, Model],
) -> None:
    properties = {
        "choice": {"type": "STRING", "enum": ["flash", "pro"]},
        "why": {"type": "string"},
        "score": {"type": "INTEGER", "minimum": 3},
        "sure": {"type": "boolean"},
        "others": {"type": "array", "items": {"type": "string"}},
    }
    form = {"type": "object", "properties": properties}
    least: dict[str, object] = {
        "choice": "flash",
        "why": "done",
        "score": 3,
        "sure": False,
        "others": [],
    }
    model = models["generate"]
    async with connected(model) as streams:
        for key, method in (
            ("responseJsonSchema", "generateContent"),
            ("responseSchema", "streamGenerateContent"),
        ):
            body = {"generationConfig": {key: form}}
            path = f"/model/v1beta/models/gemini-3:{method}"
            _status, text = await ask(streams, request(path, body))
            [response] = events(text) or [json.loads(text)]
            assert json.loads(said(response)) == least
    assert model.turns == 0


async def test_whoever_asks_the_decoy_or_carries_the_canary_is_noted(
    models: dict[Api, Model],
) -> None:
    model = models["messages"]
    async with connected(model) as streams:
        assert (await ask(streams, request("/decoy/v1/messages", {})))[0] == 200
        assert (model.turns, model.sprung) == (0, {"base_url"})
        await ask(streams, request("/model/v1/messages", {"system": f"do {CANARY}"}))
        assert model.sprung == {"base_url", "instructions"}
        await ask(streams, request("/model/v1/messages", {}, f"x-api-key: {CANARY}"))
        assert model.sprung == {"base_url", "instructions", "credential"}


async def test_a_body_in_chunks_is_read(models: dict[Api, Model]) -> None:
    model = models["messages"]
    head = b"POST /model/v1/messages HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    halves = (f'{{"a": "{CANARY[:4]}'.encode(), f'{CANARY[4:]}"}}'.encode())
    body = b"".join(b"%x\r\n%s\r\n" % (len(half), half) for half in halves) + b"0\r\n\r\n"
    async with connected(model) as streams:
        assert (await ask(streams, head + body))[0] == 200
    assert model.sprung == {"instructions"}


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"POST /model/v1/messages HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /model/v1/messages HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (BODY_BYTES + 1),
        b"POST /model/v1/messages HTTP/1.1\r\ncontent-length: 2\r\n\r\n{",
        b"POST /model/v1/messages HTTP/1.1\r\n" + b"x: y\r\n" * 10_000,
    ],
)
async def test_what_is_no_http_is_not_answered(models: dict[Api, Model], data: bytes) -> None:
    async with connected(models["messages"]) as (reader, writer), asyncio.timeout(LIMIT_S):
        writer.write(data)
        if data.endswith(b"{"):
            writer.write_eof()  # else the rest of it may still come
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    assert models["messages"].turns == 0
