"""Abuse cases 9, 12, 23 and 24, and approval: one run for one yes, floods, chains, clocks that lie."""

import asyncio
import os
import resource
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from cmesh.daemon.approval import require_no_task
from cmesh.errors import LocalProtocolError, TaskRefused
from cmesh.interfaces.mcp.tools import TOOLS
from cmesh.link.link import Link
from cmesh.model import NodeId, Profile, TaskId, TaskState
from cmesh.protocol import convert
from cmesh.protocol.link_messages import Failure
from cmesh.protocol.messages import Accepted, Denied
from cmesh.runner.shim_processes import MARKER
from cmesh.sandbox.tier import Enforcement
from tests.unit.daemon.conftest import Pair
from tests.unit.daemon.test_halves import Recorded, said

pytestmark = pytest.mark.anyio

REPLAYS = 100
FLOOD = 10_000
GROWTH_KIB = 20 * 1024
LIMIT_S = 20.0
TIER3 = Enforcement(landlock_abi=7, bwrap=True, seccomp=True, netns=True)
ASK = 'approval = "ask"'


async def test_9_a_submit_replayed_a_hundred_times_at_once_runs_once(pair: Pair) -> None:
    spec = pair.asker.record(pair.doer).spec
    link = heard(pair)
    await asyncio.gather(*(said(pair.doer, link, convert.submit(spec)) for _ in range(REPLAYS)))
    await pair.doer.until(spec.task_id, "running")
    await pair.doer.quiet()
    answers = [message for message in link.posted if isinstance(message, Accepted)]
    assert len(answers) == REPLAYS == len(link.posted)
    assert {answer.task_id for answer in answers} == {spec.task_id}
    assert pair.doer.shims.starts[spec.task_id] == 1


async def test_9_another_payload_under_a_known_id_is_a_conflict(pair: Pair) -> None:
    spec = pair.asker.record(pair.doer).spec
    link = heard(pair)
    await said(pair.doer, link, convert.submit(spec))
    await said(pair.doer, link, convert.submit(replace(spec, prompt="rm -rf /")))
    await pair.doer.quiet()
    accepted, denied = link.posted
    assert isinstance(accepted, Accepted)
    assert isinstance(denied, Denied)
    assert denied.code == "task_conflict"
    assert (await pair.doer.seen(spec.task_id)).record.spec.prompt == spec.prompt


async def test_12_ten_thousand_requests_of_one_peer_cost_the_others_nothing(pair: Pair) -> None:
    doer = pair.doer
    doer.configure(doer.rule().replace("[worker]\n", "[worker]\nsubmits_per_minute = 5\n"))
    flooding, good = Recorded(pair.asker), Recorded(pair.doer)
    specs = [pair.asker.record(doer, prompt=str(number)).spec for number in range(5)]
    for spec in specs:
        await said(doer, flooding, convert.submit(spec))
    await doer.quiet()
    stored, before = doer.store.head, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    again = convert.submit(pair.asker.record(doer, prompt="more").spec)
    for _ in range(FLOOD):
        flooding.held.clear()
        await said(doer, flooding, again)
    assert doer.store.head == stored
    refused = flooding.posted[len(specs) :]
    assert refused
    assert {(f.code, f.retry_after_s is None) for f in cast("list[Failure]", refused)} == {
        ("busy", False)
    }
    # It goes on all the same: in the end it loses its link, by name.
    assert set(flooding.refused) == {"the peer goes on asking beyond its rate"}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < GROWTH_KIB
    await said(doer, good, convert.submit(pair.doer.record(doer).spec))
    assert not [message for message in good.posted if isinstance(message, Failure)]


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        (("nDOER",), "nDOER > nASKER > nDOER"),
        (("nFIRST", "nDOER", "nTHIRD"), "nFIRST > nDOER > nTHIRD > nASKER > nDOER"),
        (("nASKER", "nFIRST"), "nASKER > nFIRST > nASKER > nDOER"),
        (("n1", "n2", "n3", "n4"), "5 callers"),
        (("nFIRST",), "through nFIRST"),
    ],
)
async def test_23_a_chain_that_closes_or_is_too_long_starts_nothing_and_is_on_record(
    pair: Pair, origin: tuple[str, ...], shown: str
) -> None:
    spec = pair.asker.record(pair.doer, origin=tuple(map(NodeId, origin))).spec
    link = heard(pair)
    await said(pair.doer, link, convert.submit(spec))
    (denied,) = link.posted
    assert isinstance(denied, Denied)
    assert denied.code == "policy_denied"
    assert "nFIRST" not in denied.reason
    assert pair.doer.shims.starts[spec.task_id] == 0
    table = await pair.doer.store.sql("SELECT failed FROM decisions WHERE effect = 'deny'", (), 9)
    assert shown in str(table.rows)


async def test_24_a_caller_whose_clock_is_a_day_off_gets_the_time_it_asked_for(pair: Pair) -> None:
    for day in (-1, 1):
        not_after = pair.clock.now() + timedelta(days=day)
        spec = pair.asker.record(pair.doer, not_after=not_after, prompt=str(day)).spec
        link = heard(pair)
        await said(pair.doer, link, convert.submit(spec))
        (answer,) = link.posted
        # Too late by this node's clock is never started; early is a long wait at most.
        if day < 0:
            assert isinstance(answer, Denied)
            assert answer.code == "expired"
            assert pair.doer.shims.starts[spec.task_id] == 0
        else:
            assert isinstance(answer, Accepted)


def heard(pair: Pair) -> Recorded:
    """Return a link of the asker's on which the doer's answers are kept."""
    link = Recorded(pair.asker)
    pair.doer.link = cast("Link", link)
    return link


async def waiting(pair: Pair, **change: Any) -> Any:
    """Return a task that waits for the doer's owner."""
    pair.doer.configure(pair.doer.rule(ASK))
    task_id = await pair.asker.delegate(pair.doer, **change)
    return await pair.doer.until(task_id, "waiting")


async def test_approval_is_for_one_task_once(pair: Pair) -> None:
    task = await waiting(pair)
    task_id = task.record.task_id
    await pair.doer.worker.approve(task, yes=True, reason="")
    await pair.doer.until(task_id, "running")
    for yes in (True, False):
        with pytest.raises(LocalProtocolError):
            await pair.doer.worker.approve(task, yes=yes, reason="")
    assert pair.doer.shims.starts[task_id] == 1
    second = await pair.asker.delegate(pair.doer, prompt="another")
    await pair.doer.until(second, "waiting")
    assert pair.doer.shims.starts[second] == 0


async def test_a_no_is_final(pair: Pair) -> None:
    task = await waiting(pair)
    await pair.doer.worker.approve(task, yes=False, reason="not today")
    ended = await pair.doer.until(task.record.task_id, "denied")
    assert ended.reason == "not today"
    with pytest.raises(LocalProtocolError):
        await pair.doer.worker.approve(task, yes=True, reason="")
    assert pair.doer.shims.starts[task.record.task_id] == 0


async def test_an_approval_that_nobody_gives_ends_in_a_no(pair: Pair) -> None:
    task = await waiting(pair)
    task_id = task.record.task_id
    await pair.doer.quiet()  # the deadline is noted after the answer
    pair.clock.passed_s += timedelta(hours=2).total_seconds()
    await pair.doer.worker.expire()
    ended = await pair.doer.until(task_id, "expired")
    assert ended.public_state is TaskState.EXPIRED
    with pytest.raises(LocalProtocolError):
        await pair.doer.worker.approve(task, yes=True, reason="")
    assert pair.doer.shims.starts[task_id] == 0


async def test_the_asker_has_no_message_that_approves(pair: Pair) -> None:
    task = await waiting(pair)
    link = Recorded(pair.asker)
    for _ in range(3):
        await said(pair.doer, link, convert.submit(task.record.spec))
    await pair.doer.quiet()
    assert (await pair.doer.seen(task.record.task_id)).state == "waiting"
    assert pair.doer.shims.starts[task.record.task_id] == 0


async def test_the_owner_is_shown_what_a_yes_would_start(pair: Pair) -> None:
    place: Path = pair.doer.place
    (place / "releases").mkdir()
    (place / "current").symlink_to("releases")
    task = await waiting(pair, directory=f"{place}/current", prompt="look at this")
    shown = await pair.doer.worker.will_run(task)
    assert shown.argv == ["/bin/true"]
    assert shown.directory == f"{place}/releases"
    assert (shown.profile, shown.runtime_s, shown.obstacle) == ("full", 900, "")
    await pair.doer.restart()
    assert await pair.doer.worker.will_run(task) == shown
    place.joinpath("current").unlink()
    place.joinpath("releases").rmdir()
    await pair.doer.restart()
    assert "is no directory" in (await pair.doer.worker.will_run(task)).obstacle


NARROWED = """
[profiles.hush]
base = "query"
{narrowing}
[commands.x]
argv = ["/bin/true"]
[[inbound.allow]]
name = "friends"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["hush"]
runners = ["command:x"]
paths = ["{place}"]
{more}
"""


def narrow(pair: Pair, narrowing: str, more: str = "") -> None:
    """Let the doer's owner narrow `query`, on a machine with a whole sandbox."""
    rules = NARROWED.format(narrowing=narrowing, place=pair.doer.place, more=more)
    pair.doer.configure(rules)
    pair.doer.enforcement = TIER3


async def asked_narrowed(pair: Pair, narrowing: str) -> tuple[TaskId, Recorded]:
    """Return a task for `query` at such a doer, which its caller does not follow."""
    narrow(pair, narrowing)
    spec = pair.asker.record(pair.doer, profile=Profile.QUERY).spec
    link = heard(pair)
    await said(pair.doer, link, convert.submit(spec))
    return spec.task_id, link


async def test_a_path_that_the_owner_lists_and_is_not_there_is_told_in_kind(pair: Pair) -> None:
    (pair.doer.place / "secret-plans").symlink_to("/etc")
    task_id, link = await asked_narrowed(pair, 'read = ["secret-plans"]')
    (denied,) = link.posted
    assert isinstance(denied, Denied)
    assert denied.code == "path_refused"
    assert not [word for word in ("hush", "plans", "link") if word in str(denied)]
    assert pair.doer.shims.starts[task_id] == 0
    table = await pair.doer.store.sql("SELECT reason FROM decisions WHERE effect = 'deny'", (), 9)
    assert "`[profiles.hush]` lists `secret-plans`" in str(table.rows)
    assert "part of it is a link" in str(table.rows)


async def test_a_task_is_started_with_the_parts_that_the_owner_lists(pair: Pair) -> None:
    (pair.doer.place / "docs").mkdir()
    task_id, _link = await asked_narrowed(pair, 'read = ["docs"]')
    await pair.doer.until(task_id, "running")
    record = cast("dict[str, Any]", pair.doer.shims.launches[task_id].sandbox)
    assert (record["parts"], record["whole"]) == (["docs"], False)
    assert record["directory"] == str(pair.doer.place)


async def test_a_path_that_went_away_since_it_was_asked_for_starts_nothing(pair: Pair) -> None:
    (pair.doer.place / "docs").mkdir()
    narrow(pair, 'read = ["docs"]', ASK)
    task_id = await pair.asker.delegate(pair.doer, profile=Profile.QUERY)
    task = await pair.doer.until(task_id, "waiting")
    shown = await pair.doer.worker.will_run(task)
    assert (shown.profile, shown.narrowed) == ("hush", ["sees of the directory: docs"])
    (pair.doer.place / "docs").rmdir()
    assert "lists `docs`" in (await pair.doer.worker.will_run(task)).obstacle
    await pair.doer.worker.approve(task, yes=True, reason="")
    ended = await pair.doer.until(task_id, "cancelled")
    assert (ended.code, pair.doer.shims.starts[task_id]) == ("path_refused", 0)
    assert "docs" not in ended.reason


async def test_limits_of_the_owners_profile_hold_the_task(pair: Pair) -> None:
    task_id, _link = await asked_narrowed(pair, "limits = { processes = 7 }")
    await pair.doer.until(task_id, "running")
    launch = pair.doer.shims.launches[task_id]
    order = cast("dict[str, Any]", launch.sandbox)["order"]
    assert (order["limits"]["NPROC"], order["limits"]["NOFILE"]) == (7, 4096)
    assert launch.judged is not None
    assert launch.judged[0] == str(pair.doer.place)


def test_no_tool_of_an_agent_approves() -> None:
    names = list(TOOLS)
    assert names
    assert not [name for name in names if "approve" in name or "trust" in name]


def child(code: str, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


GRANDCHILD = """
import os, sys
pid = os.fork()
if pid == 0:
    os.execve(sys.executable, [sys.executable, "-I", "-c", "input()"], {})
print(pid, flush=True)
input()
os.kill(pid, 9)
os.waitpid(pid, 0)
"""


def test_a_process_of_a_task_cannot_approve_even_with_its_mark_taken_off() -> None:
    require_no_task(os.getpid())
    with child(GRANDCHILD, {MARKER: "some-task"}) as process:
        assert process.stdout is not None
        unmarked = int(process.stdout.readline())
        for pid in (process.pid, unmarked):
            with pytest.raises(TaskRefused, match="cannot approve"):
                require_no_task(pid)
        process.communicate(b"\n", LIMIT_S)
    with child("print(1, flush=True); input()", {}) as process:
        assert process.stdout is not None
        process.stdout.readline()
        require_no_task(process.pid)
        process.communicate(b"\n", LIMIT_S)
