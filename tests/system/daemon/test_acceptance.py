"""Acceptance commands: the worker runs them itself, after the agent, held as its agent was."""

import asyncio
import json
import os
import shlex
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cmesh.daemon.answers import TaskView
from cmesh.daemon.arguments import CancelArguments, ResultArguments
from cmesh.daemon.evidence_answers import AcceptanceView, BeforeView, ChangedView
from cmesh.errors import AcceptanceFailed, PolicyDenied, TaskRefused
from cmesh.model import Profile, TaskState
from cmesh.node.testnet import Testnet
from cmesh.runner.shim_processes import task_processes
from tests.system.daemon.conftest import OUTBOUND
from tests.system.daemon.machine import Machine, consent, eventually, worker_user
from tests.system.runner.copying import commit, git

pytestmark = [pytest.mark.anyio, pytest.mark.system]

WAIT_S = 40

# What agents do here. The second plants whatever might be run in the command's place.
AGENTS = {
    "change": "echo two >>code; echo ready",
    "plant": "echo two >>code; printf '#!/bin/sh\\nexit 0\\n' >make; chmod +x make; mkdir -p ~/bin;"
    " cp make ~/bin/make; cp make $TMPDIR/make; echo 'export PATH=~/bin:.' >~/.profile;"
    " printf 'test:\\n\\t@echo really; false\\n' >Makefile; export PATH=.:$PATH;"
    " mkdir -p .git/hooks; printf '#!/bin/sh\\necho hooked; touch {place}/escaped /var/tmp/escaped 2>&1\\n'"
    " >.git/hooks/pre-commit; chmod +x .git/hooks/pre-commit",
    "fail": "echo two >>code; exit 3",
}

ACCEPT = {
    "passes": "grep -c two code",
    "fails": "sh -c 'echo out; echo err >&2; exit 7'",
    "writes": "sh -c 'echo junk >junk; echo three >>code'",
    "make": "make test",
    "commit": "git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x",
    "alone": "sh -c 'pwd; env | cut -d= -f1 | sort; ls -A ~ $TMPDIR; cat /proc/net/dev | wc -l'",
    "hangs": "sh -c 'trap \"\" TERM; while :; do sleep 1; done'",
    "floods": "sh -c 'yes | head -c 1000000000; echo the end'",
    "fills": "sh -c 'while :; do head -c 1000000 /dev/urandom >>large; done'",
    "forks": "sh -c 'setsid sh -c \"trap : TERM; sleep 600\" >/dev/null 2>&1 & echo forked'",
    "absent": "no-such-program --all",
    "held": "sh -c 'echo began; while [ ! -e $TMPDIR/go ]; do sleep 0.05; done; echo done'",
}


def rules(place: Path) -> str:
    scripts = {name: text.replace("{place}", str(place / "app")) for name, text in AGENTS.items()}
    tables = "".join(
        f"[commands.{name}]\nargv = {json.dumps(['/bin/sh', '-c', text])}\n"
        for name, text in scripts.items()
    )
    return f"""{tables}
[profiles.small]
base = "edit"
limits = {{ disk_mib = 32 }}

[[inbound.allow]]
name = "the laptop may change a copy"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["query", "small"]
runners = {json.dumps([f"command:{name}" for name in AGENTS])}
paths = ["{place}"]
accept = {json.dumps(list(ACCEPT.values()))}

[[inbound.allow]]
name = "and all without a sandbox"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["full"]
runners = ["command:change"]
paths = ["{place}"]
accept = ["make test"]
{consent()}
"""


@pytest.fixture(scope="module")
async def pair(ground: Path, testnet: Testnet) -> AsyncIterator[tuple[Machine, Machine]]:
    """Return laptop and worker, up, the laptop trusted."""
    laptop = Machine("asks", ground, testnet, worker_user())
    worker = Machine("checks", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, OUTBOUND), (worker, rules(worker.base))):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        place = worker.directory("app")
        (place / "code").write_text("one\n")
        commit(place)
        await asyncio.gather(laptop.up(), worker.up())
        await ask(laptop, worker, "change", "", wait_s=0)
        await worker.trust(laptop)
        if "tier3" not in (await worker.status()).enforcement:
            pytest.skip("no sandbox of tier 3 here")
        yield laptop, worker


async def ask(
    laptop: Machine, worker: Machine, agent: str, accept: str, **more: object
) -> TaskView:
    words = shlex.split(ACCEPT.get(accept, accept))
    fields = {"profile": Profile.EDIT, "new": True, "wait_s": WAIT_S, "accept": words, **more}
    return await laptop.delegate(worker.name, f"command:{agent}", worker.base / "app", **fields)


def acceptance_of(view: TaskView) -> AcceptanceView:
    assert view.evidence is not None, view
    assert view.evidence.acceptance is not None, view
    return view.evidence.acceptance


def changed(view: TaskView) -> list[str]:
    assert view.patch is not None, view
    return view.patch.changed


async def test_the_worker_runs_it_on_the_agents_work_and_signs_how_it_ended(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, worker = pair
    passed = await ask(laptop, worker, "change", "passes")
    assert (passed.state, passed.code, passed.receipt) == (TaskState.SUCCEEDED, "", "complete")
    told = acceptance_of(passed)
    assert (told.passed, told.end, told.exit_code, told.output) == (True, "exited", 0, "1")
    assert passed.verdict.startswith(
        "command says done; checks say `grep -c two code` passed (exit 0"
    )
    assert passed.verdict.endswith("1 file was changed")

    failed = await ask(laptop, worker, "change", "fails")
    assert (failed.state, failed.exit_code) == (TaskState.SUCCEEDED, 0)
    assert failed.code == AcceptanceFailed.code
    assert "acceptance command failed (exit 7" in failed.reason
    assert (await worker.task(failed.task_id)).verdict == failed.verdict
    waited = laptop.cli("wait", failed.task_id)
    assert waited.returncode == AcceptanceFailed.exit_status
    assert "; checks say " in waited.stderr
    said = laptop.cli("result", failed.task_id, "--part", "acceptance")
    assert (said.returncode, said.stdout) == (0, "out\nerr\n")
    rows = await laptop.sql(
        "SELECT accepted, acceptance_end, acceptance_exit FROM results WHERE task_id IN"
        f" ('{passed.task_id}', '{failed.task_id}') ORDER BY accepted"
    )
    assert rows == [[False, "exited", 7], [True, "exited", 0]]
    async with laptop.mcp() as agent:
        answer = await agent.call("get_task", task_id=failed.task_id)
        assert 'part="acceptance"' in str(answer.fields["next"])
        assert answer.fields["verdict"] == failed.verdict
    assert laptop.cli("audit", "verify").returncode == 0
    for machine, direction in ((laptop, "out"), (worker, "in")):
        report = machine.cli("audit", "report", "failing", "--json", "--since", "1d")
        told_rows = json.loads(report.stdout)["rows"]
        assert [row[0] for row in told_rows] == [direction]
        traced = await machine.sql(
            "SELECT path, change FROM files_changed WHERE trace_id ="
            f" '{passed.task_id.replace('-', '')}'"
        )
        assert traced == [["code", "modified"]]
        assert machine.cli("audit", "report", "unused-rules").returncode == 0


async def test_a_failed_agent_keeps_its_state_whatever_the_command_says(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, worker = pair
    view = await ask(laptop, worker, "fail", "passes")
    assert (view.state, view.exit_code, view.code) == (TaskState.FAILED, 3, "")
    assert view.verdict.startswith(
        "command says failed (exit 3); checks say `grep -c two code` passed"
    )


async def test_what_the_command_writes_is_not_in_the_patch(pair: tuple[Machine, Machine]) -> None:
    laptop, worker = pair
    view = await ask(laptop, worker, "change", "writes")
    assert acceptance_of(view).passed
    assert changed(view) == ["M code"]
    assert git(worker.base / "app", "status", "--porcelain") == ""


async def test_an_agent_has_a_hand_in_the_tree_and_in_nothing_else(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, worker = pair
    view = await ask(laptop, worker, "plant", "make")
    told = acceptance_of(view)
    assert (told.passed, told.exit_code) == (False, 2), told
    assert "really" in told.output

    hooked = await ask(laptop, worker, "plant", "commit")
    told = acceptance_of(hooked)
    assert "hooked" in told.output, told  # by the tree, inside of the sandbox
    assert not (worker.base / "app" / "escaped").exists()
    assert not Path("/var/tmp/escaped").exists()

    alone = await ask(laptop, worker, "plant", "alone")
    told = acceptance_of(alone)
    assert told.passed, told
    words = told.output.split()
    assert words[0] == str(worker.base / "app")
    names = {word for word in words if word.isupper()} - {"PWD", "OLDPWD", "SHLVL", "_"}
    assert names == {
        "CMESH_TASK", "GIT_ATTR_NOSYSTEM", "GIT_CONFIG_NOSYSTEM", "HOME", "LANG", "PATH", "TMPDIR",
    }  # fmt: skip
    assert words[-1] == "3"  # two lines of heading, and `lo`
    assert "make" not in words


async def test_in_a_query_it_sees_the_directory_and_cannot_change_it(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, worker = pair
    view = await ask(laptop, worker, "change", "writes", profile=Profile.QUERY)
    told = acceptance_of(view)
    assert (told.passed, "Read-only" in told.output) == (False, True), told
    assert git(worker.base / "app", "status", "--porcelain") == ""


async def test_what_a_directory_without_a_copy_was_and_what_became_of_it_is_told(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, worker = pair
    head = git(worker.base / "app", "rev-parse", "HEAD")
    looked = await ask(laptop, worker, "change", "passes", profile=Profile.QUERY)
    copied = await ask(laptop, worker, "change", "passes")
    for view, dirty in ((looked, None), (copied, False)):
        assert view.evidence is not None
        assert view.evidence.before == BeforeView(commit=head, branch="main", dirty=dirty)
        assert view.evidence.changed is None

    place = worker.directory("plain")
    (place / "code").write_text("one\n")
    (place / "kept").touch()
    (place / "code").chmod(0o666)  # the worker is another user
    view = await laptop.delegate(
        worker.name, "command:change", place, profile=Profile.FULL, new=True, wait_s=WAIT_S
    )
    assert view.evidence is not None, view
    assert view.evidence.before is None
    assert view.evidence.changed == ChangedView(files=1, names=["M code"])
    assert view.verdict == "command says done; checks say 1 file was changed"
    shown = laptop.cli("show", view.task_id)
    assert "M code" in shown.stdout
    assert f"commit {head[:12]}, branch main" in laptop.cli("show", looked.task_id).stdout
    async with laptop.mcp() as agent:
        told = (await agent.call("get_task", task_id=view.task_id)).text
        assert "M code" in told


@pytest.mark.parametrize(
    ("accept", "end", "limit_s"),
    [("hangs", "timed_out", 4), ("floods", "exited", 60), ("fills", "disk_limit", 60)],
)
async def test_a_command_that_takes_too_much_is_ended_and_that_is_said(
    pair: tuple[Machine, Machine], accept: str, end: str, limit_s: int
) -> None:
    laptop, worker = pair
    view = await ask(laptop, worker, "change", accept, timeout_s=limit_s)
    view = await laptop.ended(view.task_id, 90)
    assert view.state is TaskState.SUCCEEDED
    told = acceptance_of(view)
    assert told.end == end, told
    assert changed(view) == ["M code"]
    if accept == "floods":
        assert told.output_bytes == 1_000_000_008
        assert (told.truncated, told.output[-8:]) == (True, "\nthe end")
    else:
        assert view.code == AcceptanceFailed.code
    assert not task_processes(view.task_id, 0)


async def test_what_the_command_leaves_is_ended_with_it(pair: tuple[Machine, Machine]) -> None:
    laptop, worker = pair
    view = await ask(laptop, worker, "change", "forks")
    told = acceptance_of(view)
    assert (told.passed, told.output) == (True, "forked")
    assert view.processes_left == 0
    assert not task_processes(view.task_id, 0)


async def test_one_that_the_rule_does_not_list_is_denied_with_the_smallest_change(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, worker = pair
    view = await ask(laptop, worker, "change", "rm -rf .")
    assert (view.state, view.code) == (TaskState.DENIED, PolicyDenied.code)
    explained = worker.cli(
        "policy", "explain", laptop.name, "--inbound", "--runner", "command:change", "--profile", "edit",
        "--directory", str(worker.base / "app"), "--accept", "rm -rf .",
    )  # fmt: skip
    assert '"rm -rf ."' in explained.stdout + explained.stderr


async def test_what_cannot_be_held_or_is_not_there_is_denied_before_anything_runs(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, worker = pair
    full = await ask(laptop, worker, "change", "make", profile=Profile.FULL)
    assert (full.state, full.code) == (TaskState.DENIED, TaskRefused.code)
    assert "profile `full` has none" in full.reason
    absent = await ask(laptop, worker, "change", "absent")
    assert (absent.state, absent.code) == (TaskState.DENIED, TaskRefused.code)
    assert "`no-such-program` is not on the worker" in absent.reason
    assert absent.verdict == ""
    told = laptop.cli(
        "delegate", worker.name, "do it", "-C", str(worker.base / "app"), "--runner",
        "command:change", "--profile", "edit", "--accept", "grep -c 'two' code",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "checks say `grep -c two code` passed" in told.stderr


async def began(laptop: Machine, worker: Machine, view: TaskView) -> Path:
    """Wait until the command of a task runs; return the task's directory."""
    own = worker.state / "tasks" / view.task_id

    async def runs() -> bool | None:
        wanted = b"TMPDIR=" + os.fsencode(own / "accept" / "tmp")
        found = [pid for pid, _start in task_processes(view.task_id, 0) if wanted in environ(pid)]
        return True if found else None

    await eventually(runs, WAIT_S)
    return own


def environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


async def test_it_runs_on_while_the_daemon_is_killed_and_the_next_one_tells_its_end(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, worker = pair
    view = await ask(laptop, worker, "change", "held", wait_s=0)
    own = await began(laptop, worker, view)
    worker.kill()
    (own / "accept" / "tmp" / "go").touch()
    await worker.start()
    await worker.up()
    done = await laptop.ended(view.task_id, WAIT_S)
    told = acceptance_of(done)
    assert done.state is TaskState.SUCCEEDED
    assert (told.passed, told.output) == (True, "began\ndone")
    assert changed(done) == ["M code"]


async def test_a_cancel_ends_it_and_the_patch_is_kept(pair: tuple[Machine, Machine]) -> None:
    laptop, worker = pair
    view = await ask(laptop, worker, "change", "held", wait_s=0)
    await began(laptop, worker, view)
    await laptop.call("cancel_task", CancelArguments(task_id=view.task_id, reason="enough"))
    done = await laptop.ended(view.task_id, WAIT_S)
    told = acceptance_of(done)
    assert (done.state, done.processes_left) == (TaskState.CANCELLED, 0)
    assert (told.end, told.passed) == ("cancelled", False)
    assert changed(done) == ["M code"]
    assert not task_processes(view.task_id, 0)


async def test_a_shim_that_is_killed_meanwhile_leaves_nothing_and_no_word_of_success(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, worker = pair
    view = await ask(laptop, worker, "change", "held", wait_s=0)
    own = await began(laptop, worker, view)
    os.kill(json.loads((own / "claim").read_text())["pid"], signal.SIGKILL)
    done = await laptop.ended(view.task_id, WAIT_S)
    told = acceptance_of(done)
    assert done.state is TaskState.INTERRUPTED
    assert (told.end, told.passed) == ("unknown", False)
    assert "was perhaps not run" in done.verdict
    assert not task_processes(view.task_id, 0)
    text = await laptop.call("get_result", ResultArguments(task_id=view.task_id, part="acceptance"))
    assert "nobody saw" in text["text"]
