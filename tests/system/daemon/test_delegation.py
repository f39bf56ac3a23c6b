"""Delegations between two real daemons, over the real embedded node."""

import hashlib
from pathlib import Path

import pytest

from cmesh.daemon.arguments import CancelArguments, ResultArguments
from cmesh.errors import PolicyDenied, TaskConflict, UnknownPeer
from cmesh.model import Profile, TaskState
from tests.system.daemon.machine import Machine, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system]

Pair = tuple[Machine, Machine]


@pytest.fixture
def place(ground: Path) -> Path:
    return ground / "builder" / "app"


async def test_a_command_runs_and_its_output_comes_back(pair: Pair, place: Path) -> None:
    laptop, builder = pair
    view = await laptop.delegate(
        "builder", "command:cat", place, prompt="hello from the laptop", wait_s=30
    )
    assert (view.state, view.exit_code) == (TaskState.SUCCEEDED, 0)
    assert view.witness == "shim recorded exit 0"
    result = await laptop.call("get_result", ResultArguments(task_id=view.task_id, part="output"))
    assert result["text"] == "hello from the laptop"
    assert result["sha256"] == hashlib.sha256(b"hello from the laptop").hexdigest()
    worker = await builder.task(view.task_id)
    assert (worker.state, worker.witness) == (TaskState.SUCCEEDED, "shim recorded exit 0")
    assert worker.rule == "the laptop may work here"


async def test_both_sides_hold_both_signatures_and_the_same_hash(pair: Pair, place: Path) -> None:
    laptop, builder = pair
    view = await laptop.delegate("builder", "command:true", place, wait_s=30)

    async def complete() -> bool | None:
        there = await builder.task(view.task_id)
        return there.receipt == "complete" or None

    await eventually(complete)
    query = f"SELECT task_id, payload_hash, state FROM tasks WHERE task_id = '{view.task_id}'"
    assert await laptop.sql(query) == await builder.sql(query)
    assert (await laptop.task(view.task_id)).receipt == "complete"


async def test_a_failing_command_is_a_failed_task_with_its_words(pair: Pair, place: Path) -> None:
    laptop, _ = pair
    view = await laptop.delegate("builder", "command:fail", place, wait_s=30)
    assert (view.state, view.exit_code) == (TaskState.FAILED, 3)
    assert "went wrong" in view.summary


async def test_a_directory_outside_the_rule_is_denied_and_nothing_starts(
    pair: Pair, place: Path
) -> None:
    laptop, builder = pair
    view = await laptop.delegate("builder", "command:true", Path("/etc"), wait_s=30)
    assert (view.state, view.code) == (TaskState.DENIED, "policy_denied")
    assert "path" in view.reason
    assert "the laptop may work here" not in view.reason
    assert view.advice == f"ask for what `builder` offers this node: paths `{place}`"
    there = await builder.task(view.task_id)
    assert there.state is TaskState.DENIED
    denied = f"SELECT failed FROM denials WHERE task_id = '{view.task_id}'"
    assert "path" in str(await builder.sql(denied))
    assert not (builder.state / "tasks" / view.task_id).exists()


async def test_a_profile_without_a_sandbox_is_refused_by_its_name(pair: Pair, place: Path) -> None:
    laptop, _ = pair
    view = await laptop.delegate("builder", "command:true", place, profile=Profile.QUERY, wait_s=30)
    assert view.state is TaskState.DENIED
    assert view.code in {"policy_denied", "sandbox_unavailable"}


async def test_an_outbound_rule_is_needed_too(pair: Pair, place: Path) -> None:
    laptop, _ = pair
    before = await laptop.sql("SELECT count(*) FROM denials")
    rules = laptop.config_file.read_text("utf-8")
    await laptop.configure()
    try:
        with pytest.raises(PolicyDenied) as refused:
            await laptop.delegate("builder", "command:true", place)
    finally:
        laptop.config_file.write_text(rules, "utf-8")
    assert "outbound" in refused.value.hint
    assert await laptop.sql("SELECT count(*) FROM denials") == [[before[0][0] + 1]]


async def test_an_unknown_peer_gets_the_nearest_names(pair: Pair, place: Path) -> None:
    laptop, _ = pair
    with pytest.raises(UnknownPeer) as refused:
        await laptop.delegate("bilder", "command:true", place)
    assert "`builder`" in refused.value.hint


async def test_a_key_makes_one_task_of_many_calls(pair: Pair, place: Path) -> None:
    laptop, builder = pair
    first = await laptop.delegate("builder", "command:true", place, idempotency_key="k1")
    again = await laptop.delegate("builder", "command:true", place, idempotency_key="k1")
    assert first.task_id == again.task_id
    with pytest.raises(TaskConflict):
        await laptop.delegate("builder", "command:cat", place, idempotency_key="k1")
    await laptop.ended(first.task_id)
    count = f"SELECT count(*) FROM tasks WHERE task_id = '{first.task_id}'"
    assert await builder.sql(count) == [[1]]


async def test_the_same_call_while_the_first_is_open_is_the_same_task(
    pair: Pair, place: Path
) -> None:
    laptop, _ = pair
    first = await laptop.delegate("builder", "command:sleep", place)
    again = await laptop.delegate("builder", "command:sleep", place)
    new = await laptop.delegate("builder", "command:sleep", place, new=True)
    assert again.task_id == first.task_id == again.duplicate_of
    assert new.task_id != first.task_id
    for view in (first, new):
        await laptop.call("cancel_task", CancelArguments(task_id=view.task_id))
        assert (await laptop.ended(view.task_id)).state is TaskState.CANCELLED


async def test_cancel_ends_a_stubborn_tree_and_counts_zero(pair: Pair, place: Path) -> None:
    laptop, _ = pair
    view = await laptop.delegate("builder", "command:stubborn", place)

    async def ready() -> bool | None:
        events = (await laptop.task(view.task_id)).events
        return any(event.text == "ready" for event in events) or None

    await eventually(ready)
    await laptop.call("cancel_task", CancelArguments(task_id=view.task_id))
    ended = await laptop.ended(view.task_id)
    assert (ended.state, ended.processes_left) == (TaskState.CANCELLED, 0)


async def test_a_task_that_takes_too_long_is_timed_out(pair: Pair, place: Path) -> None:
    laptop, _ = pair
    view = await laptop.delegate("builder", "command:sleep", place, timeout_s=1, wait_s=30)
    assert view.state is TaskState.TIMED_OUT
    assert "deadline" in view.witness


async def test_a_long_output_is_cut_counted_and_fetched_whole(pair: Pair, place: Path) -> None:
    laptop, _ = pair
    view = await laptop.delegate("builder", "command:flood", place, wait_s=40)
    ended = await laptop.ended(view.task_id)
    assert ended.state is TaskState.SUCCEEDED
    columns = "output_bytes, output_kept, truncated, output_sha256"
    rows = await laptop.sql(f"SELECT {columns} FROM results WHERE task_id = '{view.task_id}'")
    kept = 16 * 1024 * 1024
    expected = hashlib.sha256((b"flood\n" * 8_000_000)[:kept]).hexdigest()
    assert rows == [[40_000_000, kept, True, expected]]
    tail = await laptop.call(
        "get_result",
        ResultArguments(task_id=view.task_id, part="output", offset=kept - 6, limit=10),
    )
    assert (len(tail["text"]), tail["next_offset"], tail["truncated"]) == (6, None, True)


async def test_more_tasks_than_places_all_end(pair: Pair, place: Path) -> None:
    laptop, _ = pair
    views = [
        await laptop.delegate("builder", "command:cat", place, prompt=str(number))
        for number in range(6)
    ]
    for view in views:
        assert (await laptop.ended(view.task_id)).state is TaskState.SUCCEEDED
