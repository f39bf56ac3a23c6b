"""Bad input gets one clear error with the next step, in the command line and in MCP alike.

Each test says it once and looks at both ways in; no log holds a traceback.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cmesh.daemon.arguments import CancelArguments, NoArguments
from cmesh.errors import ConfigError, LoginRequired
from cmesh.model import TaskState
from cmesh.node.node import Node, NodeOptions
from cmesh.node.testnet import Testnet
from tests.fakes.link_peer import LinkPeer, other_service
from tests.system.daemon.conftest import OUTBOUND, MakeMachine, command, inbound
from tests.system.daemon.machine import ME, Machine, eventually, here, worker_user

pytestmark = [pytest.mark.anyio, pytest.mark.system]

NOTICED_WITHIN_S = 15.0
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
BROKEN_RULE = '\n[[outbound.allow]]\nname = "typo"\npeers = ["user:me@example.com"]\nprofile = 1\n'

Pair = tuple[Machine, Machine]
MakeNode = Callable[[str], Awaitable[Node]]


@pytest.fixture(scope="module")
async def pair(ground: Path, testnet: Testnet) -> AsyncIterator[Pair]:
    """Return a laptop of this user and a builder that trusts it; both stay healthy."""
    place = ground / "builder" / "app"
    text = command("true", "/bin/true") + command("sleep", "/bin/sleep", "300")
    text += command("gone", "/no/such/program")
    names = ["command:true", "command:sleep", "command:gone", "claude"]
    laptop = Machine("laptop", ground, testnet, here())
    builder = Machine("builder", ground, testnet, worker_user())
    async with AsyncExitStack() as stack:
        for machine, lines in ((laptop, OUTBOUND), (builder, text + inbound(place, names))):
            stack.push_async_callback(machine.stop)
            await machine.configure(lines)
        builder.directory("app")
        await builder.up()
        await laptop.up()
        first = await laptop.delegate("builder", "command:true", place)
        await builder.trust(laptop)
        await laptop.ended(first.task_id)
        yield laptop, builder
        for machine in (laptop, builder):
            before, found, error = machine.log_text().partition("Traceback")
            assert not found, f"{before[-500:]}Traceback{error[:3000]}"


@pytest.fixture
def place(ground: Path) -> Path:
    return ground / "builder" / "app"


@pytest.fixture
async def make_node(testnet: Testnet, tmp_path: Path) -> AsyncIterator[MakeNode]:
    """Make nodes of the same tailnet that run no daemon."""
    async with AsyncExitStack() as stack:

        async def make(name: str) -> Node:
            options = NodeOptions(
                state_dir=tmp_path / name,
                hostname=name,
                control_url=testnet.control_url,
                auth_key=await testnet.auth_key(ME),
                allow_testnet=True,
            )
            node = await stack.enter_async_context(Node(options))
            await node.up()
            return node

        yield make


async def refused(machine: Machine, peer: str, place: Path, runner: str = "command:true") -> str:
    """Delegate by command line and by MCP; both must name the same code, return the words."""
    words = ["delegate", peer, "do it", "-C", str(place), "--runner", runner, "--profile", "full"]
    done = await asyncio.to_thread(machine.cli, *words, "--json")
    assert "Traceback" not in done.stdout + done.stderr
    said = json.loads(done.stdout)
    error = said.get("error", said)
    async with machine.mcp() as agent:
        answer = await agent.call(
            "delegate",
            peer=peer,
            prompt="do it",
            directory=str(place),
            runner=runner,
            profile="full",
            wait_s=20,
        )
    assert "Traceback" not in answer.text
    assert error["code"] in answer.text
    assert "next" in answer.text.lower()
    assert done.returncode != 0
    people = await asyncio.to_thread(machine.cli, *words)
    assert people.returncode == done.returncode
    assert "hint: " in people.stderr
    return f"{error['code']}: {done.stdout} {people.stderr} {answer.text}"


async def known(machine: Machine, name: str, *, online: bool = True) -> None:
    """Wait until a machine sees a node of that name."""

    async def seen() -> bool | None:
        peers = (await machine.call("list_peers", NoArguments()))["peers"]
        return any(peer["name"] == name and peer["online"] == online for peer in peers) or None

    await eventually(seen)


async def test_a_bad_configuration_at_the_start_names_line_key_and_what_was_expected(
    make_machine: MakeMachine,
) -> None:
    machine = await make_machine("misspelt", BROKEN_RULE, user=here())
    line = machine.config_file.read_text("utf-8").splitlines().index("profile = 1") + 1
    done = machine.cli("up")
    assert done.returncode == ConfigError.exit_status
    assert f"line {line}" in done.stderr
    assert "outbound.allow[0].profile" in done.stderr
    assert "did you mean `profiles`" in done.stderr
    assert "hint: " in done.stderr
    async with machine.mcp() as agent:
        answer = await agent.call("list_peers")
    assert answer.is_error
    for part in ("bad_config", f"line {line}", "outbound.allow[0].profile", "cmesh policy show"):
        assert part in answer.text
    assert "Traceback" not in done.stderr + answer.text + machine.log_text()


async def test_a_configuration_broken_while_running_allows_nothing_until_it_is_mended(
    pair: Pair, place: Path
) -> None:
    laptop, builder = pair
    sleeping = await laptop.delegate("builder", "command:sleep", place)
    await started(laptop, sleeping.task_id)
    good = {machine: machine.config_file.read_text("utf-8") for machine in pair}
    try:
        for machine in pair:
            machine.config_file.write_text(good[machine] + BROKEN_RULE, "utf-8")
        said = await refused(laptop, "builder", place)
        assert said.startswith("bad_config")
        line = laptop.config_file.read_text("utf-8").splitlines().index("profile = 1") + 1
        for part in (f"line {line}", "outbound.allow[1].profile", "did you mean `profiles`"):
            assert said.count(part) == 3  # to a command, to a person, to an agent
        assert laptop.cli("policy", "explain", "builder").returncode == ConfigError.exit_status
        for machine in pair:
            status = machine.cli("status")
            assert "bad_config" in status.stderr
            assert "outbound.allow[1].profile" in status.stderr or machine is builder
        async with laptop.mcp() as agent:
            assert "bad_config" in (await agent.call("cmesh_status")).text
        # A typing error ends no work; nothing new is taken.
        assert (await builder.task(sleeping.task_id)).state is TaskState.RUNNING
        laptop.config_file.write_text(good[laptop] + "this is no TOML\n", "utf-8")
        said = await refused(laptop, "builder", place)
        assert said.startswith("bad_config")
        assert said.count(f"line {len(good[laptop].splitlines()) + 1}: not TOML") == 3
        laptop.config_file.write_text(good[laptop], "utf-8")
        view = await laptop.delegate("builder", "command:true", place, wait_s=30)
        assert (view.state, view.code) == (TaskState.DENIED, "policy_denied")
        assert "profile" not in view.reason  # what is wrong there is its owner's to know
        sql = f"SELECT reason FROM decisions WHERE task_id = '{view.task_id}'"
        [[why]] = await builder.sql(sql)
        assert "no rule is in force" in why
        assert "allow[" in why
    finally:
        for machine in pair:
            machine.config_file.write_text(good[machine], "utf-8")
    view = await laptop.delegate("builder", "command:true", place, wait_s=30)
    assert view.state is TaskState.SUCCEEDED
    assert not (await laptop.status()).problems
    await laptop.call("cancel_task", CancelArguments(task_id=sleeping.task_id))
    assert (await laptop.ended(sleeping.task_id)).state is TaskState.CANCELLED


async def test_a_rule_taken_away_ends_what_ran_by_it_without_anybody_asking(
    pair: Pair, place: Path
) -> None:
    laptop, builder = pair
    sleeping = await laptop.delegate("builder", "command:sleep", place)
    await started(laptop, sleeping.task_id)
    good = builder.config_file.read_text("utf-8")
    try:
        builder.config_file.write_text(good.partition("[[inbound.allow]]")[0], "utf-8")
        # Nobody calls the builder meanwhile: it sees by itself that the file changed.
        ended = await laptop.ended(sleeping.task_id, NOTICED_WITHIN_S)
    finally:
        builder.config_file.write_text(good, "utf-8")
    assert ended.state is TaskState.CANCELLED
    assert "right" in (await builder.task(sleeping.task_id)).reason


async def test_an_unknown_peer_gets_the_nearest_names(pair: Pair, place: Path) -> None:
    said = await refused(pair[0], "bilder", place)
    assert said.startswith("unknown_peer")
    assert said.count("did you mean `builder`") >= 2


async def test_a_missing_agent_says_how_to_get_it(pair: Pair, place: Path) -> None:
    said = await refused(pair[0], "builder", place, "claude")
    assert said.startswith("runner_unavailable")
    assert "claude" in said
    said = await refused(pair[0], "builder", place, "command:gone")
    assert "`command:gone` cannot start" in said
    assert "/no/such/program" not in said
    why = await pair[1].sql("SELECT reason FROM decisions WHERE effect = 'deny'")
    assert any("/no/such/program" in reason for (reason,) in why)


async def test_a_peer_without_cmesh_is_called_so(
    pair: Pair, place: Path, make_node: MakeNode
) -> None:
    await make_node("bare")
    await known(pair[0], "bare")
    said = await refused(pair[0], "bare", place)
    assert said.startswith("not_cmesh")
    assert "`bare` is on the tailnet, but runs no cmesh" in said
    assert "cmesh up" in said


GARBAGE = {
    "noise": b"\x00\xff\x13garbage\r\n\r\n" * 10,
    "http": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "otherws": b"",
}


@pytest.mark.parametrize("kind", sorted(GARBAGE))
async def test_another_service_on_the_port_is_not_cmesh(
    pair: Pair, place: Path, make_node: MakeNode, kind: str
) -> None:
    async with other_service(await make_node(kind), GARBAGE[kind]):
        await known(pair[0], kind)
        said = await refused(pair[0], kind, place)
    assert said.startswith("not_cmesh")
    assert f"`{kind}`" in said


async def test_a_peer_that_speaks_no_common_version_is_named_so(
    pair: Pair, place: Path, make_node: MakeNode
) -> None:
    node = await make_node("newer")
    async with LinkPeer(node, (await node.status()).node_id) as peer:
        peer.minors = (99, 99)
        await known(pair[0], "newer")
        said = await refused(pair[0], "newer", place)
    assert said.startswith("version_mismatch")
    assert "99 to 99" in said
    assert "upgrade cmesh" in said
    assert peer.failures
    assert peer.links == 0


async def test_an_unreachable_peer_keeps_the_task_and_says_so(
    pair: Pair, make_machine: MakeMachine
) -> None:
    laptop = pair[0]
    away = await make_machine("away")
    place = away.directory("app")
    await away.configure(command("true", "/bin/true") + inbound(place, ["command:true"]))
    await away.up()
    await known(laptop, "away")
    away.kill()
    words = ("delegate", "away", "do it", "-C", str(place), "--runner", "command:true")
    queue = ("--if-offline", "queue", "--no-wait", "--key", "unreachable")
    done = laptop.cli(*words, "--profile", "full", *queue)
    task_id = done.stdout.strip()
    assert done.returncode == 0
    assert "[peer_unreachable]" in done.stderr
    assert f"hint: cmesh show {task_id}" in done.stderr
    async with laptop.mcp() as agent:
        answer = await agent.call("get_task", task_id=task_id, wait_s=0)
    assert (answer.get("state"), answer.get("code")) == ("submitting", "peer_unreachable")
    assert "`away` does not answer" in answer.get("reason")
    assert "check that the machine is on" in answer.get("reason")
    # It was only waiting: back on the tailnet, the machine gets it once its owner agrees.
    await away.up()
    await away.trust(laptop)
    assert (await laptop.ended(task_id)).state is TaskState.SUCCEEDED
    rows = await away.sql(f"SELECT count(*) FROM tasks WHERE task_id = '{task_id}'")
    assert rows == [[1]]


async def test_an_expired_peer_is_refused_by_its_name(
    pair: Pair, testnet: Testnet, place: Path
) -> None:
    laptop, builder = pair
    running = await laptop.delegate("builder", "command:sleep", place)
    await started(laptop, running.task_id)
    await testnet.expire("builder", LONG_AGO)
    try:
        await eventually(lambda: none_linked(laptop))
        said = await refused(laptop, "builder", place)
        assert said.startswith("key_expired")
        assert "`builder`" in said
        assert "cmesh login" in said
        problems = (await builder.status()).problems
        assert problems[0].code == "key_expired"
        assert "cmesh login" in problems[0].next
        # Its owner's machine goes on with what it took; nobody can be told meanwhile.
        assert (await laptop.task(running.task_id)).state is not TaskState.SUCCEEDED
    finally:
        await testnet.expire("builder", None)
    await builder.up()
    await laptop.call("cancel_task", CancelArguments(task_id=running.task_id))
    assert (await laptop.ended(running.task_id)).state is TaskState.CANCELLED


async def test_a_caller_whose_key_expires_loses_its_running_task(
    pair: Pair, testnet: Testnet, place: Path
) -> None:
    laptop, builder = pair
    running = await laptop.delegate("builder", "command:sleep", place)
    await started(laptop, running.task_id)
    await testnet.expire("laptop", LONG_AGO)
    try:
        ended = await builder.ended(running.task_id)
        assert (ended.state, ended.code) == (TaskState.CANCELLED, "key_expired")
        await eventually(lambda: none_linked(builder))
        said = await refused(laptop, "builder", place)
        assert said.startswith("key_expired")
        assert "this node's key has expired" in said
    finally:
        await testnet.expire("laptop", None)
    await laptop.up()
    assert (await laptop.ended(running.task_id)).state is TaskState.CANCELLED


async def test_a_refused_auth_key_has_a_status_a_reason_and_a_way_on(
    make_machine: MakeMachine, make_node: MakeNode, testnet: Testnet
) -> None:
    await make_node("late")  # has the name, too
    machine = await make_machine("late", user=here())
    key = machine.config / "authkey"
    key.write_text(await testnet.auth_key(ME, expires_at=LONG_AGO), "utf-8")
    try:
        up = await asyncio.to_thread(machine.cli, "up")
        assert up.returncode == LoginRequired.exit_status
        assert "the tailnet refused the login: auth key has expired" in up.stderr
        assert f"put a new key into `{key}`" in up.stderr
        assert "auth key has expired" in (await asyncio.to_thread(machine.cli, "doctor")).stdout
        page = await asyncio.to_thread(machine.cli, "login", "--no-wait")
        assert page.returncode == 0, page.stderr
        await testnet.complete_login(page.stdout.strip(), ME)
        await eventually(lambda: is_up(machine))
        said = (await asyncio.to_thread(machine.cli, "doctor")).stdout
        assert "this node is `late-1` to the tailnet: another one has the name `late`" in said
    finally:  # the daemon is one that `up` has started
        await asyncio.to_thread(machine.cli, "down")


async def is_up(machine: Machine) -> bool | None:
    return (await machine.status()).phase == "up" or None


async def started(machine: Machine, task_id: str) -> None:
    async def running() -> bool | None:
        return (await machine.task(task_id)).state is TaskState.RUNNING or None

    await eventually(running)


async def none_linked(machine: Machine) -> bool | None:
    return (await machine.status()).links == 0 or None
