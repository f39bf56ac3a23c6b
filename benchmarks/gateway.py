"""What the gateway adds to a request of a task, beside the bare relay to the same server.

    .venv/bin/python -m benchmarks.gateway [REQUESTS]

One keep-alive connection each, 48 KiB asked and 8 KiB answered, a real store that commits the rows.
The server answers at once, so that what is left is cmesh's own time.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from cmesh.clock import SystemClock
from cmesh.daemon.networks import Networks
from cmesh.model import TaskId
from cmesh.runner.manifest import load_manifests
from cmesh.runner.runner import Runner
from cmesh.store.store import Store
from tests.fakes.api import Asked, api
from tests.fakes.egress import hand_in

ASKED, ANSWERED = b"q" * 48 * 1024, b"a" * 8 * 1024
REQUESTS = 200
WARM_UP = 20


async def play(_asked: Asked, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(ANSWERED)}\r\n\r\n"
    streams[1].write(head.encode() + ANSWERED)
    await streams[1].drain()
    return True


async def times_ms(networks: Networks, task: TaskId, runner: Runner, count: int) -> list[float]:
    way = networks.grant(task, runner)
    assert way is not None
    key = way.env.get("ANTHROPIC_API_KEY", "sk")
    reader, writer = await hand_in(way.socket)
    head = (
        f"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1:{way.port}\r\nx-api-key: {key}\r\n"
        f"content-length: {len(ASKED)}\r\n\r\n"
    )
    found: list[float] = []
    for _ in range(count):
        begun = time.perf_counter()
        writer.write(head.encode() + ASKED)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(ANSWERED))
        found.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(0.12)  # below the rate at which requests have to wait
    writer.close()
    await networks.end(task)
    return found[WARM_UP:]


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "tasks").mkdir(mode=0o700)
        key = base / "key"
        key.touch(mode=0o600)
        key.write_text("sk-benchmark")
        store = await Store.open(base / "store", clock=SystemClock(), node="nBENCH")
        async with api() as server:
            server.play = play
            behind = Runner(
                name="claude", version="", reports_cost=True, manifest=load_manifests()["claude"],
                program="/bin/true", arguments=(), search_path="/bin", env={}, key_file=key,
                base_url=f"http://127.0.0.1:{server.port}",
            )  # fmt: skip
            networks = Networks(store, base / "tasks", SystemClock())
            for label, runner, number in (
                ("relay, the task holds the key", replace(behind, behind_gateway=False), 1),
                ("gateway", behind, 2),
            ):
                task = TaskId(f"00000000-0000-7000-8000-{number:012}")
                found = await times_ms(networks, task, runner, count)
                cuts = statistics.quantiles(found, n=100)
                print(f"{label}: p50 {cuts[49]:.2f} ms, p95 {cuts[94]:.2f} ms a request")
            await networks.close()
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else REQUESTS))
