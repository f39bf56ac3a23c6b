"""What the relay knows of client and daemon: no I/O, standard library only.

It answers what `handshake.json` can answer, holds what waits for a daemon,
and never decides anything about a task.
"""

from cmesh.interfaces.mcp.relay_wire import (
    LINE_BYTES,
    as_object,
    cast,
    dump,
    literal,
    parse,
)

__all__ = ["NEXT_UP", "NOT_RUNNING", "Open", "Session", "derived_key"]

CALL_S = 46.0  # the daemon answers within 45 s; this is for one that hangs
HOLD_S = 20.0
CALL_TEXT_CHARACTERS = 2_000

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INTERNAL_ERROR = -32603
CONNECTION_CLOSED = -32000
NOT_RUNNING = "daemon_not_running"
NEXT_UP = "run `cmesh up`"
PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"
CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
TOOL_USE_ID = "claudecode/toolUseId"


class Open:
    """A request of the client that has no answer yet."""

    __slots__ = ("deadline", "id", "line", "method", "modern", "params")

    def __init__(self, message: "dict[str, object]", line: bytes, now: float) -> None:
        self.id = message.get("id")
        self.line = line
        self.method = message["method"]
        self.params = as_object(message.get("params"))
        self.modern = _modern(self.method, self.params)
        self.deadline = now + HOLD_S


class Session:
    """What client and daemon have said: no I/O, bytes to send are left in two buffers.

    Attributes:
        now: monotonic seconds; the owner sets it before each call.
        to_client: bytes for the client's stdin.
        to_daemon: bytes for the daemon; emptied when the link is lost.
        live: the daemon has greeted and gets everything that is not answered here.
        held: requests that wait for a daemon, oldest first.
        sent: requests the daemon has, by id.
        renew: the client began a new handshake; the owner must connect anew.
    """

    def __init__(self, handshake: "dict[str, object]", session: str, pid: int) -> None:
        self.now = 0.0
        self.to_client = bytearray()
        self.to_daemon = bytearray()
        self.live = False
        self.held: list[Open] = []
        self.sent: dict[object, Open] = {}
        self.renew = False
        self.agent = ""
        self._file = handshake
        self._session = session
        self._pid = pid
        self._initialize: dict[str, object] | None = None
        self._initialized = False
        self._subscriptions: dict[str, bytes] = {}
        self._listens: dict[object, Open] = {}
        self._unacknowledged: set[object] = set()
        self._own_count = 0
        self._asked: set[object] = set()
        self._gone: set[object] = set()
        self._daemon_version = handshake["version"]
        self._listed: object = None

    def from_client(self, line: bytes) -> None:
        """Take one line of the client: answer, remember, hold or pass on."""
        try:
            message = parse(line)
        except (ValueError, RecursionError):
            self._refuse(None, PARSE_ERROR, "not JSON")
            return
        if not isinstance(message, dict):
            self._refuse(None, INVALID_REQUEST, "a message is one JSON object; no batches")
            return
        message = cast("dict[str, object]", message)
        if not isinstance(message.get("method"), str):
            self._answer(_key(message.get("id")), line)
        elif message.get("id") is None:
            self._notification(message, line)
        else:
            self._request(Open(message, line, self.now))

    def from_daemon(self, line: bytes) -> None:
        """Take one line of the daemon.

        Raises:
            ValueError: the daemon does not speak JSON-RPC; drop the link.
        """
        message = as_object(parse(line))
        identifier = message.get("id")
        if "method" not in message and identifier is not None:
            key = _key(identifier)
            if as_object(message.get("error")).get("code") == CONNECTION_CLOSED:
                return  # the SDK's word as the daemon goes: `lost` has a better answer
            request = self.sent.pop(key, None)
            if request is None:
                return  # to what this replayed itself, or to a call that was given up
            self._listens.pop(key, None)
            if request.method == "resources/subscribe" and "result" in message:
                self._subscriptions[str(request.params.get("uri"))] = request.line
        elif message.get("method") == "notifications/subscriptions/acknowledged":
            meta = as_object(as_object(message.get("params")).get("_meta"))
            key = _key(meta.get(SUBSCRIPTION_ID))
            if key in self._unacknowledged:
                self._unacknowledged.discard(key)
                return
        elif identifier is not None:
            self._asked.add(_key(identifier))
        self.to_client += line + b"\n"

    def connected(self, version: object) -> None:
        """Replay to a daemon that has just greeted: handshake, subscriptions, held requests."""
        self.live = True
        self.renew = False
        self._daemon_version = version
        if self._initialize is not None:
            self._ask("initialize", self._initialize)
            if self._initialized:
                self.to_daemon += b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
        for uri in self._subscriptions:
            self._ask("resources/subscribe", {"uri": uri})
        for key, listen in self._listens.items():
            self._unacknowledged.add(key)
            self._send(listen)
        held, self.held = self.held, []
        for request in held:
            self._send(request)
        if self._listed not in (None, version):
            self._tools_changed()

    def lost(self) -> None:
        """Forget the link: open calls are answered, everything else waits to be sent again."""
        sent, self.sent = self.sent, {}
        self.live = False
        self.to_daemon.clear()
        self._gone |= self._asked  # the next daemon counts anew: what it asks may have their ids
        self._asked.clear()
        again: list[Open] = []
        for key, request in sent.items():
            if request.method == "tools/call":
                what = "the daemon restarted during this call; tasks are unaffected"
                self._tool_error(request, "daemon_restarted", what, self._repeat(request))
            elif key not in self._listens:
                request.deadline = self.now + HOLD_S
                again.append(request)
        self.held[:0] = again

    def fail(self, code: str, reason: str, step: str) -> None:
        """Answer every held request: no daemon can be had."""
        held, self.held = self.held, []
        for request in held:
            self._fail_one(request, code, reason, step)

    def expire(self) -> None:
        """Answer what has waited too long; a task is never touched by this."""
        late = [request for request in self.held if request.deadline <= self.now]
        self.held = [request for request in self.held if request.deadline > self.now]
        for request in late:
            reason = f"no daemon answered within {HOLD_S:.0f} s"
            self._fail_one(request, NOT_RUNNING, reason, NEXT_UP)
        for key, request in list(self.sent.items()):
            if request.method == "tools/call" and request.deadline <= self.now:
                del self.sent[key]
                self._notify_daemon_cancelled(request.id)
                what = f"the daemon did not answer within {CALL_S:.0f} s"
                self._tool_error(request, "daemon_timeout", what, self._repeat(request))

    def next_deadline(self) -> float | None:
        """Return the monotonic time of the next `expire`, or None."""
        calls = [r.deadline for r in self.sent.values() if r.method == "tools/call"]
        return min([r.deadline for r in self.held] + calls, default=None)

    def too_long(self) -> None:
        """Refuse a line of more than `LINE_BYTES`; the owner then closes."""
        self._refuse(None, INVALID_REQUEST, f"a message of more than {LINE_BYTES} bytes")

    def _answer(self, key: object, line: bytes) -> None:
        """Pass on an answer to what this daemon asked; one meant for an earlier daemon ends here."""
        if key in self._gone:
            self._gone.discard(key)
        elif key in self._asked:
            self._asked.discard(key)
            self._pass_on(line)

    def _notification(self, message: dict[str, object], line: bytes) -> None:
        if message["method"] == "notifications/initialized":
            self._initialized = True
        elif message["method"] == "notifications/cancelled":
            key = _key(as_object(message.get("params")).get("requestId"))
            self.held = [request for request in self.held if _key(request.id) != key]
            self._listens.pop(key, None)
            self.sent.pop(key, None)
        self._pass_on(line)

    def _request(self, request: Open) -> None:
        method = request.method
        if method == "initialize":
            self._begin(request)
            return
        if not self.agent:
            self._name_agent(as_object(request.params.get("_meta")).get(CLIENT_INFO))
        if method == "ping" and not request.modern:
            self._result(request, {})
            return
        known = self._known(request)
        if method == "tools/list":
            self._listed = self._file["version"] if known else self._daemon_version
        if known is not None:
            self._result(request, known)
        elif self.live:
            self._send(request)
        else:
            self.held.append(request)

    def _begin(self, request: Open) -> None:
        self.renew = self.live
        self._initialize, self._initialized = request.params, False
        self._name_agent(request.params.get("clientInfo"))
        legacy = as_object(self._file["legacy"])
        versions = cast("list[object]", self._file["legacy_versions"])
        wanted = request.params.get("protocolVersion")
        version = wanted if wanted in versions else versions[-1]
        self._result(request, as_object(legacy["initialize"]) | {"protocolVersion": version})

    def _known(self, request: Open) -> dict[str, object] | None:
        """Return the answer of the file, unless the daemon is of another version."""
        if self.live and self._daemon_version != self._file["version"]:
            return None
        if not request.modern:
            table = as_object(self._file["legacy"])
        else:
            versions = cast("list[object]", self._file["modern_versions"])
            if as_object(request.params.get("_meta")).get(PROTOCOL_VERSION) not in versions:
                return None
            table = as_object(self._file["modern"])
        answer = table.get(str(request.method))
        return as_object(answer) if answer is not None else None

    def _name_agent(self, info: object) -> None:
        about = as_object(info)
        self.agent = f"{about.get('name', '')} {about.get('version', '')}".strip()[:128]

    def _send(self, request: Open) -> None:
        key = _key(request.id)
        self.sent[key] = request
        if request.method == "subscriptions/listen":
            self._listens[key] = request
        elif request.method == "resources/unsubscribe":
            self._subscriptions.pop(str(request.params.get("uri")), None)
        if request.method == "tools/call":
            # INVARIANT: counted from the call's arrival, so that holding and serving together
            # stay within the limit.
            request.deadline += CALL_S - HOLD_S
        self.to_daemon += request.line + b"\n"

    def _pass_on(self, line: bytes) -> None:
        if self.live:
            self.to_daemon += line + b"\n"

    def _ask(self, method: str, params: dict[str, object]) -> None:
        self._own_count += 1
        identifier = f"cmesh-relay-{self._own_count}"
        message = {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}
        self.to_daemon += dump(message).encode() + b"\n"

    def _tools_changed(self) -> None:
        method = "notifications/tools/list_changed"
        self._listed = self._daemon_version
        if self._initialize is not None and self._initialized:
            self._write({"jsonrpc": "2.0", "method": method})
        for listen in self._listens.values():
            if as_object(listen.params.get("notifications")).get("toolsListChanged"):
                params = {"_meta": {SUBSCRIPTION_ID: listen.id}}
                self._write({"jsonrpc": "2.0", "method": method, "params": params})

    def _notify_daemon_cancelled(self, identifier: object) -> None:
        params = {"requestId": identifier, "reason": "no answer in time"}
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        self.to_daemon += dump(message).encode() + b"\n"

    def _repeat(self, request: Open) -> str:
        """Return the same call, literally; a `delegate` gets the key that makes it safe."""
        name = str(request.params.get("name"))
        arguments = dict(as_object(request.params.get("arguments")))
        if name in {"delegate", "reply_task"} and not arguments.get("idempotency_key"):
            key = derived_key(self._session, self._pid, request.params, request.id)
            arguments["idempotency_key"] = key
        call = f"{name}({', '.join(f'{k}={literal(v)}' for k, v in arguments.items())})"
        if len(call) <= CALL_TEXT_CHARACTERS:
            return call
        key = literal(arguments.get("idempotency_key", ""))
        return f"repeat {name} with exactly the same arguments and idempotency_key={key}"

    def _fail_one(self, request: Open, code: str, reason: str, step: str) -> None:
        if request.method == "tools/call":
            self._tool_error(request, code, reason, step)
        else:
            self._refuse(request.id, INTERNAL_ERROR, f"{code}: {reason}. Next: {step}")

    def _tool_error(self, request: Open, code: str, what: str, step: str) -> None:
        text = f"{code}: {what}\nNext: {step}"
        result: dict[str, object] = {"content": [{"type": "text", "text": text}], "isError": True}
        if request.modern:
            result |= as_object(self._file["modern_stamp"])
        self._result(request, result)

    def _result(self, request: Open, result: dict[str, object]) -> None:
        self._write({"jsonrpc": "2.0", "id": request.id, "result": result})

    def _refuse(self, identifier: object, code: int, what: str) -> None:
        error = {"code": code, "message": what}
        self._write({"jsonrpc": "2.0", "id": identifier, "error": error})

    def _write(self, message: dict[str, object]) -> None:
        self.to_client += dump(message).encode() + b"\n"


def derived_key(session: str, pid: int, params: "dict[str, object]", request_id: object) -> str:
    """Return the idempotency key of a `delegate` call that names none.

    The client's tool-use id is best: a retried call has the same. Else the
    request id, which means something within one relay process only.
    """
    import hashlib

    meta = as_object(params.get("_meta"))
    use = meta.get(TOOL_USE_ID)
    seed = [session, "use", use] if isinstance(use, str) else [session, str(pid), request_id]
    return "auto-" + hashlib.sha256(dump(seed).encode()).hexdigest()[:32]


def _key(identifier: object) -> object:
    """Return an id as a dictionary key: 1 and "1" are two ids."""
    return (isinstance(identifier, str), str(identifier))


def _modern(method: object, params: dict[str, object]) -> bool:
    return method != "initialize" and PROTOCOL_VERSION in as_object(params.get("_meta"))
