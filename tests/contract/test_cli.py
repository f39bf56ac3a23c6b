"""The command line's promises: help, one JSON document, exit statuses, where text goes."""

import csv
import io
import json
import logging
import os
import pty
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import typer.main

from cmesh import __version__
from cmesh.daemon.answers import KeepsView, SqlView
from cmesh.errors import CmeshError, DiskFull, UsageError
from cmesh.interfaces import start
from cmesh.interfaces.cli import rows, session
from cmesh.interfaces.cli.app import app, main
from cmesh.interfaces.cli.exits import TASK_EXITS
from cmesh.model import ENDED, TERMINAL, TaskState
from cmesh.paths import key_file, state_dir
from tests.fakes.daemon import DaemonProcess, DaemonThread
from tests.fakes.operations import FIRST_TASK

ROOT = Path(__file__).parents[2]
LIMIT_S = 20.0
TASK = ["delegate", "worker", "look", "-C", "/srv/app", "--runner", "command:check"]
CONFIG = """
[[inbound.allow]]
name = "looks"
peers = ["node:nABC", "tag:laptop"]
operations = ["task", "accept"]
profiles = ["query"]
runners = ["claude"]
paths = ["/srv"]
accept = ["make 'a b'"]
limits = { runtime = "15m" }
"""
EVIL = "plain\x1b]0;title\x07 \x1b[31mred\u202e"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="cm-") as directory:
        for name in ("STATE", "CONFIG"):
            monkeypatch.setenv(f"CMESH_{name}_DIR", f"{directory}/{name.lower()}")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("COLUMNS", "200")
        yield dict(os.environ)


@pytest.fixture
def process(environment: dict[str, str]) -> Iterator[DaemonProcess]:
    with DaemonProcess(environment) as running:
        yield running


@pytest.fixture
def daemon(environment: dict[str, str]) -> Iterator[DaemonThread]:
    del environment
    with DaemonThread() as running:
        yield running


@pytest.fixture
def no_start(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record the starts that commands ask for, and refuse them."""
    asked: list[Path] = []

    def refuse(state: Path, _config: Path) -> None:
        asked.append(state)
        raise DiskFull("no room to start")

    monkeypatch.setattr(session, "ensure_daemon", refuse)
    return asked


class Cli:
    """A real `cmesh` process."""

    def __init__(self, *arguments: str, stderr: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "cmesh", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def until(self, text: str) -> str:
        """Return the next line on stderr that has `text` in it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if text in line:
                return line
        raise AssertionError(f"stderr ended without {text!r}")

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out, err or ""


def commands() -> list[tuple[str, Any]]:
    def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        if command.callback is not None and path:
            yield path, command
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, f"{path} {name}".strip())

    return list(walk(typer.main.get_command(app), ""))


def test_the_commands_of_this_release_are_all_there():
    names = {path.split()[0] for path, _command in commands()}
    wanted = (
        "demo setup confirm up down status login peers pair delegate reply wait tasks show logs watch result apply cancel approve "
        "deny release sql audit policy runners doctor service schema mcp dashboard uninstall version"
    )
    assert names == set(wanted.split())


@pytest.mark.parametrize("path", [path for path, _command in commands()])
def test_every_command_has_a_help_page_and_json(path: str, capsys: pytest.CaptureFixture[str]):
    command = dict(commands())[path]
    assert main([*path.split(), "--help"]) == 0
    page = capsys.readouterr().out
    assert command.help
    assert all(p.help for p in command.params)
    assert "--json" in page or path == "mcp"


def test_the_reference_page_is_current():
    check = [sys.executable, "scripts/gen_docs.py", "--check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(check, check=False, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_every_end_of_a_task_has_its_own_exit_status():
    statuses = [TASK_EXITS[state] for state in ENDED]
    assert len(set(statuses)) == len(ENDED)
    taken = {cls.exit_status: cls for cls in _errors(CmeshError)}
    shared = {s for s in TASK_EXITS.values() if s in taken}
    assert shared == {30, 40}


def _errors(cls: type[CmeshError]) -> list[type[CmeshError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _errors(sub))]


def test_a_finished_task_prints_its_result_on_stdout_and_the_rest_on_stderr(
    process: DaemonProcess,
):
    cli = Cli(*TASK)
    assert cli.until("task ") == f"task {FIRST_TASK}\n"  # at once, whatever becomes of the caller
    cli.until("queued on worker")
    process.order("start", task_id=FIRST_TASK)
    cli.until("running on worker")
    process.order("emit", task_id=FIRST_TASK, kind="tool_call", text=f"grep {EVIL}")
    line = cli.until("tool_call")
    assert "\x1b" not in line
    process.order("finish", task_id=FIRST_TASK, state="succeeded", text=f"found: {EVIL}")
    status, out, err = cli.end()
    hint = f"hint: cmesh reply {FIRST_TASK} PROMPT"
    assert (status, err.splitlines()) == (0, ["succeeded on worker", hint])
    assert out == "found: plain]0;title [31mred\n"


def test_logs_print_what_a_task_did_and_follow_it_to_its_end(process: DaemonProcess):
    Cli(*TASK, "--no-wait").end()
    process.order("start", task_id=FIRST_TASK)
    call = {"tool": "Bash", "command": f"make {EVIL}", "arguments": "{}"}
    process.order("emit", task_id=FIRST_TASK, kind="tool_call", text="Bash", data=call)
    failed = {"command": "make", "is_error": True, "exit_code": 2}
    process.order("emit", task_id=FIRST_TASK, kind="tool_result", text="no rule", data=failed)
    status, out, err = Cli("logs", FIRST_TASK).end()
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    lines = [line.strip().split("  ") for line in out.splitlines()]
    assert [line[0] for line in lines] == ["1", "2"]
    assert lines[0][2:] == ["tool_call", "Bash: make plain]0;title [31mred"]
    assert lines[1][2:] == ["tool_result", "exit 2: no rule"]
    cli = Cli("logs", FIRST_TASK, "-f", "--json", "--after", "1")
    assert cli.process.stdout is not None
    assert json.loads(cli.process.stdout.readline())["data"] == failed
    again = {"attempt": 1, "max_retries": 4}
    process.order("emit", task_id=FIRST_TASK, kind="retry", text="overloaded", data=again)
    assert json.loads(cli.process.stdout.readline())["seq"] == 3
    process.order("finish", task_id=FIRST_TASK, state="failed", text="half")
    status, out, err = cli.end()
    assert (status, out, err) == (0, "", "")
    last = Cli("logs", FIRST_TASK, "--after", "2").end()[1]
    assert last.rstrip().endswith("retry  overloaded (try 1 of 4)")


def test_watch_prints_a_line_for_each_change_and_none_twice(process: DaemonProcess):
    Cli(*TASK, "--no-wait").end()
    process.order("emit", task_id=FIRST_TASK, kind="text", text="before")
    told, read = Cli("watch", "--json"), Cli("watch", "worker")
    assert told.process.stdout is not None
    assert read.process.stdout is not None
    first = json.loads(told.process.stdout.readline())
    assert (first["change"], first["task_id"], first["state"]) == ("task", FIRST_TASK, "queued")
    assert "queued" in read.process.stdout.readline()
    process.order("start", task_id=FIRST_TASK)
    assert json.loads(told.process.stdout.readline())["was"] == "queued"
    process.order("emit", task_id=FIRST_TASK, kind="text", text=EVIL)
    line = told.process.stdout.readline()
    assert json.loads(line)["event"]["text"] == EVIL
    assert line.isascii()
    assert "\x1b" not in line
    process.order("finish", task_id=FIRST_TASK, state="succeeded", text="done")
    assert json.loads(told.process.stdout.readline())["task"]["summary"] == "done"
    process.kill()
    with DaemonProcess(dict(os.environ)) as again:
        assert "waiting for the daemon" in told.until("waiting for")
        assert "is back" in told.until("is back")
        Cli(*TASK, "--no-wait").end()
        again.order("start", task_id=FIRST_TASK)
        told.process.send_signal(signal.SIGINT)
        read.process.send_signal(signal.SIGINT)
        status, out, _err = told.end()
        assert status == 130
        assert {json.loads(one)["change"] for one in out.splitlines()} <= {"task", "state"}
        status, out, _err = read.end()
    assert status == 130
    assert "\x1b" not in out
    said = [line.split("  ")[-1] for line in out.splitlines()]
    assert said[:3] == [
        "running (was queued)",
        "text: plain<U+001B>]0;title<U+0007> <U+001B>[31mred<U+202E>",
        "succeeded (was running)",
    ]


def test_a_task_without_events_is_told_as_such(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    assert main([*TASK, "--no-wait"]) == 0
    daemon.order("finish", task_id=FIRST_TASK, state="cancelled", text="")
    capsys.readouterr()
    assert main(["logs", FIRST_TASK]) == 0
    seen = capsys.readouterr()
    assert seen.out == ""
    assert f"no events: task {FIRST_TASK} is cancelled" in seen.err
    assert f"hint: cmesh show {FIRST_TASK}" in seen.err


def test_a_patch_on_standard_output_is_no_json(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    assert main([*TASK, "--no-wait"]) == 0
    status = main(["result", FIRST_TASK, "--patch", "-", "--json"])
    assert status == UsageError.exit_status
    assert "leave out --json" in "".join(capsys.readouterr())


@pytest.mark.parametrize("state", sorted(TERMINAL - {TaskState.SUCCEEDED, TaskState.DENIED}))
def test_wait_exits_with_how_the_task_ended(
    daemon: DaemonThread, state: TaskState, capsys: pytest.CaptureFixture[str]
):
    assert main([*TASK, "--no-wait"]) == 0
    assert capsys.readouterr().out == FIRST_TASK + "\n"
    daemon.order("finish", task_id=FIRST_TASK, state=state.value, text="half")
    assert main(["wait", FIRST_TASK]) == TASK_EXITS[state]
    seen = capsys.readouterr()
    assert seen.out == "half\n"
    assert f"hint: cmesh show {FIRST_TASK}" in seen.err


def test_a_task_that_asks_back_has_ended_and_is_not_done(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    assert main([*TASK, "--no-wait"]) == 0
    daemon.order("finish", task_id=FIRST_TASK, state="succeeded", text="CMESH-QUESTION: which?")
    capsys.readouterr()
    assert main(["wait", FIRST_TASK]) == 66
    seen = capsys.readouterr()
    assert seen.out == "CMESH-QUESTION: which?\n"
    assert "it asks back: which?" in seen.err
    assert f"hint: cmesh reply {FIRST_TASK} ANSWER" in seen.err
    assert main(["tasks", "--state", "open"]) == 0
    assert "waiting_input" in capsys.readouterr().out
    assert main(["cancel", FIRST_TASK]) == 43
    assert "already ended with a question" in capsys.readouterr().err


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("waiting", ["--wait", "--no-wait"])
def test_a_refused_task_is_an_answer_with_the_status_of_a_denial(
    waiting: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["delegate", "worker", "look", "-C", "/etc", "--json", waiting]) == 30
    view = json.loads(capsys.readouterr().out)
    assert (view["state"], view["code"]) == ("denied", "policy_denied")


def test_ctrl_c_leaves_the_task_alone_and_says_how_to_come_back(process: DaemonProcess):
    cli = Cli(*TASK)
    cli.until("queued on worker")
    cli.process.send_signal(signal.SIGINT)
    status, out, err = cli.end()
    assert (status, out) == (130, "")
    hint = f"cmesh wait {FIRST_TASK}, or cmesh logs -f {FIRST_TASK}, or cmesh cancel {FIRST_TASK}"
    assert hint in err
    assert "Traceback" not in err
    process.order("finish", task_id=FIRST_TASK, state="succeeded", text="done anyway")
    assert "cancel_task" not in process.order("calls")["calls"]
    assert main(["wait", FIRST_TASK]) == 0


def test_ctrl_c_with_json_still_prints_one_document(process: DaemonProcess):
    cli = Cli(*TASK, "--json")
    # Silent in a pipe, so the fake's log of calls tells when it waits.
    while "get_task" not in process.order("calls")["calls"]:
        pass
    cli.process.send_signal(signal.SIGINT)
    status, out, _err = cli.end()
    assert (status, json.loads(out)["state"]) == (130, "queued")


def test_on_a_terminal_progress_is_drawn_and_the_result_stays_clean(process: DaemonProcess):
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        cli = Cli(*TASK, stderr=theirs)
        os.close(theirs)
        seen = b""
        while b"queued on worker" not in seen:
            seen += screen.read(4096)
        process.order("finish", task_id=FIRST_TASK, state="succeeded", text="all well")
        assert cli.end()[:2] == (0, "all well\n")


def test_on_a_terminal_the_line_has_the_last_call_and_the_cost_and_ctrl_c_says_how_to_go_on(
    process: DaemonProcess, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TERM", "xterm-256color")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        cli = Cli(*TASK, stderr=theirs)
        os.close(theirs)
        _read_until(screen, b"queued on worker")
        process.order("start", task_id=FIRST_TASK)
        call = {"command": "make \x1b[31m"}
        process.order("emit", task_id=FIRST_TASK, kind="tool_call", text="Bash", data=call)
        cost = {"cost_usd": 0.25, "tokens_in": 3, "tokens_out": 4}
        process.order("emit", task_id=FIRST_TASK, kind="cost", text="0.25 USD", data=cost)
        process.order("emit", task_id=FIRST_TASK, kind="text", text="thinking")
        seen = _read_until(screen, b"$0.25")
        assert b"\x1b[31m" not in seen.replace(b"\x1b[32m", b"")
        _read_until(screen, b"tool_call: Bash: make <U+001B>[31m")
        cli.process.send_signal(signal.SIGINT)
        rest = _read_until(screen, b"or cmesh cancel")
        status, out, _err = cli.end()
    assert (status, out) == (130, "")
    assert b"the task is running and goes on" in rest
    assert rest.index(b"\x1b[?25h") < rest.index(b"no longer waiting")  # the cursor is back


def test_logs_that_follow_at_a_terminal_print_whole_lines_and_leave_none_of_the_live_one(
    process: DaemonProcess, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TERM", "xterm-256color")
    Cli(*TASK, "--no-wait").end()
    process.order("start", task_id=FIRST_TASK)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        command = [sys.executable, "-m", "cmesh", "logs", "-f", FIRST_TASK]
        cli = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        _read_until(screen, b"running on worker")
        process.order("emit", task_id=FIRST_TASK, kind="text", text="first words")
        seen = _read_until(screen, b"text  first words\r\n")
        line = seen.rpartition(b"\x1b[2K")[2]
        assert line.lstrip(b"\r").startswith(b"    1  ")
        cli.send_signal(signal.SIGINT)
        rest = _read_until(screen, b"--after 1\r\n")
        assert b"no longer following; the task is running and goes on" in rest
        assert cli.wait(LIMIT_S) == 130


def _read_until(screen: io.FileIO, text: bytes) -> bytes:
    """Return what comes on a terminal, up to a text and what came with it."""
    seen = b""
    while text not in seen:
        seen += screen.read(4096)
    return seen


def test_a_daemon_that_went_away_is_started_and_asked_again(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    with DaemonProcess(environment) as first, ExitStack() as later:

        def start(_state: Path, _config: Path) -> None:
            later.enter_context(DaemonProcess(environment))

        def kill_when_asked() -> None:
            while "get_task" not in first.order("calls")["calls"]:
                pass
            first.kill()

        monkeypatch.setattr(session, "ensure_daemon", start)
        killer = Thread(target=kill_when_asked)
        killer.start()
        # The fake forgets its tasks, so the second daemon's answer is told from the first's.
        assert main(TASK) == 41
        killer.join()
    assert "the daemon restarted; asking again" in capsys.readouterr().err


def test_each_call_is_a_task_of_its_own_unless_it_has_the_key_of_another(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    keys: list[str] = []
    for extra in ([], [], ["--key", "k1"], ["--key", "k1"]):
        main([*TASK, "--no-wait", *extra])
        keys.append(daemon.order("calls")["last"]["arguments"]["idempotency_key"])
    assert len(set(keys)) == 3
    ids = capsys.readouterr().out.split()
    assert len(set(ids)) == 3
    assert ids[2] == ids[3]
    assert daemon.order("calls")["last"]["context"]["session"] == "cli"
    assert main([*TASK, "--new"]) == 2


def test_several_peers_get_a_task_each_and_are_printed_side_by_side(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    asked = ["delegate", "worker:/srv/app,gone", "look", "--no-wait"]
    assert main(asked) == 0
    said = capsys.readouterr()
    group = said.out.strip()
    assert group.startswith("g-")
    assert "gone was given no task [peer_unreachable]" in said.err
    both = ["--peer", "worker", "--peer", "gone"]
    assert main(["delegate", *both, "look", "-C", "/srv", "--no-wait"]) == 0
    assert (
        main(["delegate", "--where", "os=linux", "--all", "look", "-C", "/srv", "--no-wait"]) == 0
    )
    daemon.order("finish", task_id=FIRST_TASK, state="succeeded", text="done")
    capsys.readouterr()
    main(["show", group])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("PEER\tSTATE")
    assert any(line.startswith("worker\tsucceeded") for line in lines)
    assert any(line.startswith("gone\trefused\tpeer_unreachable") for line in lines)
    assert main(["cancel", group]) == 0
    assert main(["delegate", "worker", "look"]) == 2
    assert "`--directory` is missing" in capsys.readouterr().err
    assert main(["delegate", "worker", "look", "-C", "srv"]) == 2
    assert "`--directory` is not absolute" in capsys.readouterr().err
    main(["delegate", "worker", "look", "-C", r"C:\srv"])
    assert r"no rule allows path `C:\srv`" in capsys.readouterr().err  # the worker has judged it


def test_a_reply_goes_to_a_finished_task_and_prints_the_new_id(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    main([*TASK, "--no-wait"])
    assert main(["reply", FIRST_TASK, "and then?", "--no-wait"]) == 43
    daemon.order("finish", task_id=FIRST_TASK, state="succeeded", text="done")
    capsys.readouterr()
    assert main(["reply", FIRST_TASK, "and then?", "--no-wait", "--timeout", "5m"]) == 0
    task_id = capsys.readouterr().out.strip()
    arguments = daemon.order("calls")["last"]["arguments"]
    assert (arguments["prompt"], arguments["timeout_s"]) == ("and then?", 300)
    assert arguments["idempotency_key"].startswith("cli-")
    main(["show", task_id])
    assert f"2 of thread {FIRST_TASK}" in capsys.readouterr().out


def test_options_of_delegate_arrive_as_the_operation_wants_them(daemon: DaemonThread):
    options = ["--accept", "make 'a b'", "--timeout", "2h", "--key", "k1", "--profile", "full"]
    main([*TASK, "--no-wait", *options])
    arguments = daemon.order("calls")["last"]["arguments"]
    assert arguments["accept"] == ["make", "a b"]
    assert (arguments["timeout_s"], arguments["idempotency_key"]) == (7200, "k1")
    assert arguments["profile"] == "full"


@pytest.mark.usefixtures("daemon")
def test_schema_tells_of_one_view_and_knows_a_misspelt_one(capsys: pytest.CaptureFixture[str]):
    assert main(["schema", "decisions"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split("\t") == ["view", "column", "type", "means"]
    assert row.split("\t") == ["decisions", "effect", "VARCHAR", "allow, ask or deny"]
    assert main(["schema", "decision"]) == UsageError.exit_status
    assert "did you mean `decisions`?" in capsys.readouterr().err


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["status"], {"phase", "problems", "version"}),
        (["peers"], {"peers"}),
        (["peers", "trust", "worker", "--fingerprint", "cd34"], {"name", "trust"}),
        (["tasks", "--state", "open", "--mine"], {"tasks", "more"}),
        (["show", FIRST_TASK[:-1]], {"task_id", "witness", "rule", "known_s"}),
        (["cancel", FIRST_TASK], {"task_id", "state"}),
        (["sql", "SELECT 1"], {"columns", "rows", "truncated"}),
        (["schema"], {"views", "means"}),
        (["policy", "explain", "worker", "-C", "/srv"], {"effect", "rule"}),
        (["runners", "list"], {"runners"}),
        (["runners", "show", "claude"], {"name", "argv", "self_test"}),
        (["runners", "check", "claude"], {"runners"}),
        (["login"], {"phase"}),
        (["version"], {"cmesh", "tailscale", "link", "control"}),
    ],
)
def test_json_is_exactly_one_document_of_the_view(
    words: list[str], keys: set[str], capsys: pytest.CaptureFixture[str]
):
    main([*TASK, "--no-wait"])
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert keys <= set(document)


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["delegate", "wroker", "look", "-C", "/srv"], 24, "unknown_peer"),
        (["delegate", "gone", "look", "-C", "/srv"], 22, "peer_unreachable"),
        (["show", "0123abcd"], 41, "task_not_found"),
        (["show", "NOT AN ID"], 2, "bad_arguments"),
        (["tasks", "--state", "asleep"], 2, "bad_arguments"),
        (["tasks", "--limit", "many"], 2, "bad_arguments"),
        (["sql", "SELECT 1", "--format", "xml"], 2, "bad_arguments"),
        (["delegate", "worker"], 2, "bad_arguments"),
        (["delegate", "worker", "x", "-C", "/srv", "--timeout", "soon"], 2, "bad_arguments"),
        (["delegate", "worker", "x", "-C", "/srv", "--accept", "a 'b"], 2, "bad_arguments"),
        (["runners", "show", "cluade"], 51, "runner_unavailable"),
        (["runners", "new", "MyAgent"], 2, "bad_arguments"),
        (["runners", "new", "mine", "--program", "a\nb"], 2, "bad_arguments"),
        (["nonsense"], 2, "bad_arguments"),
        (["policy"], 2, "bad_arguments"),
    ],
)
def test_an_error_is_two_lines_or_one_json_document(
    words: list[str], status: int, code: str, capsys: pytest.CaptureFixture[str]
):
    assert main(words) == status
    seen = capsys.readouterr()
    lines = seen.err.splitlines()
    assert seen.out == ""
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert not lines[0].endswith(".")
    assert main([*words, "--json"]) == status
    seen = capsys.readouterr()
    document = json.loads(seen.out)
    assert set(document["error"]) == {"code", "message", "hint"}
    assert document["error"]["code"] == code


@pytest.mark.usefixtures("environment")
def test_commands_start_the_daemon_but_looking_and_stopping_do_not(
    no_start: list[Path], capsys: pytest.CaptureFixture[str]
):
    assert main(["status"]) == 81
    assert "cmesh up" in capsys.readouterr().err
    assert main(["down"]) == 0
    assert no_start == []
    assert main(["runners", "login", "claud", "--key"]) == 51
    assert "did you mean `claude`?" in capsys.readouterr().err
    assert no_start == []
    assert main(["peers"]) == 74
    assert len(no_start) == 1


def test_down_stops_the_daemon_and_later_commands_leave_it_so(
    process: DaemonProcess, capsys: pytest.CaptureFixture[str]
):
    assert main(["down", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["phase"] == "down"
    assert main(["tasks", "--json"]) == 81
    assert json.loads(capsys.readouterr().out)["error"]["hint"] == "run `cmesh up`"
    process.kill()


def test_problems_are_shown_with_their_next_step(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    problem = {"code": "login_required", "what": "no login", "next": "run `cmesh login`"}
    daemon.order("status", problems=[problem], login_url="javascript:alert(1)")
    assert main(["status"]) == 0
    seen = capsys.readouterr()
    assert seen.err.splitlines() == [
        "problem: no login [login_required]",
        "hint: run `cmesh login`",
    ]
    assert "javascript" not in seen.out


@pytest.mark.usefixtures("daemon")
def test_a_key_is_kept_for_its_owner_alone_and_said_nowhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    place = key_file(state_dir(), "claude")
    for line in ("sk-one\n", "  sk-two\n"):  # the second takes the place of the first
        monkeypatch.setattr("sys.stdin", io.StringIO(line))
        assert main(["runners", "login", "claude", "--key"]) == 0
        assert place.read_text() == f"{line.strip()}\n"
        assert (place.stat().st_mode & 0o777, place.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    for bad in ("", "two words", "sk\u00e9", "x" * 5000):
        monkeypatch.setattr("sys.stdin", io.StringIO(bad))
        assert main(["runners", "login", "claude", "--key"]) == 2
        said = capsys.readouterr().err
        assert ("nothing came" in said, "two words" in said) == (not bad, False)
    assert place.read_text() == "sk-two\n"
    assert main(["runners", "login", "claude"]) == 2  # an account's login is not there
    assert main(["runners", "login", "codex", "--key"]) == 2  # this one takes none
    assert main(["runners", "login", "cluade", "--key"]) == 51
    assert main(["runners", "logout", "claude"]) == 0
    assert not place.exists()
    assert main(["runners", "logout", "claude"]) == 0
    seen = capsys.readouterr()
    assert "sk-" not in seen.out + seen.err
    assert "two words" not in seen.err


@pytest.mark.usefixtures("daemon")
def test_a_runner_that_does_not_work_is_told_with_its_next_step_and_a_status(
    capsys: pytest.CaptureFixture[str],
):
    assert main(["runners", "check"]) == 0  # those that are used here: claude alone
    assert capsys.readouterr().out.splitlines() == ["claude: works", "  ok  program"]
    assert main(["runners", "check", "codex"]) == 51
    seen = capsys.readouterr()
    assert seen.out.splitlines() == ["codex: does not work", "  NO  program: not here"]
    assert seen.err.splitlines() == ["hint: install it"]
    assert main(["runners", "check", "codex", "--json"]) == 51
    assert json.loads(capsys.readouterr().out)["runners"][0]["ok"] is False
    assert main(["runners", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    works = ["claude", "yes", "built in", "2.1.330", "key file \u2192 exposed"]
    works += ["passed", "query, full", ""]
    assert lines[1].split("\t") == works
    assert lines[2].split("\t")[:2] == ["codex", "no"]
    assert lines[2].endswith("\tit is not on this machine")
    assert main(["runners", "show", "claude"]) == 0
    shown = capsys.readouterr().out
    assert "query: /usr/bin/claude -p" in shown
    assert "passed, 2026-01-01" in shown


@pytest.mark.usefixtures("daemon")
def test_a_new_runner_is_told_by_its_file_and_the_next_steps(capsys: pytest.CaptureFixture[str]):
    assert main(["runners", "new", "mine", "--program", "/opt/mine"]) == 0
    seen = capsys.readouterr()
    assert seen.out == "/config/runners/mine.toml\n"
    assert seen.err.splitlines() == ["hint: edit it", "hint: check it"]
    assert main(["runners", "new", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["next"] == ["edit it", "check it"]
    assert main(["runners", "new", "mine", "--program", "missing"]) == 0
    assert "warning: the program that `mine` starts is not" in capsys.readouterr().err


@pytest.mark.usefixtures("daemon")
def test_a_live_run_says_first_that_it_costs_and_then_what_came_back(
    capsys: pytest.CaptureFixture[str],
):
    assert main(["runners", "test", "claude"]) == 0
    seen = capsys.readouterr()
    assert "costs money" in seen.err
    lines = dict(line.split(maxsplit=1) for line in seen.out.splitlines())
    assert (lines["answered"], lines["text"], lines["took"]) == ("yes", "ready", "2s")
    assert (lines["tokens"], lines["cost"], lines["profile"]) == ("7 in", "not told", "query")
    assert main(["runners", "test", "claude", "--full", "--json"]) == 0
    seen = capsys.readouterr()
    assert (json.loads(seen.out)["profile"], seen.err) == ("full", "")
    assert main(["runners", "test", "codex"]) == 50
    seen = capsys.readouterr()
    assert ("no: no key" in seen.out, seen.err) == (True, "")
    assert main(["runners", "test", "cluade"]) == 51  # nothing that could cost is named
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "error",
        "hint",
    ]


def test_results_are_read_by_part_and_offset_or_whole(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    main([*TASK, "--no-wait"])
    text = "".join(f"{n:06d}\n" for n in range(4_000))
    daemon.order("finish", task_id=FIRST_TASK, state="succeeded", text="short", output=text)
    capsys.readouterr()
    read = ["result", FIRST_TASK, "--part", "output"]
    assert main(read) == 0
    seen = capsys.readouterr()
    assert seen.out.rstrip("\n") == text[:8_000].rstrip("\n")
    assert f"cmesh result {FIRST_TASK} --part output --offset 8000" in seen.err
    assert main([*read, "--all"]) == 0
    assert capsys.readouterr().out == text
    assert main([*read, "--all", "--offset", "7", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["text"], document["next_offset"]) == (text[7:], None)


@pytest.mark.usefixtures("daemon")
def test_a_task_that_still_runs_has_no_result(capsys: pytest.CaptureFixture[str]):
    main([*TASK, "--no-wait"])
    assert main(["result", FIRST_TASK]) == 43
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(("state", "status"), [("denied", 30), ("expired", 49)])
def test_a_task_that_never_ran_has_no_result_and_its_states_exit_status(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str], state: str, status: int
):
    main([*TASK, "--no-wait"])
    daemon.order("finish", task_id=FIRST_TASK, state=state, text="policy denies it (path)")
    capsys.readouterr()
    assert main(["result", FIRST_TASK]) == status
    seen = capsys.readouterr()
    assert seen.out == ""
    assert f"task {FIRST_TASK} {state}" in seen.err
    assert main(["result", FIRST_TASK, "--json"]) == status
    assert json.loads(capsys.readouterr().out)["state"] == state


def test_what_is_shown_of_a_task_names_witness_rule_and_age(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    main([*TASK, "--no-wait"])
    daemon.order("emit", task_id=FIRST_TASK, kind="text", text=EVIL)
    capsys.readouterr()
    assert main(["show", FIRST_TASK]) == 0
    page = capsys.readouterr().out
    for words in (
        "the worker committed the row",
        "ask the build box",
        "last heard from worker 0 s ago, link connected",
    ):
        assert words in page
    assert "\x1b" not in page
    assert "\u202e" not in page


@pytest.mark.parametrize(("word", "state"), [("approve", "queued"), ("deny", "denied")])
def test_the_owner_answers_a_task_that_waits_once(
    word: str, state: str, daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    main([*TASK, "--no-wait"])
    daemon.order("hold", task_id=FIRST_TASK)
    capsys.readouterr()
    assert main([word, FIRST_TASK]) == 0
    assert capsys.readouterr().out == f"{FIRST_TASK} {state}\n"
    assert main([word, FIRST_TASK]) == 43


@pytest.mark.usefixtures("daemon")
def test_rows_come_as_lines_json_or_csv(capsys: pytest.CaptureFixture[str]):
    main([*TASK, "--no-wait"])
    capsys.readouterr()
    main(["sql", "SELECT 1"])
    assert capsys.readouterr().out.splitlines() == ["task_id\tstate", f"{FIRST_TASK}\tqueued"]
    main(["sql", "SELECT 1", "--format", "json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows == [{"task_id": FIRST_TASK, "state": "queued"}]
    main(["sql", "SELECT 1", "--format", "csv"])
    parsed = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert parsed == [["task_id", "state"], [FIRST_TASK, "queued"]]


def test_no_text_in_a_csv_is_a_formula(capsys: pytest.CaptureFixture[str]):
    view = SqlView(
        columns=["=cmd|' /C calc'!A0", "n\x1b[2J"],
        types=["VARCHAR", "BIGINT"],
        rows=[["@SUM(1)", -5], ["+1\x07", 7], ["plain", None]],
    )
    rows.print_rows(view, "csv")
    parsed = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert parsed == [
        ["'=cmd|' /C calc'!A0", "n[2J"],
        ["'@SUM(1)", "-5"],
        ["'+1", "7"],
        ["plain", ""],
    ]


@pytest.mark.usefixtures("daemon")
def test_a_denial_is_explained_with_the_smallest_change(capsys: pytest.CaptureFixture[str]):
    assert main(["policy", "explain", "worker", "-C", "/etc"]) == 30
    seen = capsys.readouterr()
    assert "path wants /srv, got /etc" in seen.out
    assert seen.err.startswith("hint: add `/etc` to paths")


@pytest.mark.usefixtures("daemon")
def test_without_a_terminal_trust_needs_the_fingerprint(capsys: pytest.CaptureFixture[str]):
    assert main(["peers", "trust", "worker"]) == 2
    assert "--fingerprint" in capsys.readouterr().err


@pytest.mark.usefixtures("environment")
def test_an_unexpected_failure_is_one_line_and_its_details_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    state = Path(os.environ["CMESH_STATE_DIR"])
    state.mkdir(mode=0o700)

    def broken(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(session, "run", broken)
    assert main(["status"]) == 1
    err = capsys.readouterr().err
    assert "error: internal error: ZeroDivisionError: oops" in err
    assert "Traceback" not in err
    assert "Traceback" in (state / "cli.log").read_text()
    logger = logging.getLogger("cmesh.interfaces.cli.app")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def test_up_undoes_down_and_starts_a_daemon(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    source = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    source += "from tests.fakes.daemon import main; sys.exit(main())"

    def serve_argv(_state: Path, _config: Path) -> list[str]:
        return [sys.executable, "-c", source]

    monkeypatch.setattr(start, "serve_argv", serve_argv)
    main(["down"])
    assert main(["tasks"]) == 81
    capsys.readouterr()
    assert main(["up", "--json"]) == 0
    pid = json.loads(capsys.readouterr().out)["pid"]
    assert main(["up"]) == 0
    assert "started" not in capsys.readouterr().err
    assert main(["down"]) == 0
    assert not Path(environment["CMESH_STATE_DIR"], "control.sock").exists()
    assert start.wait_gone(pid, 0)


@pytest.mark.usefixtures("daemon")
def test_at_a_terminal_the_fingerprint_is_shown_and_confirmed(environment: dict[str, str]):
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as screen:
        cli = subprocess.Popen(
            [sys.executable, "-m", "cmesh", "peers", "trust", "worker"],
            env=environment,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        seen = b""
        while b"trust it?" not in seen:
            seen += screen.read(4096)
        assert b"cd34" in seen
        screen.write(b"y\n")
        out, _err = cli.communicate(timeout=LIMIT_S)
    assert (cli.returncode, out) == (0, b"worker trusted cd34\n")


@pytest.mark.usefixtures("environment")
def test_the_rules_are_shown_as_read_without_a_daemon(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    assert main(["policy", "show"]) == 0
    assert "inbound: no rule, so everything is denied" in capsys.readouterr().out
    config = Path(environment["CMESH_CONFIG_DIR"], "config.toml")
    config.parent.mkdir()
    config.write_text(CONFIG, "utf-8")
    config.chmod(0o600)
    assert main(["policy", "show"]) == 0
    page = capsys.readouterr().out
    for words in ("inbound allow: looks", "node:nABC, tag:laptop", "make 'a b'", "runtime_s 900"):
        assert words in page
    assert main(["policy", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inbound"][0]["name"] == "looks"
    docs = '[profiles.docs]\nbase = "query"\nread = ["docs"]\nlimits = { processes = 9 }\n'
    config.write_text(docs + CONFIG.replace('"query"', '"docs"'), "utf-8")
    assert main(["policy", "show"]) == 0
    page = capsys.readouterr().out
    assert "docs: query, read docs, limits memory_mib 8192, processes 9, " in page
    assert "NamedProfile" not in page
    assert "{" not in page
    config.write_text(CONFIG.replace("query", "dream"), "utf-8")
    assert main(["policy", "show", "--json"]) == 10
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "bad_config"


def test_the_way_to_the_relay_loads_neither_typer_nor_pydantic(environment: dict[str, str]):
    look = "import sys; sys.argv = ['cmesh', 'mcp']; from cmesh.__main__ import main; main()\n"
    look += "print([name for name in ('typer', 'pydantic', 'asyncio') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", look],
        check=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n"


def test_real_processes_answer_the_same(process: DaemonProcess):
    status, out, err = Cli("status", "--json").end()
    assert (status, json.loads(out)["version"], err) == (0, __version__, "")
    status, out, _err = Cli("--help").end()
    assert status == 0
    assert "delegate" in out
    status, out, err = Cli("show", "00000000").end()
    assert (status, out) == (41, "")
    assert err.startswith("error: ")


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_an_output_that_takes_no_more_is_told_in_one_line(
    process: DaemonProcess, json_too: list[str]
):
    for words in (["tasks"], ["show", "00000000"]):
        with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
            done = _run([*words, *json_too], full)
        if words == ["tasks"] or json_too:
            assert done.stderr.startswith("error: standard output cannot be written: No space")
        assert done.stderr.count("\n") <= 2
        assert done.returncode == (1 if words == ["tasks"] else 41)


@pytest.mark.parametrize(("word", "status"), [("version", 0), ("nosuch", 2)])
@pytest.mark.parametrize("shut", ["2>/dev/full", "2>&-", ">&- 2>&-"])
def test_words_that_nobody_can_be_told_change_no_exit_status(word: str, status: int, shut: str):
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -W error -m cmesh {word} {shut}', sys.executable],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == status
    assert bool(done.stdout) == (status == 0 and ">&- " not in shut)


def test_a_pipe_that_nobody_reads_ends_a_command_as_its_signal_would(process: DaemonProcess):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:  # noqa: PTH123 - a file descriptor
        done = _run(["tasks"], pipe)
    assert (done.returncode, done.stderr) == (141, "")


def _run(words: list[str], stdout: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "cmesh", *words],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_peers_and_tasks_complete_from_a_running_daemon_only(
    process: DaemonProcess, environment: dict[str, str]
):
    def complete(words: str) -> str:
        asked = {"_CMESH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "2"}
        done = subprocess.run(
            [sys.executable, "-m", "cmesh"],
            check=True,
            env=environment | asked,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    assert complete("cmesh delegate wor") == "worker"
    process.kill()
    assert complete("cmesh delegate wor") == ""


def test_the_version_has_an_option_too(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cmesh {__version__}\n"


def test_a_result_in_a_pipe_is_printed_once(process: DaemonProcess):
    cli = Cli(*TASK)
    cli.until("queued on worker")
    process.order("start", task_id=FIRST_TASK)
    process.order("emit", task_id=FIRST_TASK, kind="running", text="")
    process.order("emit", task_id=FIRST_TASK, kind="output", text="the answer")
    process.order("emit", task_id=FIRST_TASK, kind="text", text="first thoughts")
    process.order("emit", task_id=FIRST_TASK, kind="text", text="the answer")
    process.order("finish", task_id=FIRST_TASK, state="succeeded", text="the answer")
    status, out, err = cli.end()
    assert (status, out) == (0, "the answer\n")
    assert "the answer" not in err
    assert "text: first thoughts" in err
    assert "running: " not in err


@pytest.mark.usefixtures("daemon")
def test_a_refusal_is_said_once(capsys: pytest.CaptureFixture[str]):
    assert main(["delegate", "worker", "look", "-C", "/etc"]) == 30
    assert capsys.readouterr().err.count("no rule allows path") == 1


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_cancelling_what_has_ended_is_an_error_that_says_how_it_ended(
    daemon: DaemonThread, as_json: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main([*TASK, "--no-wait"]) == 0
    daemon.order("finish", task_id=FIRST_TASK, state="succeeded", text="done")
    capsys.readouterr()
    assert main(["cancel", FIRST_TASK, *as_json]) == 43
    seen = capsys.readouterr()
    assert "already ended as succeeded" in (seen.out if as_json else seen.err)


def test_a_cancel_of_what_nobody_knows_says_that_it_ends_nothing(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    assert main([*TASK, "--no-wait"]) == 0
    daemon.order("finish", task_id=FIRST_TASK, state="unknown", text="")
    capsys.readouterr()
    assert main(["cancel", FIRST_TASK]) == 0
    seen = capsys.readouterr()
    assert seen.out.strip() == f"{FIRST_TASK} unknown"
    assert "nobody can end it" in seen.err


@pytest.mark.usefixtures("daemon")
def test_one_peer_is_shown_with_what_may_be_asked_there(capsys: pytest.CaptureFixture[str]):
    assert main(["peers", "show", "worker"]) == 0
    shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert (shown["operations"], shown["paths"]) == ("task", "/srv")
    assert main(["peers", "show", "wroker"]) == 24
    assert "did you mean `worker`?" in capsys.readouterr().err


@pytest.mark.usefixtures("daemon")
def test_a_peers_name_alone_shows_that_peer(capsys: pytest.CaptureFixture[str]):
    main(["peers", "show", "worker"])
    page = capsys.readouterr().out
    assert main(["peers", "worker"]) == 0
    assert capsys.readouterr().out == page
    assert main(["peers", "wroker"]) == 24
    assert "did you mean `worker`?" in capsys.readouterr().err
    assert main(["peers", "worker", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "worker"
    assert main(["peers", "trsut", "worker"]) == 2


@pytest.mark.usefixtures("daemon")
def test_what_a_peer_has_not_said_yet_is_not_shown_as_nothing(capsys: pytest.CaptureFixture[str]):
    assert main(["peers"]) == 0
    [columns, *rows] = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    may_ask = {row[0]: row[columns.index("MAY ASK")] for row in rows}
    assert may_ask == {"worker": "query, full", "gone": "not heard of yet"}


@pytest.mark.usefixtures("daemon")
def test_a_trusted_key_can_be_taken_back(capsys: pytest.CaptureFixture[str]):
    assert main(["peers", "untrust", "worker"]) == 0
    assert capsys.readouterr().out == "worker untrusted cd34\n"


def test_policy_show_says_in_which_line_each_rule_begins(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    directory = Path(environment["CMESH_CONFIG_DIR"])
    directory.mkdir(mode=0o700)
    file = directory / "config.toml"
    file.write_text(CONFIG, "utf-8")
    file.chmod(0o600)
    assert main(["policy", "show"]) == 0
    shown = capsys.readouterr().out
    assert str(file) in shown
    assert "inbound allow: looks  (config.toml line 2)" in shown


@pytest.mark.parametrize(
    ("words", "page"),
    [
        (["sql", "--limit", "0", "x"], "cmesh sql"),
        (["peers", "trust", "", "--fingerprint", "x"], "cmesh peers trust"),
    ],
)
def test_a_bad_argument_points_to_its_own_command_s_page(
    words: list[str], page: str, capsys: pytest.CaptureFixture[str]
):
    assert main(words) == 2
    assert f"hint: see `{page} --help`" in capsys.readouterr().err


@pytest.mark.usefixtures("environment")
def test_a_misspelt_agent_is_named_with_what_it_may_have_meant(
    capsys: pytest.CaptureFixture[str],
):
    assert main(["mcp", "add", "claued"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: cmesh knows no agent `claued`"
    assert hint.startswith("hint: did you mean `claude`? else claude, ")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.usefixtures("environment")
def test_a_unit_is_planned_only_where_a_manager_would_take_it(
    more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["service", "install", *more]) == 86
    assert "no service manager of this user runs here" in capsys.readouterr().err


def test_up_says_what_it_waits_for(
    daemon: DaemonThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    daemon.order("status", phase="starting")
    for name, limit in (("QUIET_S", 0.0), ("SETTLE_LIMIT_S", 0.2)):
        monkeypatch.setattr(f"cmesh.interfaces.cli.daemon.{name}", limit)
    assert main(["up"]) == 0
    assert capsys.readouterr().err.count("waiting for an answer of the control server") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tasks", "--limit", "many"], "invalid value for '--limit': a whole number"),
        (["delegate", "worker", "x", "--max-cost", "-1"], "at least 0"),
        (["tasks", "--group", "some"], "`GROUP`: `some` is no group"),
        (["show", "g-?"], "`GROUP`: "),
    ],
)
def test_what_is_no_number_and_no_group_is_told_in_plain_words(
    daemon: DaemonThread, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Input should" not in error
    assert "--group" not in error.splitlines()[0]


def test_a_forgotten_task_says_that_its_reason_is_erased(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    assert main([*TASK, "--no-wait"]) == 0
    ended = daemon.operations.finish(FIRST_TASK, TaskState.FAILED)
    gone = {"forgotten": True, "reason": "", "code": "idle_limit"}
    daemon.operations.ask(ended.model_copy(update=gone))
    capsys.readouterr()
    assert main(["show", FIRST_TASK]) == 0
    assert "erased [idle_limit]" in capsys.readouterr().out


def test_status_says_how_long_texts_are_kept(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
):
    keeps = KeepsView(text_days=30, output_days=7)
    daemon.operations.status_view = daemon.operations.status_view.model_copy(
        update={"keeps": keeps}
    )
    assert main(["status"]) == 0
    assert "keeps        texts for 30 days, files for 7 days" in capsys.readouterr().out
