"""A scripted model server on loopback: the real agent CLI talks to it instead of a model.

Speaks the Anthropic messages API (plain and streaming) with count_tokens, the OpenAI
responses API (streaming), and the Gemini API (plain and streaming) with countTokens. A script is a list of turns; the prompt picks it with `<<fake-json:[...]>>` or `<<fake:NAME>>`. Which turn is next
follows from the request alone (assistant turns after the newest marker), so parallel runs,
retries and resumed sessions need no state here.

    python tests/fakes/model_server.py --port 0 --port-file P [--scripts S.json] [--log L.jsonl]

A turn: {"text": "..."}, {"tool": "$shell", "input": {...}}, {"tools": [...]}, {"error": 529,
"times": 1, "kind": "overloaded_error"}, {"hang": true}, {"disconnect": true}, {"cut": true}
(a stream that ends in the middle), {"delay": 0.2}; "usage", "stop" and "{{last_tool_result}}" inside a text; "{{match:REGEX}}" as an argument of a tool is
the first group of its newest match in a tool's result. Past the last turn the last one is repeated.
"""

import argparse
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from typing_extensions import override

from tests.fakes import gemini_api, messages_api, responses_api
from tests.fakes.dialogue import Json, last_tool_result, said, user_text
from tests.fakes.live_model import LiveModel

__all__ = ["Json", "ModelServer", "fake_json"]

MARKER = re.compile(r"<<fake(?:-json)?:(.*?)>>", re.DOTALL)
HANG_LIMIT_S = 120.0


def fake_json(*turns: Json) -> str:
    """Return the prompt marker that makes the model answer with these turns."""
    return f"<<fake-json:{json.dumps(list(turns))}>>"


class ModelServer:
    """The server in a thread of this process; a context manager.

    Attributes:
        url: base URL, for example `http://127.0.0.1:40123`.
        live: conversations by name whose turns come one at a time; the marker
            `<<fake:NAME>>` leads there first. Their requests are not kept.
        requests: every other request body so far, newest last.
        keys: the API key each of them came with, or the bearer of an account; never in the log.
        headers: all headers of each, by lower name.
    """

    def __init__(self, *, port: int = 0, scripts: dict[str, list[Json]] | None = None) -> None:
        self.scripts = scripts or {}
        self.live: dict[str, LiveModel] = {}
        self.requests: list[Json] = []
        self.keys: list[str] = []
        self.headers: list[dict[str, str]] = []
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
        for live in self.live.values():
            live.end()
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

    def turn_for(
        self, messages: list[Json], body: Json, key: str, headers: dict[str, str] | None = None
    ) -> Json:
        """Return the turn that answers a request; blocks while a live one is not given."""
        name, index = self._place(messages)
        if name in self.live:
            return self.live[name].turn(index, last_tool_result(messages))
        with self._lock:
            self.headers.append(headers or {})
        self.note(body, key)
        script = self._script(name)
        turn = script[min(index, len(script) - 1)] if script else {"text": "ok"}
        return self._without_spent_error(turn, script, index)

    def reset(self) -> None:
        """Forget requests and how often errors were given."""
        with self._lock:
            self.requests.clear()
            self.keys.clear()
            self.headers.clear()
            self._errors.clear()

    def _place(self, messages: list[Json]) -> tuple[str, int]:
        """Return the newest marker, and how many turns of the model came after it."""
        for at in range(len(messages) - 1, -1, -1):
            found = MARKER.findall(user_text(messages[at]))
            if found:
                later = [m for m in messages[at + 1 :] if m["role"] == "assistant"]
                return found[-1].strip(), len(later)
        return "", sum(m["role"] == "assistant" for m in messages)

    def _script(self, name: str) -> list[Json]:
        if name.startswith("["):
            turns: list[Json] = json.loads(name)
            return turns
        if not name:
            return self.scripts.get("default", [])
        return self.scripts.get(name, [{"text": f"no script {name!r}"}])

    def _without_spent_error(self, turn: Json, script: list[Json], index: int) -> Json:
        if not ("error" in turn or "cut" in turn) or "times" not in turn:
            return turn
        key = json.dumps([script, index])
        with self._lock:
            self._errors[key] = self._errors.get(key, 0) + 1
            spent = self._errors[key] > turn["times"]
        return {"text": "after the error"} | turn.get("then", {}) if spent else turn


def _error(_status: int, kind: str, message: str) -> Json:
    return {"type": "error", "error": {"type": kind, "message": message}}


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
        gemini = gemini_api.METHOD.fullmatch(path)
        if gemini:
            self._gemini(gemini[1], body)
        elif path == "/_fake/script":
            self.fake.scripts.update(body)
            self._json(200, {"ok": True})
        elif path == "/_fake/reset":
            self.fake.reset()
            self._json(200, {"ok": True})
        elif path == "/v1/messages/count_tokens":
            self._json(200, {"input_tokens": max(1, len(json.dumps(body)) // 4)})
        elif path == "/v1/messages":
            said_so_far = messages_api.dialogue(body)
            key = self.headers.get("x-api-key") or self._bearer()
            turn = self.fake.turn_for(said_so_far, body, key, self._headers())
            if self._plays(turn):
                message = messages_api.reply(body, turn, said(turn, said_so_far))
                if body.get("stream"):
                    self._stream(messages_api.events(message))
                else:
                    self._json(200, message)
        elif path == "/v1/responses":
            said_so_far = responses_api.dialogue(body)
            turn = self.fake.turn_for(said_so_far, body, self._bearer(), self._headers())
            if self._plays(turn):
                response = responses_api.reply(body, said(turn, said_so_far))
                self._stream(responses_api.events(response))
        else:
            self._json(
                404, {"type": "error", "error": {"type": "not_found_error", "message": path}}
            )

    def _bearer(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    def _headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _gemini(self, method: str, body: Json) -> None:
        if method == "countTokens":
            self._json(200, {"totalTokens": max(1, len(json.dumps(body)) // 4)})
            return
        asked = gemini_api.form(body)
        if asked is not None:  # about the conversation, such as which model is to go on with it
            self._json(200, gemini_api.filled(asked))
            return
        said_so_far = gemini_api.dialogue(body)
        turn = self.fake.turn_for(said_so_far, body, self.headers.get("x-goog-api-key", ""))
        if self._plays(turn, gemini_api.error):
            response = gemini_api.reply(said(turn, said_so_far))
            if method == "streamGenerateContent":
                self._stream(gemini_api.events(response))
            else:
                self._json(200, response)

    def _plays(self, turn: Json, error_of: Callable[[int, str, str], Json] = _error) -> bool:
        """Do what a turn does instead of saying something; True = it says something."""
        time.sleep(turn.get("delay", 0))
        if turn.get("hang"):
            self.fake.closing.wait(HANG_LIMIT_S)
            self.close_connection = True
        elif turn.get("disconnect"):
            self.close_connection = True
        elif turn.get("cut"):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.close_connection = True
        elif "error" in turn:
            message = turn.get("message", f"scripted {turn['error']}")
            error = error_of(turn["error"], turn.get("kind", "api_error"), message)
            self._json(turn["error"], error, turn.get("retry_after"))
        else:
            return True
        return False

    def _json(self, status: int, value: object, retry_after: object = None) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if retry_after is not None:
            self.send_header("retry-after", str(retry_after))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: Iterator[Json]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            name = f"event: {event['type']}\n" if "type" in event else ""
            data = f"{name}data: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")


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
