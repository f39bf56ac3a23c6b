"""The relay's memory: what it answers itself, holds, replays and answers when a daemon is lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from cmesh.interfaces.mcp import relay_session
from cmesh.interfaces.mcp.relay_session import CALL_S, HOLD_S, Session, derived_key

FILE: dict[str, Any] = json.loads(
    Path(relay_session.__file__).with_name("handshake.json").read_text("utf-8")
)
VERSION = FILE["version"]
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "client", "version": "2"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "client", "version": "1"},
}
SESSION, PID = "s", 7


class World:
    """A session with a client and a daemon that remember what they got."""

    def __init__(self) -> None:
        self.session = Session(FILE, SESSION, PID)

    def ask(self, method: str, params: object = None, *, number: object = 1) -> None:
        message = {"jsonrpc": "2.0", "id": number, "method": method}
        self.say(message | ({"params": params} if params is not None else {}))

    def tell(self, method: str, params: object = None) -> None:
        self.say({"jsonrpc": "2.0", "method": method, "params": params or {}})

    def say(self, message: object) -> None:
        self.session.from_client(json.dumps(message).encode())

    def answer(self, message: object) -> None:
        self.session.from_daemon(json.dumps(message).encode())

    def client_got(self) -> list[dict[str, Any]]:
        return _taken(self.session.to_client)

    def daemon_got(self) -> list[dict[str, Any]]:
        return _taken(self.session.to_daemon)

    def begin(self) -> None:
        self.ask("initialize", HELLO, number=0)
        self.tell("notifications/initialized")
        self.client_got()


@pytest.fixture
def world() -> World:
    return World()


def test_the_handshake_needs_no_daemon(world: World) -> None:
    world.ask("initialize", HELLO)
    (answer,) = world.client_got()
    assert answer["result"]["protocolVersion"] == "2025-06-18"
    assert answer["result"]["serverInfo"]["version"] == VERSION


def test_an_unknown_version_is_answered_with_the_newest(world: World) -> None:
    world.ask("initialize", HELLO | {"protocolVersion": "1999-01-01"})
    assert world.client_got()[0]["result"]["protocolVersion"] == FILE["legacy_versions"][-1]


@pytest.mark.parametrize("method", ["tools/list", "resources/list", "prompts/list"])
def test_lists_of_both_eras_come_from_the_file(world: World, method: str) -> None:
    world.ask(method, number="a")
    world.ask(method, {"_meta": MODERN}, number="b")
    legacy, modern = world.client_got()
    assert legacy["result"] == FILE["legacy"][method]
    assert modern["result"] == FILE["modern"][method]


def test_discover_needs_no_daemon(world: World) -> None:
    world.ask("server/discover", {"_meta": MODERN})
    assert world.client_got()[0]["result"]["supportedVersions"] == ["2026-07-28"]


def test_a_call_waits_for_the_daemon_and_goes_after_the_handshake(world: World) -> None:
    world.begin()
    world.ask("tools/call", {"name": "list_peers"}, number=5)
    assert not world.client_got()
    world.session.connected(VERSION)
    methods = [message["method"] for message in world.daemon_got()]
    assert methods == ["initialize", "notifications/initialized", "tools/call"]


def test_the_answer_to_a_replayed_handshake_is_swallowed(world: World) -> None:
    world.begin()
    world.session.connected(VERSION)
    identifier = world.daemon_got()[0]["id"]
    world.answer({"jsonrpc": "2.0", "id": identifier, "result": {}})
    assert not world.client_got()


def test_a_lost_daemon_answers_open_calls_with_the_call_to_repeat(world: World) -> None:
    world.begin()
    world.session.connected(VERSION)
    world.ask("tools/call", {"name": "get_task", "arguments": {"task_id": "0123"}}, number=9)
    world.session.lost()
    (answer,) = world.client_got()
    assert answer["id"] == 9
    assert answer["result"]["isError"] is True
    code, step = answer["result"]["content"][0]["text"].splitlines()
    assert code.startswith("daemon_restarted: ")
    assert step == 'Next: get_task(task_id="0123")'


@pytest.mark.parametrize("given", ["", "mine"])
def test_a_lost_delegate_is_repeated_with_the_key_the_daemon_used(world: World, given: str) -> None:
    world.session.connected(VERSION)
    arguments = {"peer": "worker", "prompt": "hi", "directory": "/srv"}
    if given:
        arguments["idempotency_key"] = given
    params = {"name": "delegate", "arguments": arguments}
    world.ask("tools/call", params, number=3)
    world.session.lost()
    text = world.client_got()[0]["result"]["content"][0]["text"]
    key = given or derived_key(SESSION, PID, dict(params), 3)
    assert text.endswith(
        f'delegate(peer="worker", prompt="hi", directory="/srv", idempotency_key="{key}")'
    )


def test_a_long_prompt_is_not_repeated_in_the_next_step(world: World) -> None:
    world.session.connected(VERSION)
    arguments = {"peer": "worker", "prompt": "x" * 9_000, "directory": "/srv"}
    world.ask("tools/call", {"name": "delegate", "arguments": arguments})
    world.session.lost()
    text = world.client_got()[0]["result"]["content"][0]["text"]
    assert len(text) < 400
    assert 'repeat delegate with exactly the same arguments and idempotency_key="auto-' in text


def test_requests_that_do_nothing_are_asked_again(world: World) -> None:
    world.session.connected(VERSION)
    world.ask("resources/read", {"uri": "cmesh://status"}, number=4)
    world.session.lost()
    assert not world.client_got()
    world.session.connected(VERSION)
    assert [message["method"] for message in world.daemon_got()] == ["resources/read"]


def test_subscriptions_are_replayed_and_unsubscribed_ones_are_not(world: World) -> None:
    world.begin()
    world.session.connected(VERSION)
    for number, uri in enumerate(("cmesh://tasks/a", "cmesh://tasks/b"), start=1):
        world.ask("resources/subscribe", {"uri": uri}, number=number)
        world.answer({"jsonrpc": "2.0", "id": number, "result": {}})
    world.ask("resources/unsubscribe", {"uri": "cmesh://tasks/a"}, number=3)
    world.session.lost()
    world.client_got()
    world.session.connected(VERSION)
    replayed = [m for m in world.daemon_got() if m["method"] == "resources/subscribe"]
    assert [message["params"]["uri"] for message in replayed] == ["cmesh://tasks/b"]
    world.answer({"jsonrpc": "2.0", "id": replayed[0]["id"], "result": {}})
    assert not world.client_got()


def test_a_modern_stream_is_replayed_and_acknowledged_once(world: World) -> None:
    world.session.connected(VERSION)
    listen = {"notifications": {"resourceSubscriptions": ["cmesh://tasks/a"]}, "_meta": MODERN}
    ack = {
        "jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": {"_meta": {"io.modelcontextprotocol/subscriptionId": "l1"}},
    }
    world.ask("subscriptions/listen", listen, number="l1")
    world.answer(ack)
    assert world.client_got() == [ack]
    world.session.lost()
    assert not world.client_got()
    world.session.connected(VERSION)
    assert [message["id"] for message in world.daemon_got()] == ["l1"]
    world.answer(ack)
    assert not world.client_got()


def test_a_cancelled_request_is_forgotten(world: World) -> None:
    world.ask("tools/call", {"name": "list_peers"}, number=2)
    world.tell("notifications/cancelled", {"requestId": 2})
    world.session.connected(VERSION)
    assert not world.daemon_got()
    world.session.fail("daemon_not_running", "why", "do")
    assert not world.client_got()


def test_without_a_daemon_calls_say_so_in_their_era(world: World) -> None:
    world.ask("tools/call", {"name": "list_peers"}, number=1)
    world.ask("tools/call", {"name": "list_peers", "_meta": MODERN}, number=2)
    world.ask("resources/read", {"uri": "cmesh://status"}, number=3)
    world.session.fail("daemon_not_running", "it was stopped", "run `cmesh up`")
    legacy, modern, read = world.client_got()
    text = "daemon_not_running: it was stopped\nNext: run `cmesh up`"
    assert legacy["result"]["content"][0]["text"] == text
    assert modern["result"]["resultType"] == "complete"
    assert "io.modelcontextprotocol/serverInfo" in modern["result"]["_meta"]
    assert read["error"]["code"] == -32603


def test_a_held_call_is_answered_in_time(world: World) -> None:
    world.ask("tools/call", {"name": "list_peers"})
    assert world.session.next_deadline() == HOLD_S
    world.session.now = HOLD_S
    world.session.expire()
    assert "daemon_not_running" in world.client_got()[0]["result"]["content"][0]["text"]
    assert world.session.next_deadline() is None


def test_a_daemon_that_hangs_costs_one_bounded_call(world: World) -> None:
    world.session.connected(VERSION)
    world.ask("tools/call", {"name": "list_peers"}, number=6)
    world.daemon_got()
    world.session.now = CALL_S - 1
    world.session.expire()
    assert not world.client_got()
    world.session.now = CALL_S
    world.session.expire()
    assert "daemon_timeout" in world.client_got()[0]["result"]["content"][0]["text"]
    (cancelled,) = world.daemon_got()
    assert cancelled["params"]["requestId"] == 6
    world.answer({"jsonrpc": "2.0", "id": 6, "result": {}})
    assert not world.client_got()


def test_another_version_announces_and_then_serves_its_own_tools(world: World) -> None:
    world.begin()
    world.ask("tools/list", number=1)
    world.client_got()
    world.session.connected("9.9")
    (news,) = world.client_got()
    assert news["method"] == "notifications/tools/list_changed"
    world.daemon_got()
    world.ask("tools/list", number=2)
    assert [message["id"] for message in world.daemon_got()] == [2]
    world.session.lost()
    world.session.connected("9.9")
    assert not world.client_got()


def test_a_modern_stream_hears_of_other_tools(world: World) -> None:
    world.ask("tools/list", {"_meta": MODERN}, number=1)
    listen = {"notifications": {"toolsListChanged": True}, "_meta": MODERN}
    world.ask("subscriptions/listen", listen, number="l1")
    world.client_got()
    world.session.connected("9.9")
    (news,) = world.client_got()
    assert news["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "l1"


def test_a_new_handshake_on_a_used_link_needs_a_new_link(world: World) -> None:
    world.session.connected(VERSION)
    world.ask("initialize", HELLO)
    assert world.session.renew
    world.session.lost()
    world.session.connected(VERSION)
    assert not world.session.renew


@pytest.mark.parametrize(
    ("line", "code"),
    [(b"{bad", -32700), (b"[]", -32600), (b"\xff", -32700), (b"[" * 200_000, -32700)],
)
def test_what_is_no_message_is_refused(world: World, line: bytes, code: int) -> None:
    world.session.from_client(line)
    (answer,) = world.client_got()
    assert answer["id"] is None
    assert answer["error"]["code"] == code


def test_ids_of_different_types_are_different_requests(world: World) -> None:
    world.session.connected(VERSION)
    world.ask("resources/read", {"uri": "a"}, number=1)
    world.ask("resources/read", {"uri": "b"}, number="1")
    world.answer({"jsonrpc": "2.0", "id": "1", "result": {}})
    world.answer({"jsonrpc": "2.0", "id": 1, "result": {}})
    assert [answer["id"] for answer in world.client_got()] == ["1", 1]


def test_a_key_is_the_tool_use_when_there_is_one() -> None:
    used: dict[str, object] = {"_meta": {"claudecode/toolUseId": "toolu_1"}}
    assert derived_key("s", 1, used, 5) == derived_key("s", 2, used, 6)
    assert derived_key("s", 1, {}, 5) != derived_key("s", 1, {}, 6)
    assert derived_key("s", 1, {}, 5) != derived_key("s", 2, {}, 5)
    assert derived_key("s", 1, {}, 5) != derived_key("s", 1, {}, "5")


def _taken(buffer: bytearray) -> list[dict[str, Any]]:
    messages = [json.loads(line) for line in bytes(buffer).splitlines()]
    buffer.clear()
    return messages


def test_an_answer_meant_for_a_daemon_that_is_gone_reaches_no_other(world: World) -> None:
    world.begin()
    world.session.connected(VERSION)
    asked = {"jsonrpc": "2.0", "id": 1, "method": "elicitation/create"}
    said = {"jsonrpc": "2.0", "id": 1, "result": {"action": "accept"}}
    world.answer(asked)
    assert world.client_got() == [asked]
    world.session.lost()
    world.session.connected(VERSION)
    world.answer(asked)  # the next daemon counts anew
    world.daemon_got()
    world.say(said)
    assert world.daemon_got() == []
    world.say(said)
    assert world.daemon_got() == [said]
    world.say(said)  # nobody has asked
    assert world.daemon_got() == []
