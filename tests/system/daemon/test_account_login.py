"""Logins of accounts: made by the real agents in homes of cmesh's, added by the gateway, renewed."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmesh.model import Profile, TaskState
from cmesh.runner.manifest import built_in_text
from tests.fakes.issuer import ACCOUNT, CLIENT, Issuer
from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import CLAUDE, CODEX
from tests.system.daemon.conftest import OUTBOUND, MakeMachine
from tests.system.daemon.machine import Machine, eventually, here

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(180)]

TOKEN = "sk-ant-oat01-of-the-owners-account-2f9c"
END_LIMIT_S = 60.0

CONFIG = """
[runners.{name}]
program = "{program}"
base_url = "{url}"

[[inbound.allow]]
name = "the laptop may look"
peers = ["user:me@example.com"]
operations = ["task"]
profiles = ["query"]
runners = ["{name}"]
paths = ["{place}"]
"""


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


async def pair(make_machine: MakeMachine, name: str, program: Path, url: str) -> list[Machine]:
    """Return a laptop and a builder that trusts it; the agent has no credential yet."""
    laptop = await make_machine(f"laptop-{name}", OUTBOUND, user=here())
    builder = await make_machine(f"builder-{name}")
    place = builder.directory("app")
    await builder.configure(CONFIG.format(name=name, program=program, url=url, place=place))
    return [laptop, builder]


async def run(laptop: Machine, builder: Machine, name: str, prompt: str = "<<fake:hello>>"):
    place = builder.base / "app"
    view = await laptop.delegate(
        builder.name, name, place, prompt=prompt, profile=Profile.QUERY, new=True, wait_s=0
    )
    await builder.trust(laptop)
    return await laptop.ended(view.task_id, END_LIMIT_S)


def everything(machine: Machine) -> str:
    """Return all that a machine keeps but the login itself: its logs, tasks and rows.

    The daemon deletes an ended task's directory meanwhile, so a name may be gone when it is read.
    """
    text = [machine.log_text()]
    for folder, _folders, names in os.walk(machine.base):
        for name in names if Path(folder).name != "logins" else ():
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_size < 64 << 20:
                    text.append(path.read_bytes().decode("latin-1"))
    return "".join(text)


async def test_codex_logs_in_by_device_and_the_daemon_renews_it(
    make_machine: MakeMachine, model: ModelServer, issuer: Issuer
) -> None:
    if CODEX is None:
        pytest.skip("no `codex`: set CMESH_TEST_CODEX, or install it under .cache/npm")
    laptop, builder = await pair(make_machine, "codex", CODEX, f"{model.url}/v1")
    own = builder.directory("config/runners") / "codex.toml"
    own.parent.chmod(0o700)
    login = f'"--device-auth", "--experimental_issuer", "{issuer.url}"'
    text = built_in_text("codex").replace(
        '"--device-auth"', f'{login}, "--experimental_client-id", "{CLIENT}"'
    )
    own.write_text(text.replace("https://auth.openai.com", issuer.url), "utf-8")
    own.chmod(0o600)
    builder.directory("app")  # once more, so that these are the machine's user's
    await builder.up()
    await laptop.up()
    issuer.lasts_s = 60  # so near its end that the first request renews it
    done = builder.cli("runners", "login", "codex", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["renews"] is True
    assert "ABCD-1234" in done.stderr  # what its owner types at the provider's page
    kept = builder.state / "logins"
    assert [path.name for path in kept.iterdir()] == ["codex.json"]
    assert kept.joinpath("codex.json").stat().st_mode & 0o777 == 0o600

    issuer.lasts_s = 3600
    view = await run(laptop, builder, "codex")
    assert view.state is TaskState.SUCCEEDED, view
    assert view.credential == "gateway"
    assert set(model.keys) == {issuer.access[1]}
    assert {asked["chatgpt-account-id"] for asked in model.headers} == {ACCOUNT}
    assert issuer.renewals == [
        {"grant_type": "refresh_token", "client_id": CLIENT, "refresh_token": issuer.refresh[0]}
    ]
    shown = builder.cli("runners", "list")
    assert "account → gateway, renewed by the daemon" in shown.stdout
    rows = await builder.sql("SELECT kind FROM audit WHERE kind LIKE 'login%' ORDER BY seq")
    assert rows == [["login_kept"], ["login_renewed"]]

    issuer.lasts_s = 60
    assert builder.cli("runners", "login", "codex").returncode == 0
    issuer.refuses = 401  # its owner has ended it at the provider's
    view = await run(laptop, builder, "codex", "again <<fake:hello>>")
    assert view.state is TaskState.FAILED
    assert "the login of runner `codex` on this machine has expired" in view.summary + view.reason
    view = await run(laptop, builder, "codex", "once more")
    assert (view.state, view.code) == (TaskState.DENIED, "login_expired")
    assert "cmesh runners login codex" in view.reason
    problem = next(one for one in (await builder.status()).problems if one.code == "login_expired")
    assert problem.next == "cmesh runners login codex"
    assert len(issuer.renewals) == 2  # who was refused is not asked again

    said = everything(builder) + everything(laptop)
    assert not [one for one in (*issuer.access, *issuer.refresh) if one in said]
    assert builder.cli("runners", "logout", "codex").returncode == 0
    assert list(kept.iterdir()) == []


async def test_claude_asks_with_the_token_of_its_account_which_no_task_holds(
    make_machine: MakeMachine, model: ModelServer
) -> None:
    if CLAUDE is None:
        pytest.skip("no `claude`: set CMESH_TEST_CLAUDE, or install it under .cache/npm")
    laptop, builder = await pair(make_machine, "claude", CLAUDE, model.url)
    await builder.up()
    await laptop.up()
    refused = builder.cli("runners", "login", "claude", given="sk-ant-api03-a-key-not-a-token\n")
    assert refused.returncode != 0
    assert "begins with `sk-ant-oat`" in refused.stderr
    assert "a-key-not-a-token" not in refused.stderr
    done = builder.cli("runners", "login", "claude", given=f"{TOKEN}\n")
    assert done.returncode == 0, done.stderr
    order = {"tool": "$shell", "input": {"command": "env; cat /proc/self/environ"}}
    model.scripts = {"look": [order, {"text": "it holds {{last_tool_result}}"}]}
    view = await run(laptop, builder, "claude", "<<fake:look>>")
    assert view.state is TaskState.SUCCEEDED, view
    assert view.credential == "gateway"
    assert set(model.keys) == {TOKEN}
    assert "x-api-key" not in model.headers[0]
    assert "CLAUDE_CONFIG_DIR=" in json.dumps(model.requests[-1])  # the command has run
    assert TOKEN not in json.dumps(model.requests)
    assert TOKEN not in everything(builder) + everything(laptop)

    checked = builder.cli("runners", "check", "claude")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok  login: an account's, made " in checked.stdout
    full = await laptop.delegate(
        builder.name, "claude", builder.base / "app", profile=Profile.FULL, wait_s=0
    )
    assert (await laptop.ended(full.task_id)).state is TaskState.DENIED
    assert builder.cli("runners", "logout", "claude").returncode == 0

    async def gone() -> bool | None:
        view = await run(laptop, builder, "claude", "and now")
        return view.code == "runner_unavailable" or None

    assert await eventually(gone)
