"""Who is woken by the end of a task, how often, and with what."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cmesh.config import WakeConfig
from cmesh.daemon import wake as module
from cmesh.daemon.wake import Wake
from cmesh.model import TaskId, TaskState
from tests.fakes.half import Half, StillClock
from tests.unit.daemon.conftest import Pair

pytestmark = pytest.mark.anyio

LIMIT_S = 20.0
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": "/run/user/1", "SECRET": "x"}


class Woken:
    """A wake with a hook that keeps its input, and whatever the test says it is told."""

    def __init__(self, base: Path, script: str = "env > environment; cat >> woken") -> None:
        self.base = base
        self.told: set[TaskId] = set()
        self.config = WakeConfig(hook=("/bin/sh", "-c", f"cd {base}; {script}"))
        self.wake = Wake(lambda: self.config, ENVIRONMENT, self.told.__contains__)
        self.half = Half("asker", base, StillClock())
        self.worker = Half("doer", base, StillClock())

    def note(self, state: str = "succeeded") -> TaskId:
        record = self.half.record(self.worker)
        self.wake.note(record, state)
        return record.task_id

    async def lines(self, count: int) -> list[dict[str, Any]]:
        """Wait for as many wakes as that."""
        path = self.base / "woken"
        async with asyncio.timeout(LIMIT_S):
            while True:
                text = path.read_text("utf-8") if path.exists() else ""
                if text.count("\n") >= count:
                    return [json.loads(line) for line in text.splitlines()]
                await asyncio.sleep(0.01)


@pytest.fixture
async def woken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Woken]:
    monkeypatch.setattr(module, "GRACE_S", 0)
    made = Woken(tmp_path)
    yield made
    await made.wake.close()


async def test_a_hook_gets_id_and_state_and_nothing_else(woken: Woken) -> None:
    task_id = woken.note("failed")
    assert await woken.lines(1) == [{"task_id": task_id, "state": "failed"}]


async def test_a_hook_sees_only_what_it_needs_of_the_environment(woken: Woken) -> None:
    woken.note()
    woken.note()
    await woken.lines(2)
    seen = dict(
        line.split("=", 1) for line in (woken.base / "environment").read_text("utf-8").splitlines()
    )
    assert seen["DBUS_SESSION_BUS_ADDRESS"] == "unix:path=/run/user/1/bus"
    assert "SECRET" not in seen


async def test_one_wake_of_a_session_is_open_at_a_time_and_none_is_lost(woken: Woken) -> None:
    script = "mkdir open || echo twice >> woken; cat >> woken; rmdir open"
    woken.config = WakeConfig(hook=("/bin/sh", "-c", f"cd {woken.base}; {script}"))
    ids = [woken.note() for _ in range(5)]
    assert [line["task_id"] for line in await woken.lines(5)] == ids


async def test_a_session_that_was_told_is_not_woken(woken: Woken) -> None:
    woken.told.add(woken.note())
    last = woken.note()
    assert [line["task_id"] for line in await woken.lines(1)] == [last]


async def test_a_hook_that_hangs_is_ended_and_the_next_is_woken(
    woken: Woken, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "HOOK_LIMIT_S", 0.2)
    script = "if [ -e first ]; then cat >> woken; else touch first; sleep 300; fi"
    woken.config = WakeConfig(hook=("/bin/sh", "-c", f"cd {woken.base}; {script}"))
    woken.note()
    last = woken.note()
    assert [line["task_id"] for line in await woken.lines(1)] == [last]
    assert [record.message for record in caplog.records] == ["wake_failed"]


async def test_a_hook_that_cannot_start_is_logged_and_harms_nothing(
    woken: Woken, caplog: pytest.LogCaptureFixture
) -> None:
    good = woken.config
    woken.config = WakeConfig(hook=("/does/not/exist",))
    woken.note()
    while not caplog.records:
        await asyncio.sleep(0.01)
    woken.config = good
    last = woken.note()
    assert [line["task_id"] for line in await woken.lines(1)] == [last]


async def test_the_caller_is_woken_once_by_an_end_and_the_owner_by_an_approval(pair: Pair) -> None:
    pair.doer.configure(pair.doer.rule('approval = "ask"'))
    await pair.connect()
    task_id = await pair.asker.delegate(pair.doer)
    waiting = await pair.doer.until(task_id, "waiting")
    assert pair.doer.wakes == [(task_id, TaskState.WAITING_APPROVAL)]
    assert pair.asker.wakes == []
    await pair.doer.worker.approve(waiting, yes=True, reason="")
    await pair.doer.until(task_id, "running")
    pair.doer.shims.finish(task_id)
    await pair.asker.until(task_id, "succeeded")
    await pair.connect()
    await pair.doer.acknowledged(task_id)
    assert pair.asker.wakes == [(task_id, "succeeded")]
    assert len(pair.doer.wakes) == 1
