"""`cmesh dashboard` as a process: its link, the browser it opens, how it ends."""

import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import pytest

from cmesh.daemon.approval import DASHBOARD, answering
from cmesh.errors import UsageError
from tests.fakes.daemon import ROOT, DaemonProcess

LIMIT_S = 20.0
DESCRIPTORS = 128
LINK = re.compile(r"http://127\.0\.0\.1:(\d+)/sign-in#([\w-]+)")


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="cm-") as directory:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CMESH_STATE_DIR": f"{directory}/s",
            "CMESH_CONFIG_DIR": f"{directory}/c",
        }
        with DaemonProcess(environment):
            yield environment


def start(
    environment: dict[str, str], *more: str, stdin: int, within: Sequence[str] = ()
) -> "subprocess.Popen[str]":
    command = [*within, sys.executable, "-W", "error", "-m", "cmesh", "dashboard", *more]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def document(process: "subprocess.Popen[str]") -> dict[str, object]:
    assert process.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        line = process.stdout.readline()
        assert line
        text += line
    return json.loads(text)


def enter(link: str) -> httpx2.Response:
    """Use a link up as a browser does."""
    origin, _slash, code = link.partition("/sign-in#")
    return httpx2.post(f"{origin}/sign-in", data={"code": code}, headers={"Origin": origin})


def test_the_browser_is_led_by_a_file_and_no_argument_tells_the_code(
    environment: dict[str, str], tmp_path: Path
):
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" >"{seen}.new"; mv "{seen}.new" "{seen}"\n')
    browser.chmod(0o755)
    with start(
        {**environment, "BROWSER": f"{browser} %s"}, "--json", stdin=subprocess.DEVNULL
    ) as process:
        told = document(process)
        while not seen.exists():
            assert process.poll() is None
        url = seen.read_text("utf-8")
        assert url.startswith("file://")
        door = Path(url.removeprefix("file://"))
        assert stat.S_IMODE(door.stat().st_mode) == 0o600
        found = LINK.search(door.read_text("utf-8"))
        assert found is not None
        assert found[2] not in url
        assert found[2] not in str(told["url"])
        assert found[1] == str(told["port"])
        assert enter(found[0]).status_code == 303
        process.send_signal(signal.SIGTERM)
        assert (process.wait(LIMIT_S), process.stderr and process.stderr.read()) == (0, "")
        assert not door.exists()


def test_enter_prints_another_link_and_ctrl_c_ends_it(environment: dict[str, str]):
    ours, theirs = pty.openpty()
    with (
        os.fdopen(ours, "wb", buffering=0) as keys,
        start(environment, "--no-open", stdin=theirs) as process,
    ):
        os.close(theirs)
        assert process.stdout is not None
        first = process.stdout.readline().strip()
        keys.write(b"\n")
        second = process.stdout.readline().strip()
        assert LINK.fullmatch(first)
        assert LINK.fullmatch(second)
        assert first != second
        assert [enter(link).status_code for link in (first, second, first)] == [303, 303, 403]
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0


def test_the_daemon_sees_that_it_is_the_dashboard_and_not_who_dresses_as_it(
    environment: dict[str, str], tmp_path: Path
):
    launcher = tmp_path / "cmesh"
    launcher.write_text("input()\n")
    launched = ["-m", "cmesh", "dashboard", "--no-open", "--json"]
    others = (["-c", "input()", *launched], [str(launcher), *launched[2:]])
    assert answering(os.getpid()) != DASHBOARD
    for words, said in ((launched, True), (others[0], False), (others[1], False)):
        with subprocess.Popen(
            [sys.executable, *words], env=environment, cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            if said:
                document(process)
            assert (answering(process.pid) == DASHBOARD) is said, words
            process.kill()


def test_connections_that_ask_nothing_keep_nobody_out(environment: dict[str, str]):
    few = ("/bin/sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh")
    with start(environment, "--no-open", "--json", stdin=subprocess.DEVNULL, within=few) as process:
        told = document(process)
        address = ("127.0.0.1", int(str(told["port"])))
        idle = [socket.create_connection(address, LIMIT_S) for _ in range(2 * DESCRIPTORS)]
        assert enter(str(told["url"])).status_code == 303
        process.send_signal(signal.SIGTERM)
        assert (process.wait(LIMIT_S), process.stderr and process.stderr.read()) == (0, "")
        for connection in idle:
            connection.close()


def test_a_port_that_is_taken_is_said(environment: dict[str, str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = start(environment, "--no-open", "--port", port, stdin=subprocess.DEVNULL)
        _out, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == UsageError.exit_status
    assert f"port {port} cannot be had" in said
    assert "leave --port out" in said
