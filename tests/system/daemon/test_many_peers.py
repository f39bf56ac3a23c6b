"""A worker with many peers and a long queue: every task is accounted for, memory stays bounded.

The peers have fake nodes, the worker is a whole daemon. Figures with more of both:
`benchmarks/run --only scale`.
"""

import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cmesh.daemon.operations import SqlArguments
from cmesh.interfaces.client import ControlClient
from cmesh.paths import control_socket
from tests.fakes.crowd import Asker, Crowd, CrowdedWorker
from tests.fakes.tailnet import FakeTailnet

pytestmark = [pytest.mark.anyio, pytest.mark.system, pytest.mark.timeout(240)]

USER = "me@example.com"
PEERS = 200
TASKS = 1_000
RUN = 20
AT_ONCE = 16
LIMIT_S = 180.0
LINK_KIB, TASK_KIB = 128, 32
"""What a link, and a task that waits, may take of the daemon's memory: several times of what
was seen, and far less than a leak of what came over the link would be."""


@pytest.fixture
def base() -> Iterator[Path]:
    """Return a directory with a path short enough for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="cmesh-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def worker(base: Path) -> AsyncIterator[CrowdedWorker]:
    made = CrowdedWorker("worker", base, user=USER, concurrent=4)
    made.configure()
    yield made
    await made.stop()


async def test_a_thousand_tasks_of_two_hundred_peers_all_end_in_bounded_memory(
    base: Path, worker: CrowdedWorker
) -> None:
    tailnet = FakeTailnet()
    tailnet.add("worker", USER)
    async with AsyncExitStack() as stack:
        askers: list[Asker] = []
        for label in [f"peer{number}" for number in range(PEERS)]:
            node_id = tailnet.add(label, USER)
            node = await stack.enter_async_context(tailnet.node(label, base / label))
            askers.append(Asker(node, node_id, label))
        netmap = base / "netmap.json"
        netmap.write_text(tailnet.dump(), "utf-8")
        await worker.trust(askers)
        status = await worker.up("tests.fakes.node_daemon", str(netmap), "worker")
        alone = rss_kib(worker.pid)
        async with Crowd(askers, worker) as crowd:
            await crowd.connect(status.addresses[0], at_once=AT_ONCE)
            linked = rss_kib(worker.pid)
            await crowd.submit(TASKS, at_once=AT_ONCE)
            queued = rss_kib(worker.pid)
            status = await worker.status()
            assert (status.running, status.running + status.waiting) == (4, TASKS)
            assert status.links == PEERS
            await crowd.finish(RUN, LIMIT_S)
            await crowd.cancel(LIMIT_S)
            ended = crowd.ended
            assert (crowd.unfinished, ended.total()) == (0, TASKS)
            assert ended["succeeded"] >= RUN
            async with ControlClient(control_socket(worker.state)) as client:
                text = "SELECT state, count(*) FROM tasks GROUP BY state"
                rows = (await client.sql(SqlArguments(sql=text))).rows
            assert {str(state): count for state, count in rows} == dict(ended)
        print(f"RSS in KiB: alone {alone}, linked {linked}, queued {queued}")
        assert linked - alone < PEERS * LINK_KIB
        assert queued - linked < TASKS * TASK_KIB
        status = await worker.status()
        assert (status.running, status.waiting) == (0, 0)


def rss_kib(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))
    assert found is not None
    return int(found[1])
