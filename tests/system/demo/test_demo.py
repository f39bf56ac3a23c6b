"""`cmesh demo` as people run it: real processes, its claims, and that nothing stays behind."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cmesh.interfaces.demo.processes import processes_with
from cmesh.interfaces.demo.story import BUILDER_SQL, LAPTOP_SQL

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[3]
LIMIT_S = 150.0
DEMO = [sys.executable, "-m", "cmesh", "demo"]
PATCHED = """
import sys
from cmesh.interfaces import demo
from cmesh.interfaces.demo import plan, run, sample, stage, why_deploy_failed
{patch}
if __name__ == "__main__":
    sys.exit(demo.main(demo.DemoOptions(as_json=True)))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A short temporary directory of the run's own: whatever uses it is the run's."""
    with tempfile.TemporaryDirectory(prefix="cmd-") as directory:
        yield Path(directory)
        assert list(Path(directory).glob("cmesh-demo-*")) == []
        assert processes_with(Path(directory)) == []


def environment(place: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(place), "COLUMNS": "80"}


def called(
    argv: Sequence[str], place: Path, variables: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        argv,
        env=environment(place) | (variables or {}),
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


@contextlib.contextmanager
def running(place: Path, *options: str) -> Generator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [*DEMO, *options],
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=LIMIT_S)


def patched(place: Path, patch: str) -> tuple[int, dict[str, Any], str]:
    program = place / "patched.py"
    program.write_text(PATCHED.format(patch=patch), "utf-8")
    run = called([sys.executable, str(program)], place)
    return run.returncode, json.loads(run.stdout), run.stderr


def test_it_shows_each_part_and_ends_with_status_0(place: Path) -> None:
    run = called(DEMO, place)
    assert (run.returncode, run.stderr) == (0, "")
    for shown in (
        '"ask the builder" on laptop allows it',
        "of me@example.com",
        '"my machines may ask about myapp" on builder: allow',
        "never started",
        "denied [policy_denied]",
        "No model was used",
        "Shown and asserted",
        "no process of it is left",
    ):
        assert shown in " ".join(run.stdout.split())
    assert "\x1b" not in run.stdout
    assert ("You are root" in run.stdout) is (os.getuid() == 0)
    lines = run.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("    " + sys.prefix)) <= 80


def test_json_is_one_line_and_says_what_was_asserted(place: Path) -> None:
    run = called([*DEMO, "--json"], place)
    assert (run.returncode, run.stderr, run.stdout.count("\n")) == (0, "", 1)
    body = json.loads(run.stdout)
    assert (body["ok"], body["model"], len(body["steps"])) == (True, "", 10)
    assert all(step["checked"] and step["seconds"] >= 0 for step in body["steps"])
    assert body["states"] == ["queued", "queued", "running", "succeeded"]
    assert body["refused"]["code"] == "policy_denied"
    assert body["refused"]["task_id"] != body["task_id"]
    assert (body["audit"]["tasks"], body["audit"]["chain"]) == (2, "verified")
    assert "myapp.service:" in body["finding"]


@pytest.mark.parametrize(
    ("begins", "number"),
    [
        (" 2  ", signal.SIGINT),
        (" 4  ", signal.SIGTERM),
        (" 6  ", signal.SIGINT),
        (" 9  ", signal.SIGHUP),
    ],
)
def test_a_signal_in_any_step_leaves_nothing_behind(
    place: Path, begins: str, number: signal.Signals
) -> None:
    with running(place) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(begins):
                break
        # To the group, as a terminal does: only what is in sessions of its own is spared.
        os.killpg(process.pid, number)
        rest = process.stdout.read()
        assert process.wait(LIMIT_S) == 130
        assert "Interrupted; nothing is left running." in rest


def test_a_finding_that_is_not_from_the_files_fails_the_demo(place: Path) -> None:
    liar = place / "liar.py"
    liar.write_text("print('Release 1234 of myapp: disk full, deploy.log:3')\n", "utf-8")
    status, body, _ = patched(place, f"why_deploy_failed.__file__ = {str(liar)!r}")
    assert (status, body["ok"], body["error"]["code"]) == (1, False, "demo_failed")
    assert "not from this run's files" in body["error"]["message"]


def test_a_refusal_that_does_not_happen_fails_the_demo(place: Path) -> None:
    patch = """
real = plan.builder_config
def too_wide(url, a_plan, a_sample):
    return real(url, a_plan, a_sample).replace("/srv/myapp", "/srv")
plan.builder_config = too_wide
"""
    status, body, _ = patched(place, patch)
    assert (status, body["error"]["code"]) == (1, "demo_failed")
    assert "was not refused" in body["error"]["message"]


def test_a_daemon_that_does_not_start_is_one_clear_error(place: Path) -> None:
    status, body, error = patched(
        place, 'plan.laptop_config = lambda url, plan: "[node]\\nwrong = 1\\n"'
    )
    assert (status, body["ok"], body["error"]["code"]) == (10, False, "bad_config")
    assert "the daemon of laptop: " in body["error"]["message"]
    assert "wrong" in body["error"]["message"]
    assert "Traceback" not in error


def test_kept_it_serves_others_until_it_is_told_to_stop(place: Path) -> None:
    with running(place, "--json", "--keep") as process:
        assert process.stdout is not None
        body = json.loads(process.stdout.readline())
        keep = body["keep"]
        assert body["ok"]
        for name in ("laptop", "builder"):
            argv = [sys.executable, "-m", "cmesh", "status", "--json"]
            status = called(argv, place, keep["environment"][name])
            assert json.loads(status.stdout)["phase"] == "up"
        assert keep["control_url"].startswith("http://127.0.0.1:")
        key_file = Path(keep["auth_key_file"])
        assert (key_file.stat().st_mode & 0o777, bool(key_file.read_text("utf-8"))) == (0o600, True)
        subprocess.run(["/bin/sh", "-c", keep["stop"]], check=True, timeout=LIMIT_S)
        assert process.wait(LIMIT_S) == 0


def test_daemons_that_were_stopped_started_and_replaced_end_with_it(place: Path) -> None:
    with running(place, "--json", "--keep") as process:
        assert process.stdout is not None
        body = json.loads(process.stdout.readline())
        for name, *words in (("builder", "down"), ("builder", "up"), ("laptop", "up", "--replace")):
            argv = [sys.executable, "-m", "cmesh", *words]
            run = called(argv, place, body["keep"]["environment"][name])
            assert run.returncode == 0, run.stderr
        process.terminate()
        assert process.wait(LIMIT_S) == 0
    # That nothing is left, no process and no directory, is the fixture's to assert.


def test_the_rows_it_shows_are_what_the_sql_beside_them_gives(place: Path) -> None:
    with running(place, "--keep") as process:
        assert process.stdout is not None
        shown: list[str] = []
        for line in process.stdout:
            shown.append(line)
            if line.startswith("    claude mcp remove"):
                break
        text = "".join(shown)
        for name, sql in (("laptop", LAPTOP_SQL), ("builder", BUILDER_SQL)):
            found = re.search(rf"CMESH_STATE_DIR=(\S+/{name}/state)", text)
            assert found is not None
            variables = {
                "CMESH_STATE_DIR": found[1],
                "CMESH_CONFIG_DIR": found[1].removesuffix("state") + "config",
                "CMESH_TESTNET": "1",
            }
            assert f'cmesh sql "{sql}"' in " ".join(text.split())
            run = called([sys.executable, "-m", "cmesh", "sql", sql], place, variables)
            for row in run.stdout.splitlines():
                cells = [cell for cell in row.split("\t") if cell]
                assert re.search(r" +".join(map(re.escape, cells)) + r"\n", text), row


def test_what_uses_a_kept_demo_and_is_not_its_own_is_named_and_left_alone(place: Path) -> None:
    with running(place, "--keep") as process:
        assert process.stdout is not None
        state = ""
        for line in process.stdout:
            if found := re.search(r"CMESH_STATE_DIR=(\S+laptop/state)", line):
                state = found[1]
            if line.startswith("    claude mcp remove"):
                break
        other = subprocess.Popen(["/bin/sleep", "600"], env={"CMESH_STATE_DIR": state})
        try:
            process.terminate()
            rest = " ".join(process.stdout.read().split())
            assert process.wait(LIMIT_S) == 0
            assert f"processes {other.pid}, which you or your agent started" in rest
            assert other.poll() is None
            assert Path(state, "down").exists()
        finally:
            other.kill()
            other.wait(LIMIT_S)
            shutil.rmtree(Path(state).parents[1])
