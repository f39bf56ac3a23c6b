"""Abuse 19 and 21: no secret is handed on, and none stays where it is not needed.

30 canaries in two daemons: in key files, in the environment, in a prompt, and in what a task
prints. Looked for in every file that is left, every row of both stores, and every process.
"""

import random
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmesh.daemon.arguments import ResultArguments
from cmesh.model import TaskState
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import Machine, eventually
from tests.unit.test_redact import CORES, SECRETS

pytestmark = [pytest.mark.anyio, pytest.mark.system]

LETTERS = string.ascii_letters + string.digits
TABLES = (
    "log", "task_row", "step_row", "event_row", "decision_row", "result_row", "receipt_row",
    "trust_row", "audit_row",
)  # fmt: skip
LEAK = "cat canaries.txt; cat canaries.txt >&2; cat; exit 3"
SLOW = "head -c 40 canaries.txt; sleep 0.3; tail -c +41 canaries.txt"


def made(kind: str) -> str:
    return kind + "".join(random.Random(kind).choices(LETTERS, k=24))  # of no known form


KEY_FILE, PASSED, PROMPT_KNOWN, OWN_ENV = map(made, ("keyfile", "passed", "laptopkey", "inherit"))
KNOWN = (KEY_FILE, PASSED, PROMPT_KNOWN, made("again"), made("twice"))
ALLOWED = {"PATH", "LANG", "HOME", "TMPDIR", "DEPLOY_TOKEN", "CMESH_DIRECTORY"}
CANARIES = {**CORES, **{value[:7]: value for value in KNOWN}}


def files(directory: Path) -> Iterator[Path]:
    yield from (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def leaks_in_files(directory: Path, *, but: tuple[Path, ...]) -> list[str]:
    return [
        f"{name} in {path.relative_to(directory)}"
        for path in files(directory)
        if not any(path.is_relative_to(own) for own in but)
        for name, canary in CANARIES.items()
        if canary.encode() in path.read_bytes()
    ]


async def leaks_in_rows(machine: Machine) -> list[str]:
    """Look into what a view shows: the file itself is compressed."""
    found: list[str] = []
    for table in TABLES:
        text = str(await machine.sql(f"SELECT * FROM {table}"))  # names above
        found += [f"{name} in {table}" for name, canary in CANARIES.items() if canary in text]
    return found


def leaks_in_processes(machine: Machine) -> list[str]:
    """Look at argv and environment of the daemon and of all that it started.

    The environment of the daemon itself is its owner's, who put a canary there.
    """
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*"):
        for part in ("cmdline", "environ"):
            try:
                data = (path / part).read_bytes()
            except OSError:
                continue
            ours = str(machine.state).encode() in data
            if not ours or (part == "environ" and path.name == str(machine.pid)):
                continue
            found += [
                f"{name} in {path}/{part}" for name, c in CANARIES.items() if c.encode() in data
            ]
    return found


def result_of(task_id: str) -> ResultArguments:
    return ResultArguments(task_id=task_id, part="output")


async def complete(machine: Machine, task_id: str) -> None:
    """Wait until a worker needs nothing of a task any more: its spool is gone then."""

    async def settled() -> bool | None:
        there = (machine.state / "tasks" / task_id).exists()
        return None if there or (await machine.task(task_id)).receipt != "complete" else True

    await eventually(settled)


async def test_21_thirty_canaries_are_in_no_store_log_spool_argv_or_receipt(
    make_machine: MakeMachine, ground: Path
) -> None:
    place = ground / "vault" / "app"
    text = command("leak", "/bin/sh", "-c", LEAK) + command("slow", "/bin/sh", "-c", SLOW)
    text += '[commands.told]\nargv = ["/usr/bin/env"]\nenv_pass = ["DEPLOY_TOKEN"]\n'
    text += '[runners.claude]\nkey_file = "claude.key"\n'
    text += inbound(place, ["command:leak", "command:slow", "command:told"])
    desk = await make_machine("desk", OUTBOUND)
    vault = await make_machine("vault", text)
    for machine, name, value in ((vault, "claude.key", KEY_FILE), (desk, "x.key", PROMPT_KNOWN)):
        (machine.config / name).write_text(value + "\n", "utf-8")
        (machine.config / name).chmod(0o600)
    await desk.configure(f'[runners.claude]\nkey_file = "x.key"\n{OUTBOUND}')
    canaries = vault.directory("app") / "canaries.txt"
    lines = [f"{name}: {secret}" for name, secret in SECRETS.items()]
    canaries.write_text("\n".join([*lines, *KNOWN[:2], "the end"]) + "\n", "utf-8")
    canaries.chmod(0o644)
    await vault.start(environment={"DEPLOY_TOKEN": PASSED, "OTHER_TOKEN": OWN_ENV})
    await vault.up()
    await desk.up()
    told = await desk.delegate("vault", "command:told", place)
    await vault.trust(desk)
    await desk.ended(told.task_id)
    environment = (await desk.call("get_result", result_of(told.task_id)))["text"]
    names = {line.partition("=")[0] for line in environment.splitlines()}
    assert names - {"CMESH_TASK", "PWD", "SHLVL", "_"} == ALLOWED
    assert not any(value in environment for value in (PASSED, OWN_ENV, KEY_FILE))

    prompt = f"use {SECRETS['github']} and {PROMPT_KNOWN} and {SECRETS['jwt']}"
    leak = await desk.delegate("vault", "command:leak", place, prompt=prompt)
    assert leak.prompt_redacted == 3
    slow = await desk.delegate("vault", "command:slow", place, new=True)
    ended = [await desk.ended(view.task_id) for view in (leak, slow)]
    assert [view.state for view in ended] == [TaskState.FAILED, TaskState.SUCCEEDED]
    # Both streams of the one, which also said the prompt again; the other's one stream.
    assert min(view.redacted for view in ended) >= len(SECRETS) + 2
    for view in ended:
        await complete(vault, view.task_id)
        got = await desk.call("get_result", result_of(view.task_id))
        assert "the end" in got["text"]
        assert [name for name, canary in CANARIES.items() if canary in got["text"]] == []
        assert got["redacted"] == view.redacted

    own = (vault.config, desk.config, vault.base / "app")
    assert [*leaks_in_processes(vault), *leaks_in_processes(desk)] == []
    assert [*await leaks_in_rows(vault), *await leaks_in_rows(desk)] == []
    assert leaks_in_files(ground, but=own) == []
    for machine in (vault, desk):
        done = machine.cli("audit", "verify", "--json")
        assert done.returncode == 0, done.stdout
