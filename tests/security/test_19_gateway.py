"""Abuse 19: a task whose model is asked through the gateway never holds, nor leads away, the key."""

import asyncio
from pathlib import Path

import pytest

from cmesh.daemon.arguments import ResultArguments
from cmesh.model import Profile
from cmesh.sandbox.tier import Enforcement
from tests.fakes.api import Asked, api, ok
from tests.security.ground import PYTHON
from tests.system.daemon.conftest import OUTBOUND, MakeMachine
from tests.system.daemon.machine import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system]

KEY = "keyfile-of-the-owner-9f2c71"
END_LIMIT_S = 80.0
ATTACKS = Path(__file__).with_name("gateway_attacks.py")
REFUSED = {"400", "401", "403", "426", "431"}
ALLOWED = {
    "honest": ["200"],
    "forwarded host": ["200"],
    "another method by a header": ["200"],
    "another path by a header": ["200"],
    "a folded host": ["200"],
    "own key beside": ["200"],
    "in a body": ["200"],
    "in a pipeline": ["200", "403"],
    "CONNECT in a pipeline": ["200", "403"],
    "redirect": ["307"],
}
"""What goes on, and is harmless: the gateway makes each head anew."""

RULE = """
[[inbound.allow]]
name = "the laptop may look"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["query"]
runners = ["claude"]
paths = ["{place}"]
"""


async def test_19_behind_the_gateway_the_key_is_nowhere_in_a_task_and_goes_nowhere_else(
    make_machine: MakeMachine, ground: Path, found: Enforcement
) -> None:
    assert found.netns
    agent = ground / "hostile-agent"
    agent.write_text(f"#!{PYTHON}\n{ATTACKS.read_text('utf-8')}", "utf-8")
    agent.chmod(0o755)
    async with api() as model, api() as evil:
        location = f"http://127.0.0.1:{evil.port}/"

        async def play(
            asked: Asked, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]
        ) -> bool:
            if asked.headers.get("anthropic-play") != "redirect":
                return await ok(asked, streams)
            head = f"HTTP/1.1 307 Go\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
            streams[1].write(head.encode())
            await streams[1].drain()
            return True

        model.play = play
        desk = await make_machine("desk-gateway", OUTBOUND)
        vault = await make_machine("vault-gateway")
        place = vault.directory("app")
        (place / "evil").write_text(f"127.0.0.1:{evil.port}", "utf-8")
        await vault.configure(
            f'[runners.claude]\nprogram = "{agent}"\n'
            f'base_url = "http://127.0.0.1:{model.port}/base"\n' + RULE.format(place=place)
        )
        await vault.up()
        status, shown = vault.terminal(
            KEY, "runners", "login", "claude", "--key", after=b"(not shown)"
        )
        assert (status, KEY in shown) == (0, False), shown
        assert KEY not in vault.log_text()
        await desk.up()
        first = await desk.delegate(
            vault.name, "claude", place, prompt=KEY[::-1], profile=Profile.QUERY, wait_s=0
        )
        await vault.trust(desk)
        view = await desk.ended(first.task_id, END_LIMIT_S)
        got = await desk.call("get_result", ResultArguments(task_id=first.task_id, part="output"))
        lines = got["text"].splitlines()
        assert lines[0] == "found []", got
        assert lines[-1] == "the end", got
        said = dict(line.split(":", 1) for line in lines[1:-1])
        statuses = {name: codes.split() for name, codes in said.items()}
        assert {name: codes for name, codes in statuses.items() if name in ALLOWED} == ALLOWED
        for name, codes in statuses.items():
            assert name in ALLOWED or (len(codes) == 1 and codes[0] in REFUSED), (name, codes)
        assert view.credential == "gateway"
        assert view.redacted == 0

        assert not evil.connections
        # The self-test of the same program has a model of its own, and asks nobody here.
        assert len(model.requests) == len(ALLOWED)
        for asked in model.requests:
            assert asked.head.splitlines()[0] == "POST /base/v1/messages HTTP/1.1"
            assert asked.headers["host"] == f"127.0.0.1:{model.port}"
            assert asked.headers["x-api-key"] == KEY
            assert asked.head.count(KEY) == 1
            assert set(asked.headers) <= {"host", "x-api-key", "content-length", "anthropic-play"}

        async def recorded() -> list[list[object]] | None:
            rows = await vault.sql(
                "SELECT verdict, code, host, status FROM connections"
                f" WHERE task_id = '{first.task_id}' AND verdict = 'allowed'"
            )
            return rows if len(rows) == len(ALLOWED) else None

        rows = await eventually(recorded)
        assert {tuple(row[:3]) for row in rows} == {("allowed", "gateway", "127.0.0.1")}
        assert sorted({row[3] for row in rows}, key=str) == [200, 307]
