"""The wizard: real agents set two machines up, and a person confirms at a terminal of their own.

The agents' model is scripted; the person is a script at a terminal. Everything else is real.
"""

import asyncio
import contextlib
import json
import os
import pty
import pwd
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import mcp_types as types
import pytest
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.client.stdio import StdioServerParameters, stdio_client

from cmesh.clock import SystemClock
from cmesh.daemon.arguments import NoArguments
from cmesh.daemon.setup_answers import SetupChangeView, SetupPendingView, SetupView
from cmesh.daemon.setup_arguments import (
    SetupCheckArguments,
    SetupConfirmArguments,
    SetupStepArguments,
    SetupUndoArguments,
)
from cmesh.errors import PlanGone, RootRefused, SetupBusy, TaskRefused
from cmesh.interfaces.client import ControlClient
from cmesh.node.testnet import Testnet
from cmesh.paths import control_socket
from cmesh.setup.records import Applied, Records
from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import CLAUDE, CODEX, AgentRun, claude_run, codex_run
from tests.system.daemon.conftest import MakeMachine, command
from tests.system.daemon.machine import ME, Machine, as_user, eventually, here, worker_user
from tests.system.daemon.terminal import at_terminal

RUN_LIMIT_S = 120.0
KEEP = "30d"

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(180)]
_AGENTS = [
    pytest.param("claude", marks=pytest.mark.skipif(CLAUDE is None, reason="no `claude`")),
    pytest.param("codex", marks=pytest.mark.skipif(CODEX is None, reason="no `codex`")),
]


SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
async def fresh(ground: Path, testnet: Testnet) -> AsyncIterator[Machine]:
    """Return a machine on which nobody has configured anything; its daemon runs."""
    machine = Machine("fresh", ground, testnet, here())
    # Agents on its PATH would be offered first, and who runs this may have some there.
    machine.path = SYSTEM_PATH
    await machine.start()
    yield machine
    await machine.stop()
    shutil.rmtree(machine.base)


def call(tool: str, **arguments: object) -> dict[str, object]:
    return {"tool": f"mcp__cmesh__{tool}", "input": arguments}


async def look(machine: Machine) -> SetupView:
    return SetupView.model_validate(await machine.call("setup_check", SetupCheckArguments()))


async def waiting(machine: Machine) -> SetupPendingView | None:
    view = SetupPendingView.model_validate(await machine.call("setup_pending", NoArguments()))
    return view if view.plan is not None else None


def person(
    machine: Machine,
    *typed: str,
    arguments: tuple[str, ...] = ("confirm",),
    user: pwd.struct_passwd | None = None,
) -> tuple[int, str]:
    """Run a command at a terminal of its own, as a person does; return status and screen.

    Each line is typed when the screen asks something more.
    """
    parent, child = pty.openpty()
    argv = ["setsid", "--ctty", "--wait", *machine.command(*arguments)]
    clean = machine.environment() | {"TERM": "dumb"}
    with subprocess.Popen(
        argv,
        env=clean,
        cwd=machine.base,
        stdin=child,
        stdout=child,
        stderr=child,
        **as_user(user or here()),
    ) as process:
        os.close(child)
        seen, asked = b"", 0
        lines = list(typed)
        with contextlib.suppress(OSError):  # EIO: the program has ended
            while data := os.read(parent, 65_536):
                seen += data
                prompts = len(re.findall(rb"(?:\]|\?|code:) $", seen[asked:]))
                if prompts and lines:
                    asked = len(seen)
                    os.write(parent, f"{lines.pop(0)}\n".encode())
        os.close(parent)
        return process.wait(30), seen.decode()


def run_of(name: str, machine: Machine, url: str, prompt: str) -> AgentRun:
    """Return a run of an agent that may use cmesh's tools and a shell without a question."""
    if name == "claude":
        run = claude_run(machine, url, prompt)
        argv = (*run.argv, "Bash")
    else:
        run = codex_run(machine, url, prompt)
        argv = (*run.argv[:-2], "-s", "danger-full-access", *run.argv[-2:])
    return AgentRun(name=name, argv=argv, environment=run.environment, directory=run.directory)


async def ask(run: AgentRun) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        run.argv,
        cwd=run.directory,
        env=run.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def confirms(machine: Machine, word: str = "y") -> str:
    """Be the person: wait for a change, look at it and say yes, or a code; return the screen."""
    await eventually(lambda: waiting(machine), RUN_LIMIT_S)
    status, screen = await asyncio.to_thread(person, machine, word)
    assert status == 0, screen
    return screen


async def logs_in(machine: Machine, testnet: Testnet) -> None:
    async def page() -> str | None:
        return (await machine.status()).login_url or None

    await testnet.complete_login(await eventually(page, RUN_LIMIT_S), ME)


@pytest.mark.parametrize("agent", _AGENTS)
async def test_an_agent_sets_a_machine_up_and_its_person_confirms(
    agent: str, fresh: Machine, testnet: Testnet, model: ModelServer
) -> None:
    wait = call("setup_check", wait_s=40)
    model.scripts = {
        "setup": [
            call("setup_check"),
            call(
                "setup_step",
                step="machine",
                name="fresh",
                control_url=testnet.control_url,
                keep_text=KEEP,
            ),
            wait,  # for the confirmation
            wait,  # for the login
            {"text": "The end: {{last_tool_result}}"},
        ]
    }
    run = run_of(agent, fresh, model.url, "help me setup cmesh <<fake:setup>>")
    said, screen, _ = await asyncio.gather(ask(run), confirms(fresh), logs_in(fresh, testnet))
    assert f'keep_text = "{KEEP}"' in screen
    assert testnet.control_url in screen
    view = await look(fresh)
    assert {step.name for step in view.steps if step.done} >= {"machine", "login"}
    assert "up" in said
    assert "unexpected failure" not in json.dumps(model.requests)
    pending_id = re.search(r"s-[0-9a-f]{8}", json.dumps(model.requests))
    assert pending_id  # the plan is named to the model
    [[data]] = await fresh.sql("SELECT data FROM audit WHERE kind = 'setup_applied'")
    digest = json.loads(data)["plan_sha256"]
    assert digest not in json.dumps(model.requests)  # what binds a confirmation is not


@pytest.mark.parametrize("agent", _AGENTS)
async def test_a_model_that_confirms_by_itself_changes_nothing(
    agent: str, fresh: Machine, testnet: Testnet, model: ModelServer
) -> None:
    variables = " ".join(
        f"{key}={shlex.quote(value)}" for key, value in fresh.environment().items()
    )
    confirm = f"env {variables} {shlex.join(fresh.command('confirm'))}"
    yes = "while echo y; do sleep 0.2; done"  # a terminal echoes what `yes` says, without end
    tries = [
        f"{confirm} 2>&1; echo status $?",
        f"yes | {confirm} 2>&1; echo status $?",
        f"{yes} | script -qec {shlex.quote(confirm)} /dev/null 2>&1; echo status $?",
        f"{yes} | setsid script -qec {shlex.quote(f'env -i {variables} {confirm}')} /dev/null; echo $?",
    ]
    tool, key = {"claude": ("$shell", "command"), "codex": ("exec_command", "cmd")}[agent]
    shells = [{"tool": tool, "input": {key: line}} for line in tries]
    model.scripts = {
        "greedy": [
            call("setup_step", step="machine", name="fresh", control_url=testnet.control_url),
            *shells,
            {"text": "{{last_tool_result}}"},
        ]
    }
    await ask(run_of(agent, fresh, model.url, "set it up yourself <<fake:greedy>>"))
    heard = json.dumps(model.requests[-1])
    # The first two have no terminal; the others make one, and are seen to come from an agent.
    assert heard.count("nobody is at a terminal to confirm this") >= 2
    assert heard.count("an agent confirms nothing") == 2
    assert not fresh.config_file.exists()
    assert await waiting(fresh) is not None
    assert (await look(fresh)).phase == "setup"


async def plans(machine: Machine, **step: object) -> SetupChangeView:
    arguments = SetupStepArguments.model_validate(step)
    return SetupChangeView.model_validate(await machine.call("setup_step", arguments))


async def test_a_program_that_says_yes_to_every_form_changes_no_policy(
    fresh: Machine, testnet: Testnet
) -> None:
    codex = fresh.base / ".codex" / "config.toml"
    codex.parent.mkdir()
    codex.write_text("# mine\n", "utf-8")
    asked: list[str] = []

    async def yes(
        context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult:
        del context
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"apply": True})

    async def stands(client: Client, tool: str, **arguments: object) -> object:
        done = await client.call_tool(tool, arguments)
        return cast("dict[str, object]", done.structured_content)["state"]

    command = fresh.command("mcp")
    server = StdioServerParameters(
        command=command[0], args=command[1:], env=fresh.environment(), cwd=fresh.base
    )
    machine = {"step": "machine", "control_url": testnet.control_url, "keep_text": KEEP}
    for mode in ("legacy", "auto"):  # the two eras of the protocol
        async with Client(
            stdio_client(server), mode=cast("Any", mode), elicitation_callback=yes
        ) as client:
            assert await stands(client, "setup_step", **machine, name="fresh") == "waiting"
            assert not fresh.config_file.exists()
            assert (asked, codex.read_text("utf-8")) == ([], "# mine\n")
    await asyncio.gather(confirms(fresh), logs_in(fresh, testnet))
    written = fresh.config_file.read_bytes()
    for mode in ("legacy", "auto"):
        async with Client(
            stdio_client(server), mode=cast("Any", mode), elicitation_callback=yes
        ) as client:
            assert (
                await stands(client, "setup_step", **machine | {"keep_text": "forever"})
                == "waiting"
            )
            # One that only registers cmesh with an agent here widens nothing.
            assert await stands(client, "setup_step", step="agents") == "applied"
            assert "[mcp_servers.cmesh]" in codex.read_text("utf-8")
            # To keep texts for ever does; a word of a form is refused by the daemon itself.
            assert await stands(client, "setup_undo", step="machine") == "waiting"
            found = await waiting(fresh)
            assert found is not None
            assert found.plan is not None
            word = SetupConfirmArguments(
                plan_id=found.plan.plan_id, sha256=found.sha256, accept=True, by_form=True
            )
            with pytest.raises(TaskRefused, match="a form is not enough"):
                await fresh.call("setup_confirm", word)
            assert await stands(client, "setup_undo", step="agents") == "applied"
    assert fresh.config_file.read_bytes() == written
    assert [text.count("+[mcp_servers.cmesh]") for text in asked] == [1, 1]
    rows = await fresh.sql("SELECT data FROM audit WHERE kind = 'setup_applied' ORDER BY seq")
    [first, *others] = [json.loads(data) for [data] in rows]
    assert (first["step"], first["by_form"]) == ("machine", False)
    assert {(one["step"], tuple(one["widens"])) for one in others} == {("agents", ())}
    assert [one["by_form"] for one in others] == [True, False] * 2


async def test_a_confirmation_is_of_one_change_once_and_from_a_terminal(fresh: Machine) -> None:
    machine = {"step": "machine", "control_url": "http://127.0.0.1:9"}
    planned = await plans(fresh, **machine, name="fresh")
    found = await waiting(fresh)
    assert found is not None
    word = SetupConfirmArguments(plan_id=planned.plan.plan_id, sha256=found.sha256, accept=True)
    with pytest.raises(TaskRefused, match="nobody is at a terminal"):
        await fresh.call("setup_confirm", word)  # everything is right but who says it
    async with ControlClient(control_socket(fresh.state), session="another") as other:
        with pytest.raises(SetupBusy):
            await other.setup_step(SetupStepArguments(step="machine"))
    # A changed plan is another one.
    await plans(fresh, **machine, name="other")
    with pytest.raises(PlanGone):
        await fresh.call("setup_confirm", word.model_copy(update={"accept": False}))
    assert (await asyncio.to_thread(person, fresh, "n"))[0] == 1
    assert not fresh.config_file.exists()
    # So is one whose file was changed by somebody meanwhile.
    await plans(fresh, **machine, name="fresh")
    fresh.config.mkdir(mode=0o700, exist_ok=True)
    fresh.config_file.write_text("# mine\n", "utf-8")
    fresh.config_file.chmod(0o600)
    status, screen = await asyncio.to_thread(person, fresh, "y")
    assert (status, "has changed since" in screen) == (PlanGone.exit_status, True)
    assert fresh.config_file.read_text("utf-8") == "# mine\n"
    assert (await asyncio.to_thread(person, fresh, "y"))[0] == PlanGone.exit_status


async def test_a_yes_that_was_typed_before_the_change_was_shown_is_none(fresh: Machine) -> None:
    await plans(fresh, step="machine", name="fresh", control_url="http://127.0.0.1:9")
    async with at_terminal(fresh, "confirm") as shows:
        shows.type("y")  # as two lines do that somebody was told to paste
        await shows.screen_until("apply it?")
        shows.type("n")
        assert (await shows.end())[0] == 1
    assert not fresh.config_file.exists()


async def test_an_end_in_the_midst_of_a_change_is_settled_by_the_next_daemon(
    fresh: Machine,
) -> None:
    planned = await plans(fresh, step="machine", name="fresh", control_url="http://127.0.0.1:9")
    records = Records(fresh.state)
    pending = records.pending(SystemClock().now())
    assert pending is not None
    fresh.kill()
    half = Applied(plan_id=planned.plan.plan_id, plan=pending.plan, at=pending.made_at)
    records.keep(half)  # what a daemon has written that ended before it wrote the file
    await fresh.start()
    assert (await look(fresh)).waiting is not None  # it waits over the restart
    assert records.applied()[0].undone
    assert (await asyncio.to_thread(person, fresh, "y"))[0] == 0
    assert fresh.config_file.exists()


@pytest.mark.parametrize("agent", _AGENTS)
async def test_two_machines_meet_by_two_confirmations_and_part_by_one_call(
    agent: str, fresh: Machine, make_machine: MakeMachine, testnet: Testnet, model: ModelServer
) -> None:
    # Names are unique within a module's tailnet.
    builder = await make_machine(f"builder-{agent}", command("look", "/bin/cat"))
    place = builder.directory("app")
    owner = worker_user()
    await builder.up()
    await plans(
        fresh, step="machine", name="fresh", control_url=testnet.control_url, keep_text=KEEP
    )
    await asyncio.gather(confirms(fresh), logs_in(fresh, testnet))
    me = (await fresh.up()).node.partition(".")[0]  # another test's `fresh` may have the name

    async def sees(machine: Machine, other: str) -> SetupView | None:
        view = await look(machine)
        found = [peer for peer in view.peers if peer.name == other and peer.trust == "waiting"]
        return view if found else None

    # Both have called; neither has a rule, and each is told whom it may meet.
    await look(fresh)
    await eventually(lambda: sees(builder, me))
    view = await eventually(lambda: sees(fresh, builder.name))
    assert view.next.arguments["peer"] == builder.name
    if os.getuid() == 0:  # then `fresh` would refuse each task
        with pytest.raises(RootRefused):
            await plans(fresh, step="peer", peer=builder.name, allow="work", directory=str(place))
    # One meets by a code, which is the person's yes on both machines; one by a fingerprint.
    step = {"claude": "pair", "codex": "peer"}[agent]
    planned = await plans(
        builder, step=step, peer=me, allow="work", directory=str(place),
        runners=["command:look"],
    )  # fmt: skip
    assert f'paths = ["{place}"]' in planned.plan.diff
    if step == "peer":
        status, screen = await asyncio.to_thread(person, builder, "y", user=owner)
        assert (status, (await fresh.status()).fingerprint in screen) == (0, True)
    else:
        found = await waiting(builder)
        assert found is not None
        word = SetupConfirmArguments(plan_id=planned.plan.plan_id, sha256=found.sha256, accept=True)
        with pytest.raises(TaskRefused):
            await builder.call("setup_confirm", word)
        # A yes that is typed, where a code is asked for, changes nothing.
        assert (await asyncio.to_thread(person, fresh, "y"))[0] == PlanGone.exit_status
    run = run_of(agent, fresh, model.url, "continue helping me <<fake:meet>>")
    asked = {"directory": str(place), "runner": "command:look", "profile": "query", "wait_s": 40}
    model.scripts = {
        "meet": [
            call("setup_check"),
            call(
                "setup_step",
                step=step,
                peer=builder.name,
                allow="ask",
                repository=str(run.directory),
            ),
            call("setup_check", wait_s=40),
            call("delegate", peer=builder.name, prompt="hello there", **asked),
            call("get_result", task_id="{{match:task_id\\W+([0-9a-f-]{36})}}"),
            {"text": "It says: {{last_tool_result}}"},
        ]
    }
    if step == "peer":
        said, _ = await asyncio.gather(ask(run), confirms(fresh))
    else:
        async with at_terminal(builder, "confirm") as shows:
            code = await shows.code()
            said, screen = await asyncio.gather(ask(run), confirms(fresh, code))
            assert (await shows.end())[0] == 0
        assert code.replace(" ", "") not in json.dumps(model.requests).replace(" ", "")
        assert "A code is your yes" in screen
    assert "hello there" in said.partition("It says:")[2], said
    words = ("delegate", builder.name, "hello", "-C", str(place), "--runner", "command:look")
    elsewhere = await asyncio.to_thread(fresh.cli, *words, cwd=fresh.directory("other"))
    assert elsewhere.returncode != 0
    before = builder.config_file.read_text("utf-8")
    undone = SetupChangeView.model_validate(
        await builder.call("setup_undo", SetupUndoArguments.model_validate({"step": step}))
    )
    assert undone.plan.state == "applied"
    assert builder.config_file.read_text("utf-8") != before
    assert "inbound" not in tomllib.loads(builder.config_file.read_text("utf-8"))
    peers = {peer.name: peer for peer in (await look(builder)).peers}
    assert peers[me].trust != "trusted"


async def test_the_same_wizard_at_a_terminal_asks_three_things_and_a_login(
    fresh: Machine, testnet: Testnet
) -> None:
    codex = fresh.base / ".codex" / "config.toml"
    codex.parent.mkdir()
    codex.write_text("# mine\n", "utf-8")
    words = ("setup", "--name", "fresh", "--control-url", testnet.control_url)
    (status, screen), _ = await asyncio.gather(
        asyncio.to_thread(person, fresh, "", "y", "y", "q", arguments=words),
        logs_in(fresh, testnet),
    )
    assert status == 0, screen
    assert "kept (30d, 90d, forever)? [30d]" in screen
    assert "/login/" in screen
    assert "+[mcp_servers.cmesh]" in screen
    entry = tomllib.loads(codex.read_text("utf-8"))["mcp_servers"]["cmesh"]
    assert entry["args"][-1] == "mcp"
    assert tomllib.loads(fresh.config_file.read_text("utf-8"))["store"] == {"keep_text": "30d"}
    shown = json.loads((await asyncio.to_thread(fresh.cli, "setup", "--json")).stdout)
    assert {step["name"] for step in shown["steps"] if step["done"]} >= {"machine", "login"}
    planned = await asyncio.to_thread(fresh.cli, "setup", "--dry-run", "--keep-text", "7d")
    assert '+keep_text = "7d"' in planned.stdout
    assert await waiting(fresh) is None
    undone = await asyncio.to_thread(fresh.cli, "setup", "--undo", "--json")
    assert json.loads(undone.stdout)["plan"]["state"] == "applied"
    assert codex.read_text("utf-8") == "# mine\n"
    # To forget how long texts are kept would keep them longer: that needs the person again.
    undone = await asyncio.to_thread(fresh.cli, "setup", "--undo", "--json")
    assert json.loads(undone.stdout)["plan"]["state"] == "waiting"
    assert (await asyncio.to_thread(person, fresh, "y"))[0] == 0

    assert not fresh.config_file.exists()
    done = await asyncio.to_thread(fresh.cli, "setup", "--json")  # starts the daemon again
    assert json.loads(done.stdout)["phase"] == "setup"
    await asyncio.to_thread(fresh.cli, "down")


async def test_an_option_that_is_wrong_ends_the_wizard_with_one_error(fresh: Machine) -> None:
    missing = str(fresh.base / "nowhere")
    for words, why in (
        (("--step", "machin", "--name", "box"), "`machin` is not known"),
        (("--keep-text", "30x"), "write 30d, 90d or forever"),
        (("--step", "machine", "--name", "no host"), "is no host name"),
        (("--step", "machine", "--auth-key-file", missing), f"`{missing}` is not there"),
    ):
        status, screen = await asyncio.to_thread(person, fresh, "30d", arguments=("setup", *words))
        assert (status, screen.count("error:")) == (2, 1), screen
        assert why in screen
    for words in (("--step", "machin"), ("--keep-text", "30x"), ("--undo", "--step", "machin")):
        done = await asyncio.to_thread(fresh.cli, "setup", *words)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
    undone = await asyncio.to_thread(fresh.cli, "setup", "--undo")
    assert "nothing to undo" in undone.stderr
    same = await asyncio.to_thread(fresh.cli, "setup", "--dry-run", "--step", "agents")
    assert "agents: nothing to change" in same.stderr
    assert await waiting(fresh) is None
