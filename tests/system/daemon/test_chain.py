"""Tasks that ask for tasks, over three real daemons: `first` asks `middle`, whose task asks `last`."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import ResultArguments
from cmesh.daemon.chains import CHILDREN_MOST
from cmesh.model import Profile, TaskState
from cmesh.node.testnet import Testnet
from tests.system.daemon.conftest import OUTBOUND, command
from tests.system.daemon.machine import Machine, consent, eventually, worker_user

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

# What runs on `middle`: an MCP client of a few lines, and after it what the prompt says.
PROGRAM = """
import json, os, sys, urllib.error, urllib.request
URL, TOKEN = os.environ.get("CMESH_MCP_URL", ""), os.environ.get("CMESH_MCP_TOKEN", "")
ACCEPT = "application/json, text/event-stream"

def post(body, url=URL, token=TOKEN, **headers):
    head = {"Content-Type": "application/json", "Accept": ACCEPT}
    head |= {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, json.dumps(body).encode(), head | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)

def ask(method, **params):
    status, text = post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return json.loads(lines[-1])["result"] if lines else [status, text]

def call(name, **arguments):
    answer = ask("tools/call", name=name, arguments=arguments)
    return answer.get("structuredContent") or answer["content"][0]["text"]

def ended(task_id):
    view = {"state": "queued"}
    while view["state"] in ("submitting", "queued", "running", "cancelling"):
        view = call("get_task", task_id=task_id, wait_s=5)
    return view

exec(sys.stdin.read())
"""


def inbound(name: str, place: Path, profile: str, operations: tuple[str, ...], *more: str) -> str:
    """Return a rule for one directory; `more` are runners besides `command:look`."""
    runners = ", ".join(f'"command:{each}"' for each in ("look", "sleep", *more))
    words = ", ".join(f'"{operation}"' for operation in operations)
    return f"""
[[inbound.allow]]
name = "{name}"
peers = ["user:me@example.com"]
operations = [{words}]
profiles = ["{profile}"]
runners = [{runners}]
paths = ["{place}"]
limits = {{ runtime = "2m" }}
{consent() if profile == "full" else ""}
"""


LOOK = command("look", "/bin/cat") + command("sleep", "/bin/sleep", "100")


class Trio:
    """The three machines.

    Attributes:
        query, full: directories of `middle` where a task may delegate.
        plain: one where it may not.
        far: the directory of `last`.
        foreign: a task of `middle` at `last` that its owner has asked for.
    """

    def __init__(self, ground: Path, testnet: Testnet) -> None:
        self.first, self.middle, self.last = (
            Machine(name, ground, testnet, worker_user()) for name in ("first", "middle", "last")
        )
        self.query, self.full, self.plain = (
            ground / "middle" / name for name in ("query", "full", "plain")
        )
        self.far = ground / "last" / "far"
        self.foreign = ""

    async def configure(self) -> None:
        both = ("task", "delegate")
        ask = command("ask", "/usr/bin/python3", "-c", "PROGRAM").replace(
            '"PROGRAM"', json.dumps(PROGRAM)
        )
        rules = inbound("may hand on", self.query, "query", both, "ask")
        rules += inbound("may hand on in full", self.full, "full", both, "ask")
        rules += inbound("may not", self.plain, "query", ("task",), "ask")
        await self.first.configure(OUTBOUND)
        await self.middle.configure(OUTBOUND + LOOK + ask + rules)
        far = inbound("far", self.far, "query", both) + inbound("far full", self.far, "full", both)
        await self.last.configure(LOOK + far)
        for place in (self.query, self.full, self.plain):
            self.middle.directory(place.name)
        self.last.directory("far")

    async def run(self, place: Path, order: str, *, full: bool = False, **more: Any) -> TaskView:
        """Let `middle` run a program for `first`, to its end."""
        view = await self.first.delegate(
            "middle",
            "command:ask",
            place,
            prompt=order,
            profile=Profile.FULL if full else Profile.QUERY,
            new=True,
            wait_s=0,
            **more,
        )
        return await self.first.ended(view.task_id)

    def far_call(self, **more: str) -> str:
        """Return a `delegate` to `last` as the program writes it."""
        fields = {
            "peer": "last",
            "prompt": "hello from afar",
            "directory": str(self.far),
            "runner": "command:look",
            "profile": "query",
            **more,
        }
        return f"call('delegate', **{fields!r})"


@pytest.fixture(scope="module")
async def trio(ground: Path, testnet: Testnet) -> AsyncIterator[Trio]:
    made = Trio(ground, testnet)
    async with AsyncExitStack() as stack:
        for machine in (made.first, made.middle, made.last):
            stack.push_async_callback(machine.stop)
        await made.configure()
        for machine in (made.last, made.middle, made.first):
            await machine.up()
        knock = {"profile": Profile.QUERY, "wait_s": 0}
        await made.first.delegate("middle", "command:look", made.query, **knock)
        await made.middle.trust(made.first)
        asked = await made.middle.delegate("last", "command:look", made.far, **knock)
        await made.last.trust(made.middle)
        await made.middle.ended(asked.task_id)
        made.foreign = asked.task_id
        found = (await made.middle.status()).enforcement
        if "netns" not in found:
            pytest.skip(f"no network namespaces here: {found}")
        yield made


async def lines(trio: Trio, view: TaskView) -> list[Any]:
    """Return what a program has printed, one JSON value a line."""
    assert view.state is TaskState.SUCCEEDED, view.model_dump_json()
    arguments = ResultArguments(task_id=view.task_id, part="output")
    text = (await trio.first.call("get_result", arguments))["text"]
    return [json.loads(line) for line in text.splitlines()]


async def test_a_task_in_a_sandbox_hands_on_and_gets_the_result(trio: Trio) -> None:
    order = f"""
print(json.dumps([tool["name"] for tool in ask("tools/list")["tools"]]))
print(json.dumps(call("list_peers")["peers"]))
child = {trio.far_call()}
print(json.dumps(ended(child["task_id"])))
print(json.dumps(call("get_result", task_id=child["task_id"])))
print(json.dumps([task["task_id"] for task in call("list_tasks", mine=False)["tasks"]]))
foreign = {trio.foreign!r}
others = [call(name, task_id=foreign) for name in ("get_task", "get_result", "cancel_task")]
others += [call("get_task", task_id="0"), call("cmesh_status")]
print(json.dumps(others))
print(json.dumps([name for name in os.environ if "PROXY" in name.upper()]))
"""
    view = await trio.run(trio.query, order)
    tools, peers, child, result, listed, others, proxies = await lines(trio, view)
    assert sorted(tools) == [
        "cancel_task",
        "delegate",
        "get_result",
        "get_task",
        "list_peers",
        "list_tasks",
    ]
    (peer,) = peers  # neither `first`, which asked, nor this node
    assert peer["name"] == "last"
    assert child["state"] == "succeeded"
    assert "hello from afar" in result
    assert listed == [child["task_id"]]
    assert [other.partition(":")[0] for other in others] == ["task_not_found"] * 3 + [
        "bad_arguments"
    ] * 2
    assert proxies == []
    # Each node has it on record: who led there, and which task asked.
    middle = await trio.middle.sql(
        f"SELECT session FROM tasks WHERE task_id = '{child['task_id']}'"
    )
    assert middle == [[f"task:{view.task_id}"]]
    (row,) = await trio.middle.sql(
        f"SELECT data FROM audit WHERE kind = 'handed_on' AND task_id = '{view.task_id}'"
    )
    ids = [(await each.status()).node_id for each in (trio.first, trio.middle, trio.last)]
    told = json.loads(row[0])
    assert (told["child"], told["chain"]) == (child["task_id"], ids)
    # One call is one trace on all three, and both tasks are in it.
    trace = view.task_id.replace("-", "")
    traces = [
        await each.sql(f"SELECT task_id FROM traces WHERE trace_id = '{trace}' ORDER BY seq")
        for each in (trio.first, trio.middle, trio.last)
    ]
    assert traces == [[[view.task_id]], [[view.task_id], [child["task_id"]]], [[child["task_id"]]]]
    connections = await trio.middle.sql(
        f"SELECT DISTINCT verdict, code FROM connections WHERE task_id = '{view.task_id}'"
    )
    assert connections == [["allowed", "mcp"]]


async def test_without_the_grant_there_is_no_port_no_token_and_no_tool(trio: Trio) -> None:
    order = """
import socket
try:
    socket.create_connection(("127.0.0.1", 8119), 5)
    print(json.dumps("connected"))
except OSError as error:
    print(json.dumps(type(error).__name__))
print(json.dumps([name for name in os.environ if "CMESH_MCP" in name]))
print(json.dumps(sorted(set(open("/proc/net/tcp").read().split("\\n")[1:]) - {""})))
"""
    view = await trio.run(trio.plain, order)
    connected, names, listening = await lines(trio, view)
    assert connected in ("ConnectionRefusedError", "PermissionError", "OSError")
    assert names == []
    assert listening == []


async def test_what_a_task_does_not_have_it_cannot_hand_on(trio: Trio) -> None:
    order = f"""
print(json.dumps({trio.far_call(profile="full")}))
print(json.dumps({trio.far_call(peer="first")}))
print(json.dumps({trio.far_call(peer="middle")}))
print(json.dumps({trio.far_call(runner="command:other")}))
print(json.dumps(call("list_tasks")["tasks"]))
"""
    wider, back, itself, runner, listed = await lines(trio, await trio.run(trio.query, order))
    assert wider.startswith("policy_denied: a task hands on only what it has: full")
    assert back.startswith("policy_denied: the chain of callers is refused")
    assert "unknown_peer" in itself or "chain of callers" in itself
    assert runner.startswith("policy_denied: a task hands on only what it has: command:other")
    assert listed == []
    rows = await trio.middle.sql(
        "SELECT count(*) FROM decisions WHERE direction = 'out' AND effect = 'deny'"
    )
    assert rows[0][0] >= 3


async def test_tasks_asked_for_at_once_count_like_those_asked_for_one_by_one(trio: Trio) -> None:
    order = f"""
from concurrent.futures import ThreadPoolExecutor
def one(number):
    return {trio.far_call(prompt="PROMPT").replace("'PROMPT'", "f'{number}'")}
with ThreadPoolExecutor(CHILDREN) as pool:
    found = list(pool.map(one, range(CHILDREN)))
print(json.dumps([each if isinstance(each, str) else "asked" for each in found]))
""".replace("CHILDREN", str(CHILDREN_MOST + 8))
    view = await trio.run(trio.query, order)
    (answers,) = await lines(trio, view)
    refused = sorted({answer.partition(":")[0] for answer in answers} - {"asked"})
    assert (answers.count("asked"), refused) == (CHILDREN_MOST, ["busy"])
    rows = await trio.middle.sql(
        f"SELECT count(*) FROM tasks WHERE session = 'task:{view.task_id}'"
    )
    assert rows == [[CHILDREN_MOST]]


async def test_a_child_has_at_most_the_time_that_is_left_and_ends_with_its_parent(
    trio: Trio,
) -> None:
    order = f"""
child = {trio.far_call(runner="command:sleep", timeout_s="4000").replace("'4000'", "4000")}
view = child
while view["state"] != "running":
    view = call("get_task", task_id=child["task_id"], wait_s=5)
print(json.dumps(child["task_id"]))
"""
    view = await trio.run(trio.query, order)
    (child,) = await lines(trio, view)
    ended = await trio.middle.ended(child)
    assert ended.state is TaskState.CANCELLED
    assert (await trio.last.task(child)).state is TaskState.CANCELLED
    (row,) = await trio.last.sql(
        f"SELECT canon FROM audit WHERE kind = 'task' AND task_id = '{child}'"
    )
    assert json.loads(row[0])["runtime_s"] <= 120


async def test_only_the_task_s_own_token_opens_its_endpoint(trio: Trio) -> None:
    order = """
body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
plain = URL.replace("localhost", "127.0.0.1")
other = URL.rsplit("/", 1)[0] + "/other"
tries = [
    post(body), post(body, url=plain), post(body, token="x" + TOKEN[1:]), post(body, token=""),
    post(body, Host="evil.example.com"), post(body, Host="localhost"),
    post(body, Origin="http://localhost"), post(body, Origin="null"), post(body, url=other),
]
print(json.dumps([status for status, _text in tries]))
"""
    view = await trio.run(trio.query, order)
    assert await lines(trio, view) == [[200, 200, 401, 401, 421, 421, 403, 403, 403]]
    rows = await trio.middle.sql(
        "SELECT data->>'$.code' FROM audit"
        f" WHERE kind = 'mcp_refused' AND task_id = '{view.task_id}' ORDER BY seq"
    )
    assert [row[0] for row in rows] == [
        "wrong_token",
        "no_token",
        "wrong_host",
        "wrong_host",
        "has_origin",
        "has_origin",
    ]


async def test_without_a_sandbox_a_task_has_a_loopback_port_that_closes_with_it(
    trio: Trio,
) -> None:
    order = f"""
body = {{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {{}}}}
tries = [post(body), post(body, token="x"), post(body, Host="evil.example.com:1")]
tries += [post(body, Origin="http://localhost"), post(body, url=URL + "/x")]
print(json.dumps([status for status, _text in tries]))
child = {trio.far_call(profile="full")}
print(json.dumps(ended(child["task_id"])["state"]))
print(json.dumps([URL, TOKEN]))
open("told", "w").write(URL + " " + TOKEN)
while not os.path.exists("go"):
    time.sleep(0.05)
""".replace("body =", "import time\nbody =", 1)
    asked = await trio.first.delegate(
        "middle", "command:ask", trio.full, prompt=order, new=True, wait_s=0
    )

    async def told() -> str | None:
        file = trio.full / "told"
        return file.read_text() if file.exists() and " " in file.read_text() else None

    url, token = (await eventually(told)).split(" ")
    port = urlsplit(url).port
    assert port is not None
    # The next daemon serves the same task at the same port.
    trio.middle.kill()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):  # nobody else is shown the token meanwhile
            thief.bind(("127.0.0.1", port))
    await trio.middle.up()
    assert await eventually(lambda: _status(port, token)) == 200
    # The token of one task opens no door of another.
    (other,) = await lines(
        trio,
        await trio.run(
            trio.query,
            f"""
body = {{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {{}}}}
print(json.dumps(post(body, token={token!r})[0]))
""",
        ),
    )
    assert other == 401
    (trio.full / "go").touch()
    view = await trio.first.ended(asked.task_id)
    statuses, child, _told = await lines(trio, view)
    assert statuses == [200, 401, 421, 403, 404]
    assert child == "succeeded"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


async def _status(port: int, token: str) -> int | None:
    """Return the status of a request from outside of the task; None = nobody serves yet."""
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}'
    head = (
        f"POST /cmesh/mcp HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    try:
        with socket.create_connection(("127.0.0.1", port), 20) as connection:
            connection.sendall(head.encode() + body)
            return int(connection.recv(65536).split(b" ")[1])
    except (OSError, IndexError):
        return None
