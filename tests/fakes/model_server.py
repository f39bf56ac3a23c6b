"""A scripted model server on loopback: the real agent CLI talks to it instead of a model.

Speaks the Anthropic messages API (plain and streaming) and count_tokens. A script is a list of
turns; the prompt picks it with `<<fake-json:[...]>>` or `<<fake:NAME>>`. Which turn is next
follows from the request alone (assistant turns after the newest marker), so parallel runs,
retries and resumed sessions need no state here.

    python tests/fakes/model_server.py --port 0 --port-file P [--scripts S.json] [--log L.jsonl]

A turn: {"text": "..."}, {"tool": "$shell", "input": {...}}, {"tools": [...]}, {"error": 529,
"times": 1, "kind": "overloaded_error"}, {"hang": true}, {"disconnect": true}, {"delay": 0.2}; "usage",
"stop" and "{{last_tool_result}}" inside a text; "{{match:REGEX}}" as an argument of a tool is
the first group of its newest match in a tool's result. Past the last turn the last one is repeated.
"""

import argparse
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from typing_extensions import override

__all__ = ["ModelServer", "fake_json"]

MARKER = re.compile(r"<<fake(?:-json)?:(.*?)>>", re.DOTALL)
TOOLS = {"$shell": "Bash", "$read": "Read", "$write": "Write"}
HANG_LIMIT_S = 120.0
TEXT_PIECE = 16
USAGE = {"input_tokens": 100, "output_tokens": 20}

Json = dict[str, Any]


def fake_json(*turns: Json) -> str:
    """Return the prompt marker that makes the model answer with these turns."""
    return f"<<fake-json:{json.dumps(list(turns))}>>"


class ModelServer:
    """The server in a thread of this process; a context manager.

    Attributes:
        url: base URL, for example `http://127.0.0.1:40123`.
        requests: every request body so far, newest last.
        keys: the API key each of them came with; never in the log.
    """

    def __init__(self, *, port: int = 0, scripts: dict[str, list[Json]] | None = None) -> None:
        self.scripts = scripts or {}
        self.requests: list[Json] = []
        self.keys: list[str] = []
        self.log: Path | None = None
        self.closing = threading.Event()
        self._errors: dict[str, int] = {}
        self._lock = threading.Lock()
        server = self

        class Handler(_Handler):
            fake = server

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def note(self, body: Json, key: str) -> None:
        """Keep a request, and write it to the log file if there is one."""
        with self._lock:
            self.requests.append(body)
            self.keys.append(key)
            if self.log is not None:
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(body) + "\n")

    def turn_for(self, body: Json) -> Json:
        """Return the turn that answers a request."""
        script, index = self._script(body)
        turn = script[min(index, len(script) - 1)] if script else {"text": "ok"}
        return self._without_spent_error(turn, script, index)

    def reset(self) -> None:
        """Forget requests and how often errors were given."""
        with self._lock:
            self.requests.clear()
            self.keys.clear()
            self._errors.clear()

    def _script(self, body: Json) -> tuple[list[Json], int]:
        messages: list[Json] = body.get("messages", [])
        for at in range(len(messages) - 1, -1, -1):
            found = MARKER.findall(_user_text(messages[at]))
            if found:
                later = [m for m in messages[at + 1 :] if m["role"] == "assistant"]
                return self._named(found[-1]), len(later)
        return self.scripts.get("default", []), sum(m["role"] == "assistant" for m in messages)

    def _named(self, text: str) -> list[Json]:
        if text.lstrip().startswith("["):
            turns: list[Json] = json.loads(text)
            return turns
        return self.scripts.get(text.strip(), [{"text": f"no script {text.strip()!r}"}])

    def _without_spent_error(self, turn: Json, script: list[Json], index: int) -> Json:
        if "error" not in turn or "times" not in turn:
            return turn
        key = json.dumps([script, index])
        with self._lock:
            self._errors[key] = self._errors.get(key, 0) + 1
            spent = self._errors[key] > turn["times"]
        return {"text": "after the error"} | turn.get("then", {}) if spent else turn


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: ModelServer

    @override
    def log_message(self, format: str, *args: object) -> None:
        return

    def do_HEAD(self) -> None:
        self._json(200, None)

    def do_GET(self) -> None:
        if self.path == "/_fake/log":
            self._json(200, self.fake.requests)
        else:
            self._json(200, {"ok": True})

    def do_POST(self) -> None:
        size = int(self.headers.get("content-length", "0"))
        body: Any = json.loads(self.rfile.read(size) or b"{}")
        path = self.path.partition("?")[0]
        if path == "/_fake/script":
            self.fake.scripts.update(body)
            self._json(200, {"ok": True})
        elif path == "/_fake/reset":
            self.fake.reset()
            self._json(200, {"ok": True})
        elif path == "/v1/messages/count_tokens":
            self._json(200, {"input_tokens": max(1, len(json.dumps(body)) // 4)})
        elif path == "/v1/messages":
            self.fake.note(body, self.headers.get("x-api-key", ""))
            self._answer(body, self.fake.turn_for(body))
        else:
            self._json(
                404, {"type": "error", "error": {"type": "not_found_error", "message": path}}
            )

    def _answer(self, body: Json, turn: Json) -> None:
        time.sleep(turn.get("delay", 0))
        if turn.get("hang"):
            self.fake.closing.wait(HANG_LIMIT_S)
            self.close_connection = True
        elif turn.get("disconnect"):
            self.close_connection = True
        elif "error" in turn:
            kind = turn.get("kind", "api_error")
            error = {"type": kind, "message": turn.get("message", f"scripted {turn['error']}")}
            self._json(turn["error"], {"type": "error", "error": error}, turn.get("retry_after"))
        elif body.get("stream"):
            self._stream(_message(body, turn))
        else:
            self._json(200, _message(body, turn))

    def _json(self, status: int, value: object, retry_after: object = None) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if retry_after is not None:
            self.send_header("retry-after", str(retry_after))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, message: Json) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in _events(message):
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")


def _message(body: Json, turn: Json) -> Json:
    last = _last_tool_result(body.get("messages", []))
    content: list[Json] = []
    if "text" in turn:
        content.append({"type": "text", "text": turn["text"].replace("{{last_tool_result}}", last)})
    calls = [turn] if "tool" in turn else turn.get("tools", [])
    depth = len(body.get("messages", []))
    for index, call in enumerate(calls):
        name = TOOLS.get(call["tool"], call["tool"])
        made = {"type": "tool_use", "id": f"toolu_{depth:04d}{index:04d}", "name": name}
        given: Json = call.get("input", {})
        arguments = {k: _matched(v, body.get("messages", [])) for k, v in given.items()}
        content.append(made | {"input": arguments})
    return {
        "id": f"msg_{depth:08d}",
        "type": "message",
        "role": "assistant",
        "model": body.get("model", "fake"),
        "content": content or [{"type": "text", "text": ""}],
        "stop_reason": turn.get("stop", "tool_use" if calls else "end_turn"),
        "stop_sequence": None,
        "usage": USAGE | turn.get("usage", {}),
    }


def _events(message: Json) -> Iterator[Json]:
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


def _user_text(message: Json) -> str:
    if message["role"] != "user":
        return ""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block["type"] == "text")


def _last_tool_result(messages: list[Json]) -> str:
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
        found = re.search(pattern, _last_tool_result(messages[:end]))
        if found:
            return found[1]
    return value


def _flat(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.get("text", "") for block in content)


def main() -> None:
    """Serve until interrupted; write the port to `--port-file` once it is open."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path)
    parser.add_argument("--scripts", type=Path)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    scripts: dict[str, list[Json]] = (
        json.loads(options.scripts.read_text("utf-8")) if options.scripts else {}
    )
    with ModelServer(port=options.port, scripts=scripts) as server:
        server.log = options.log
        if options.port_file:
            temporary = options.port_file.with_suffix(".new")
            temporary.write_text(server.url.rpartition(":")[2], "ascii")
            temporary.replace(options.port_file)
        sys.stdout.write(f"READY {server.url}\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
