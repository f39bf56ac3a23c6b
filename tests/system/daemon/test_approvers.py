"""The approvals page on the tailnet: whose word is taken there, and for which task.

`phone` is a plain node of the tailnet, without cmesh, as a browser's device is.
"""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.errors import NodeError, PeerUnreachable
from cmesh.model import TaskState
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from cmesh.paths import control_socket
from tests.system.daemon.calls import ROOT
from tests.system.daemon.conftest import OUTBOUND, command, inbound
from tests.system.daemon.machine import ME, Machine, as_user, eventually, here, worker_user

pytestmark = [pytest.mark.anyio, pytest.mark.system]

PORT = 7400
HOST = f"builder:{PORT}"
EVE = "eve@example.com"
ASK = 'approval = "ask"'
CLAIMS = """
import asyncio, sys
from pathlib import Path
from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import ApproveArguments
from cmesh.interfaces.client import ControlClient

async def main():
    async with ControlClient(Path(sys.argv[1]), agent="cmesh dashboard 9.9") as client:
        await client.call("approve_task", ApproveArguments(task_id=sys.argv[2], approve=False), TaskView)

asyncio.run(main())
"""
"""A program of the owner that calls itself the dashboard."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: str
    text: str

    def shown(self, task: TaskView) -> str:
        """Return the digest in a task's form."""
        form = self.text[self.text.index(f'action="/{task.task_id}"') :]
        return re.findall(r'name="shown" value="([0-9a-f]{64})"', form)[0]


@dataclass(frozen=True, slots=True)
class Device:
    """A node that asks as a browser does."""

    node: Node

    async def get(self, path: str = "/", host: str = HOST) -> Answer:
        return await self._ask(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n")

    async def post(
        self, task_id: str, fields: Mapping[str, str], origin: str = f"http://{HOST}"
    ) -> Answer:
        body = urlencode(fields)
        head = f"POST /{task_id} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n"
        kind = "Content-Type: application/x-www-form-urlencoded\r\n"
        return await self._ask(f"{head}{kind}" + (f"Origin: {origin}\r\n" if origin else ""), body)

    async def _ask(self, head: str, body: str = "") -> Answer:
        async with asyncio.timeout(20):
            sock = await self.node.dial("builder", PORT)
            reader, writer = await asyncio.open_connection(sock=sock)
            writer.write(f"{head}Connection: close\r\n\r\n{body}".encode())
            answer = (await reader.read()).decode()
            writer.close()
        if not answer:
            return Answer(0, "", "")
        headers, _, text = answer.partition("\r\n\r\n")
        return Answer(int(headers.split()[1]), headers, text)


@dataclass(slots=True)
class Place:
    laptop: Machine
    builder: Machine
    phone: Device
    stranger: Device
    directory: Path

    async def waits(self, prompt: str = "do it") -> TaskView:
        """Let a task of the laptop wait for the builder's owner."""
        asked = await self.laptop.delegate(
            "builder", "command:true", self.directory, prompt=prompt, new=True
        )

        async def is_waiting() -> TaskView | None:
            view = await self.builder.task(asked.task_id)
            return view if view.state is TaskState.WAITING_APPROVAL else None

        return await eventually(is_waiting)


@pytest.fixture(scope="module")
async def place(ground: Path, testnet: Testnet) -> AsyncIterator[Place]:
    directory = ground / "builder" / "app"
    page = f'[approvals]\napprovers = ["user:{ME}"]\nport = {PORT}\n'
    rules = command("true", "/bin/true") + inbound(directory, ["command:true"], ASK)
    laptop = Machine("laptop", ground, testnet, here())
    builder = Machine("builder", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, text in ((laptop, OUTBOUND), (builder, rules + page)):
            stack.push_async_callback(machine.stop)
            await machine.configure(text)
        builder.directory("app")
        devices: list[Device] = []
        for name, user in (("phone", ME), ("stranger", EVE)):
            options = NodeOptions(
                state_dir=ground / name,
                hostname=name,
                control_url=testnet.control_url,
                auth_key=await testnet.auth_key(user),
                allow_testnet=True,
            )
            node = await stack.enter_async_context(Node(options))
            devices.append(Device(node))
        await asyncio.gather(builder.up(), laptop.up(), *(one.node.up() for one in devices))
        await laptop.delegate("builder", "command:true", directory)
        await builder.trust(laptop)
        found = Place(laptop, builder, devices[0], devices[1], directory)

        async def served() -> bool | None:
            try:
                return (await devices[0].get()).status == 200 or None
            except (NodeError, PeerUnreachable, OSError):
                return None

        await eventually(served)
        yield found


async def test_a_named_device_answers_and_the_audit_says_who(place: Place):
    waits = await place.waits("look at <b>this</b> \u202e")
    page = await place.phone.get()
    assert "look at &lt;b&gt;this&lt;/b&gt; &lt;U+202E&gt;" in page.text
    assert "default-src 'none'" in page.headers
    assert "set-cookie" not in page.headers.lower()
    stale = await place.phone.post(waits.task_id, {"answer": "approve", "shown": "0" * 64})
    assert (stale.status, "Look again" in stale.text) == (409, True)
    assert (await place.phone.get(f"/{waits.task_id}")).status == 303  # where that page looks again
    yes = {"answer": "approve", "shown": page.shown(waits)}
    done = await place.phone.post(waits.task_id, yes)
    assert (done.status, "/?said=approve" in done.headers) == (303, True)
    assert (await place.builder.ended(waits.task_id)).state is TaskState.SUCCEEDED
    late = await place.phone.post(waits.task_id, {"answer": "deny"})
    assert (late.status, "too late: it is succeeded" in late.text) == (409, True)
    [[program, user, node]] = await place.builder.sql(
        "SELECT a.program, d.data->>'$.user', d.data->>'$.node' FROM approvals a JOIN audit d"
        f" ON d.task_id = a.task_id AND d.kind = 'approval' WHERE a.task_id = '{waits.task_id}'"
    )
    assert (program, user) == (f"approvals page, phone of {ME}", ME)
    assert node.startswith("phone.")


async def test_the_audit_asks_the_kernel_and_not_the_program_who_answered(place: Place):
    waits = await place.waits()
    socket, python = control_socket(place.builder.state), place.builder.command()[0]
    subprocess.run(
        [python, "-c", CLAIMS, str(socket), waits.task_id, "-m", "cmesh", "dashboard"],
        cwd=ROOT,
        env=place.builder.environment(),
        timeout=20,
        check=True,
        **as_user(worker_user()),
    )
    [[answer, program]] = await place.builder.sql(
        f"SELECT answer, program FROM approvals WHERE task_id = '{waits.task_id}'"
    )
    assert (answer, program.startswith("python")) == ("denied", True)


async def test_who_is_not_named_gets_no_answer_at_all(place: Place):
    assert await place.stranger.get() == Answer(0, "", "")
    assert await place.stranger.post("x", {"answer": "approve"}) == Answer(0, "", "")


@pytest.mark.parametrize(
    "host", ["evil.example", f"localhost:{PORT}", f"127.0.0.1:{PORT}", "builder"]
)
async def test_a_name_that_was_made_to_mean_this_node_gets_nothing(place: Place, host: str):
    assert (await place.phone.get(host=host)).status == 421


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", f"https://{HOST}"])
async def test_no_page_of_another_site_presses(place: Place, origin: str):
    waits = await place.waits()
    answer = await place.phone.post(waits.task_id, {"answer": "deny"}, origin)
    assert answer.status == 403
    assert (await place.builder.task(waits.task_id)).state is TaskState.WAITING_APPROVAL


async def test_there_is_no_other_page(place: Place):
    for path in ("/audit", "/policy", "/tasks", "/sign-in", "/static/../guard.py"):
        assert (await place.phone.get(path)).status in {404, 405}


async def test_the_asking_node_never_answers_and_who_is_named_no_more_neither(
    place: Place, testnet: Testnet
):
    waits = await place.waits("the laptop is a device of the named person too")
    yes = {"answer": "approve", "shown": (await place.phone.get()).shown(waits)}
    await place.laptop.stop()
    options = NodeOptions(
        state_dir=place.laptop.state / "node",
        hostname="laptop",
        control_url=testnet.control_url,
        allow_testnet=True,
    )
    async with Node(options) as node:
        await node.up()
        laptop = Device(node)
        page = await laptop.get()
        assert "This device may not answer: it asked for this task itself." in page.text
        assert 'value="approve"' not in page.text
        for word in (yes, {"answer": "deny"}):
            assert (await laptop.post(waits.task_id, word)).status == 403
    assert (await place.builder.task(waits.task_id)).state is TaskState.WAITING_APPROVAL
    rows = await place.builder.sql(
        "SELECT data->>'$.why', data->>'$.user' FROM audit WHERE kind = 'approval_refused'"
    )
    assert ["it asked for this task itself", ME] in rows
    text = place.builder.config_file.read_text("utf-8")
    named = text.replace(f'approvers = ["user:{ME}"]', f'approvers = ["user:{EVE}"]')
    place.builder.config_file.write_text(named, "utf-8")

    async def unheard() -> bool | None:
        return (await place.phone.get()) == Answer(0, "", "") or None

    await eventually(unheard)
    assert (await place.stranger.get()).status == 200
