"""The networks of tasks, with a real store: granted once, adopted as granted, audited."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cmesh.clock import SystemClock
from cmesh.daemon.networks import Networks, WayOut
from cmesh.model import Profile, TaskId
from cmesh.runner.egress.network import load
from cmesh.runner.manifest import load_manifests
from cmesh.runner.runner import Runner
from cmesh.store.store import Store
from tests.fakes.egress import connect_head, hand_in
from tests.unit.daemon.conftest import OWN_NETWORK, Pair, agent_config

pytestmark = pytest.mark.anyio

TASK = TaskId("00000000-0000-7000-8000-000000000001")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    opened = await Store.open(tmp_path / "store", clock=SystemClock(), node="nSELF")
    yield opened
    await opened.close()


def runner(base_url: str = "", manifest: str = "claude") -> Runner:
    return Runner(
        name="claude",
        version="",
        reports_cost=True,
        manifest=load_manifests()[manifest],
        program="/bin/true",
        arguments=(),
        search_path="/bin",
        base_url=base_url,
        env={},
    )


def granted(networks: Networks, of: Runner) -> WayOut:
    way = networks.grant(TASK, of)
    assert way is not None
    return way


async def test_each_connection_is_a_chained_row_and_one_of_the_view(
    store: Store, tmp_path: Path
) -> None:
    networks = Networks(store, tmp_path, SystemClock())
    way = granted(networks, runner())
    assert way.env["HTTPS_PROXY"].endswith(f"@127.0.0.1:{way.port}")
    reader, writer = await hand_in(way.socket)
    writer.write(connect_head("evil.example.com", token=_token(way.env)))
    assert b"403" in await reader.read()
    writer.close()
    await networks.end(TASK)
    sql = "SELECT task_id, host, port, verdict, code, bytes_out FROM connections"
    found = await store.sql(sql, (), 10)
    assert found.rows == [[TASK, "evil.example.com", 443, "refused", "host_refused", None]]
    assert (await store.verify()).bad_seq is None
    await networks.close()


async def test_a_second_start_and_the_next_daemon_serve_the_same_network(
    store: Store, tmp_path: Path
) -> None:
    first = Networks(store, tmp_path, SystemClock())
    way = granted(first, runner())
    assert first.grant(TASK, runner()) == way
    await first.close()
    with pytest.raises(ConnectionRefusedError):
        await hand_in(way.socket)
    second = Networks(store, tmp_path, SystemClock())
    second.adopt(TASK)
    reader, writer = await hand_in(way.socket)
    writer.write(connect_head("evil.example.com", token=_token(way.env)))
    assert b"403" in await reader.read()
    writer.close()
    await second.close()


async def test_a_task_without_a_network_is_adopted_without_one(
    store: Store, tmp_path: Path
) -> None:
    networks = Networks(store, tmp_path, SystemClock())
    networks.adopt(TASK)
    await networks.end(TASK)
    assert not (tmp_path / TASK).exists()
    await networks.close()


async def test_a_runner_that_needs_no_model_gets_no_network(store: Store, tmp_path: Path) -> None:
    networks = Networks(store, tmp_path, SystemClock())
    assert networks.grant(TASK, runner(manifest="command")) is None
    assert not (tmp_path / TASK).exists()
    await networks.close()


async def test_the_owner_s_model_server_takes_the_place_of_the_hosts(
    store: Store, tmp_path: Path
) -> None:
    networks = Networks(store, tmp_path, SystemClock())
    way = granted(networks, runner("http://127.0.0.1:9/v1"))
    assert way.env["ANTHROPIC_BASE_URL"] == f"http://127.0.0.1:{way.port}/v1"
    reader, writer = await hand_in(way.socket)
    writer.write(connect_head("api.anthropic.com", token=_token(way.env)))
    assert b"403" in await reader.read()
    writer.close()
    await networks.close()


async def test_a_task_has_its_network_from_its_start_to_its_end_over_a_restart(pair: Pair) -> None:
    doer = pair.doer
    doer.enforcement = OWN_NETWORK
    doer.configure(agent_config(doer))
    await doer.restart()
    await pair.connect()
    task_id = await pair.asker.delegate(doer, runner="claude", profile=Profile.QUERY)
    await doer.until(task_id, "running")
    place = doer.base / "tasks" / task_id
    network = load(place / "network.json")
    assert network is not None
    for _life in range(2):
        reader, writer = await hand_in(place / "net" / "daemon")
        writer.write(connect_head("evil.example.com", token=network.token))
        assert b"403" in await reader.read()
        writer.close()
        await doer.restart()
    doer.shims.finish(task_id)
    doer.worker.changed(task_id)
    await doer.until(task_id, "failed", "succeeded")
    with pytest.raises(OSError, match=r"refused|No such file"):
        await hand_in(place / "net" / "daemon")
    rows = await doer.store.sql("SELECT count(*) FROM connections", (), 10)
    assert rows.rows == [[2]]


def _token(env: object) -> str:
    assert isinstance(env, dict)
    return str(env["HTTPS_PROXY"]).partition("task:")[2].partition("@")[0]  # pyright: ignore[reportUnknownArgumentType]
