"""Two daemons, one of which forgets a task: the words go, and both audits still fit."""

import json
from typing import Any

import pytest

from tests.system.daemon.machine import Machine, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

WORD = "FORGETWORD"


def told(machine: Machine, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = machine.cli(*arguments, "--json")
    return done.returncode, json.loads(done.stdout)


def files_with_the_word(machine: Machine) -> list[str]:
    store = machine.state / "store"
    files = (path for path in store.rglob("*") if path.is_file())
    return [path.name for path in files if WORD.encode() in path.read_bytes()]


async def test_a_task_is_forgotten_by_its_owner_and_stays_so_after_a_backup_comes_back(
    pair: tuple[Machine, Machine],
) -> None:
    laptop, builder = pair
    task = await laptop.delegate("builder", "command:cat", builder.base / "app", prompt=WORD)
    await laptop.ended(task.task_id)

    async def acknowledged() -> bool | None:
        rows = await builder.sql(f"SELECT receipt FROM tasks WHERE task_id = '{task.task_id}'")
        return rows == [["complete"]] or None

    await eventually(acknowledged)
    saved = laptop.base / "laptop.backup"
    assert told(laptop, "audit", "backup", str(saved))[0] == 0
    assert saved.stat().st_mode & 0o077 == 0

    forget = ("audit", "forget", task.task_id)
    status, look = told(laptop, *forget, "--dry-run")
    assert (status, look["count"], look["asked"]) == (0, 1, False)
    assert laptop.cli(*forget, "--json").returncode == 2  # there is nobody to say yes
    assert files_with_the_word(laptop)
    status, done = told(laptop, *forget, "--yes")
    assert (status, done["done"], done["compacted"], done["not_compacted"]) == (0, True, True, "")
    assert files_with_the_word(laptop) == []
    assert files_with_the_word(builder)  # what the peer has is the peer's

    shown = await laptop.task(task.task_id)
    assert (shown.forgotten, shown.receipt, shown.state) == (True, "forgotten", "succeeded")
    assert told(laptop, *forget, "--yes")[1]["error"]["code"] == "task_refused"
    by = await laptop.sql("SELECT data->>'task' FROM audit WHERE kind = 'forgotten'")
    assert by == [[task.task_id]]
    for machine, peer in ((laptop, "builder"), (builder, "laptop")):
        status, audit = told(machine, "audit", "verify", "--against", peer)
        [one] = audit["against"]
        assert (status, one["verdict"], one["forgotten"]) == (0, "fits", 1), audit

    status, refused = told(laptop, "audit", "restore", str(saved), "--yes")
    assert (status != 0, refused["error"]["code"]) == (True, "store_busy")
    await laptop.stop()
    status, restored = told(laptop, "audit", "restore", str(saved), "--yes")
    assert status == 0, restored
    assert "/store.replaced" in restored["replaced"], restored
    await laptop.up()
    assert (await laptop.task(task.task_id)).forgotten
    status, audit = told(laptop, "audit", "verify")
    assert (status, audit["ok"]) == (0, True)
