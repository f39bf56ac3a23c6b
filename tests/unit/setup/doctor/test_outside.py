"""What the doctor hears from a control server, by which way, and from a login shell."""

import os
import pwd
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import Mock

import pytest
from typing_extensions import override

from cmesh.setup.doctor import outside
from cmesh.setup.doctor.outside import control_fact, shell_programs
from tests.unit.store.support import FixedClock

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def at() -> FixedClock:
    clock = FixedClock()
    clock.time = NOW
    return clock


NOBODY = "http://127.0.0.1:9"


class Server(BaseHTTPRequestHandler):
    status, date = 200, "Sun, 29 Nov 2026 11:59:00 GMT"

    def do_GET(self) -> None:
        self.send_response_only(self.status)
        if self.date:
            self.send_header("Date", self.date)
        self.end_headers()

    @override
    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), Server) as serving:
        thread = Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "date", "offset"),
    [
        (200, "Sun, 29 Nov 2026 11:59:00 GMT", 60.0),
        (404, "Sun, 29 Nov 2026 12:00:30 GMT", -30.0),
        (200, "", None),
        (200, "yesterday", None),
    ],
)
def test_whatever_answers_is_reached_and_its_time_compared(
    server: str, monkeypatch: pytest.MonkeyPatch, status: int, date: str, offset: float | None
) -> None:
    monkeypatch.setattr(Server, "status", status)
    monkeypatch.setattr(Server, "date", date)
    fact = control_fact(server, at())
    assert (fact.reached, fact.proxy, fact.offset_s) == (True, False, offset)


def test_no_answer_says_why(server: str) -> None:
    del server  # its fixture takes the proxies away
    fact = control_fact(NOBODY, at())
    assert not fact.reached
    assert "refused" in fact.problem


def test_an_answer_by_the_proxy_only_is_told_apart(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.delenv("no_proxy", raising=False)
    fact = control_fact("http://control.invalid", at())
    assert (fact.reached, fact.proxy) == (True, True)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what makes a script the user's login shell."""
    before = pwd.getpwuid(os.getuid())

    def use(script: str) -> None:
        path = tmp_path / "shell"
        path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        path.chmod(0o755)
        fields = list(before)
        fields[6] = str(path)
        monkeypatch.setattr(outside.pwd, "getpwuid", Mock(return_value=pwd.struct_passwd(fields)))

    return use


def test_programs_are_those_of_the_shell_that_a_person_gets(
    tmp_path: Path, shell: Callable[[str], None]
) -> None:
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.touch(mode=stat.S_IRWXU)
    shell(f'echo "hello from a profile"\nPATH="{program.parent}:$PATH"\nexec /bin/sh -c "$2"')
    wanted = {"claude": "claude", "codex": "no-such-codex"}
    assert shell_programs(wanted) == {"claude": str(program), "codex": ""}


def test_a_shell_that_is_not_interactive_is_asked_again(
    tmp_path: Path, shell: Callable[[str], None]
) -> None:
    program = tmp_path / "claude"
    program.touch(mode=stat.S_IRWXU)
    shell(f'[ "$1" = -lc ] || exit 1\nPATH="{tmp_path}"\nexec /bin/sh -c "$2"')
    assert shell_programs({"claude": "claude"}) == {"claude": str(program)}


def test_a_shell_that_hangs_or_fails_finds_nothing(
    shell: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "SHELL_LIMIT_S", 0.1)
    shell("sleep 60 & wait")
    assert shell_programs({"claude": "claude"}) == {"claude": ""}
