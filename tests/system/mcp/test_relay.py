"""The relay as a process: an agent's session never needs restarting because the daemon did."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cmesh.interfaces.start import mark_down
from tests.fakes.operations import FIRST_TASK
from tests.system.mcp.support import (
    LIMIT_S,
    MODERN,
    RELAY,
    Daemon,
    MakeRelay,
    environment,
    text_of,
)

pytestmark = [pytest.mark.anyio, pytest.mark.system]

TASK = {"peer": "worker", "prompt": "why?", "directory": "/srv/app"}
RSS_KIB = 15 * 1024
# The daemon holds both ends of its stdin, so it never ends by itself.
START = """
import os, pathlib, subprocess, sys
ends = os.pipe()
daemon = subprocess.Popen(
    sys.argv[2:], stdin=ends[0], stdout=subprocess.PIPE, pass_fds=ends, start_new_session=True
)
pathlib.Path(sys.argv[1]).write_text(str(daemon.pid))
daemon.stdout.readline()
"""
FOREIGN = {"mcp", "mcp_types", "pydantic", "typer", "json", "socket", "typing", "asyncio"}


async def test_tools_are_there_without_a_daemon(make_relay: MakeRelay) -> None:
    relay = await make_relay()
    await relay.begin()
    legacy = await relay.answer("tools/list")
    modern = await relay.answer("tools/list", {"_meta": MODERN})
    discovered = await relay.answer("server/discover", {"_meta": MODERN})
    assert len(legacy["result"]["tools"]) == len(modern["result"]["tools"]) == 13
    assert discovered["result"]["supportedVersions"] == ["2026-07-28"]


async def test_a_call_without_a_daemon_says_why_and_what_to_do(make_relay: MakeRelay) -> None:
    relay = await make_relay(
        "/bin/sh", "-c", """echo '{"error":{"message":"the disk is full"}}'; exit 74"""
    )
    await relay.begin()
    text = await relay.text("list_peers")
    assert text == (
        "daemon_not_running: starting the daemon failed: the disk is full\nNext: run `cmesh up`"
    )


async def test_a_daemon_that_a_person_stopped_is_not_started(
    make_relay: MakeRelay, state: Path
) -> None:
    mark_down(state)
    started = state / "started"
    relay = await make_relay("/bin/sh", "-c", f"touch {started}")
    await relay.begin()
    assert "cmesh down" in await relay.text("list_peers")
    assert not started.exists()


async def test_the_relay_starts_the_daemon_it_needs(make_relay: MakeRelay, state: Path) -> None:
    pid_file = state / "pid"
    relay = await make_relay(sys.executable, "-c", START, str(pid_file), *Daemon.argv)
    await relay.begin()
    status = await relay.text("cmesh_status")
    os.kill(int(pid_file.read_text("utf-8")), signal.SIGKILL)
    assert '"phase":"up"' in status


async def test_a_daemon_that_is_gone_as_soon_as_it_is_started_is_started_again(
    make_relay: MakeRelay, state: Path
) -> None:
    pid_file, once = state / "pid", state / "once"
    script = 'once=$1; shift; [ -e "$once" ] || { : >"$once"; exit 0; }; exec "$@"'
    begin = (sys.executable, "-c", START, str(pid_file), *Daemon.argv)
    relay = await make_relay("/bin/sh", "-c", script, "sh", str(once), *begin)
    await relay.begin()
    status = await relay.text("cmesh_status")
    os.kill(int(pid_file.read_text("utf-8")), signal.SIGKILL)
    assert '"phase":"up"' in status


async def test_a_daemon_that_appears_later_is_found(make_relay: MakeRelay, daemon: Daemon) -> None:
    await daemon.kill()
    relay = await make_relay()
    await relay.begin()
    assert "daemon_not_running" in await relay.text("cmesh_status")
    await daemon.start()
    assert '"phase":"up"' in await relay.text("cmesh_status")


async def test_a_killed_daemon_costs_the_open_call_and_nothing_else(
    make_relay: MakeRelay, daemon: Daemon, state: Path
) -> None:
    relay = await make_relay("/bin/sh", "-c", f"until [ -e {state}/go ]; do sleep 0.1; done")
    await relay.begin()
    await relay.text("delegate", **TASK, wait_s=0)
    waiting = relay.call("get_task", task_id=FIRST_TASK, wait_s=40)
    await relay.text("cmesh_status")
    await daemon.kill()
    async with asyncio.timeout(LIMIT_S):
        text = text_of(await waiting)
    assert text.startswith("daemon_restarted: ")
    assert f'Next: get_task(task_id="{FIRST_TASK}", wait_s=40)' in text
    held = relay.call("cmesh_status")
    await daemon.start()
    (state / "go").touch()
    async with asyncio.timeout(LIMIT_S):
        assert '"phase":"up"' in text_of(await held)


async def test_a_delegate_cut_off_by_a_restart_is_repeated_with_its_key(
    make_relay: MakeRelay, daemon: Daemon
) -> None:
    relay = await make_relay()
    await relay.begin()
    waiting = relay.call("delegate", **TASK, wait_s=40)
    await relay.text("list_tasks")
    await daemon.kill()
    async with asyncio.timeout(LIMIT_S):
        text = text_of(await waiting)
    assert "daemon_restarted" in text
    assert 'idempotency_key="auto-' in text


async def test_subscriptions_outlive_the_daemon(make_relay: MakeRelay, daemon: Daemon) -> None:
    relay = await make_relay()
    await relay.begin()
    await relay.text("delegate", **TASK, wait_s=0)
    uri = f"cmesh://tasks/{FIRST_TASK}"
    assert (await relay.answer("resources/subscribe", {"uri": uri}))["result"] == {}
    await daemon.do("start", task_id=FIRST_TASK)
    async with asyncio.timeout(LIMIT_S):
        assert (await relay.notifications.get())["params"]["uri"] == uri
    await daemon.kill()
    # The fake forgets; its successor begins with a task of the same id.
    await daemon.start("task")
    await relay.text("cmesh_status")
    await daemon.do("start", task_id=FIRST_TASK)
    async with asyncio.timeout(LIMIT_S):
        assert (await relay.notifications.get())["params"]["uri"] == uri


async def test_a_modern_client_works_without_a_handshake(
    make_relay: MakeRelay, daemon: Daemon
) -> None:
    relay = await make_relay()
    call = {"name": "cmesh_status", "arguments": {}, "_meta": MODERN}
    first = await relay.answer("tools/call", call)
    assert first["result"]["structuredContent"]["phase"] == "up"
    await daemon.kill()
    await daemon.start()
    again = await relay.answer("tools/call", call)
    assert again["result"]["resultType"] == "complete"


async def test_two_agents_share_the_daemon_and_one_may_die(
    make_relay: MakeRelay, daemon: Daemon
) -> None:
    one, other = await make_relay(), await make_relay()
    await one.begin()
    await other.begin()
    await one.text("delegate", **TASK, wait_s=0)
    one.call("get_task", task_id=FIRST_TASK, wait_s=40)
    await one.text("cmesh_status")
    one.process.kill()
    assert FIRST_TASK in await other.text("list_tasks", mine=False)
    assert FIRST_TASK not in await other.text("list_tasks")


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_a_line_of_twenty_megabytes_is_refused(make_relay: MakeRelay, end: bytes) -> None:
    relay = await make_relay()
    await relay.begin()
    relay.write(b'{"x":"' + b"y" * 20_000_000 + b'"}' + end)
    async with asyncio.timeout(LIMIT_S):
        refusal = await relay.refusals.get()
        assert await relay.process.wait() == 1
    assert refusal["error"]["code"] == -32600


async def test_bad_lines_are_refused_and_the_session_goes_on(make_relay: MakeRelay) -> None:
    relay = await make_relay()
    relay.write(b"{bad\n\xff\n[]\n")
    async with asyncio.timeout(LIMIT_S):
        codes = [(await relay.refusals.get())["error"]["code"] for _ in range(3)]
    assert codes == [-32700, -32700, -32600]
    await relay.begin()


async def test_the_end_of_stdin_is_the_end(make_relay: MakeRelay, daemon: Daemon) -> None:
    relay = await make_relay()
    await relay.begin()
    await relay.text("cmesh_status")
    assert await relay.end() == 0


async def test_a_termination_signal_ends_it_at_once(make_relay: MakeRelay) -> None:
    relay = await make_relay()
    await relay.begin()
    relay.process.terminate()
    async with asyncio.timeout(LIMIT_S):
        assert await relay.process.wait() == -signal.SIGTERM


async def test_a_relay_is_small(make_relay: MakeRelay, daemon: Daemon) -> None:
    relay = await make_relay()
    await relay.begin()
    await relay.answer("tools/list")
    await relay.text("list_peers")
    status = Path(f"/proc/{relay.process.pid}/status").read_text("utf-8")
    (rss,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    assert int(rss) < RSS_KIB


def test_the_script_runs_alone_and_loads_nothing_heavy(state: Path) -> None:
    mark_down(state)  # the script would start a real daemon
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a"}}
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", RELAY],
        input=line + "\n", capture_output=True, text=True, env=environment(state), timeout=LIMIT_S,
        check=True,
    )  # fmt: skip
    loaded = {row.rsplit("|", 1)[-1].strip() for row in done.stderr.splitlines()}
    assert "cmesh.interfaces.mcp.relay_loop" in loaded
    assert not FOREIGN & loaded
    assert json.loads(done.stdout)["result"]["serverInfo"]["name"] == "cmesh"
