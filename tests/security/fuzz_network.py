"""Random requests and TLS hellos against the proxy of a task's network.

    python -m tests.security.fuzz_network [--inputs 100000] [--seed 1]

Each input is a good one that was damaged, or plain noise. It goes through the parsers in random
pieces, and one in fifty through a whole proxy with an upstream that must see no byte unless the
input is still good. The last line is one JSON object; exit 0 = nothing but refusals.
"""

import argparse
import asyncio
import contextlib
import json
import random
import resource
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cmesh.clock import SystemClock
from cmesh.model import TaskId
from cmesh.runner.egress import proxy as proxy_module
from cmesh.runner.egress.hello import Hello, HelloError
from cmesh.runner.egress.proxy import Proxy
from cmesh.runner.egress.reach import Limits
from cmesh.runner.egress.request import HEAD_END, RequestError, is_name, parse_head
from tests.fakes.egress import (
    ALLOWED,
    Audit,
    client_hello,
    connect_head,
    hand_in,
    loopback_outside,
    network,
    upstream,
)

__all__ = ["Found", "fuzz"]

THROUGH_PROXY = 50
TASK = TaskId("00000000-0000-7000-8000-000000000001")
LIMIT_S = 20.0
SEEDS = (
    connect_head(),
    connect_head("evil.example.com"),
    connect_head(token=None),
    connect_head(port=80),
    client_hello(),
    client_hello("evil.example.com"),
    client_hello(None),
    connect_head() + client_hello(),
    connect_head() + client_hello("evil.example.com"),
)


@dataclass
class Found:
    """What came out. `crashes` are tracebacks' last lines; `passed` had a good head and hello."""

    inputs: int = 0
    refused: int = 0
    through_proxy: int = 0
    passed: int = 0
    crashes: list[str] | None = None
    growth_kib: int = 0


def inputs(count: int, chance: random.Random) -> Iterator[bytes]:
    for _ in range(count):
        data = bytearray(chance.choice(SEEDS))
        match chance.randrange(8):
            case 0:
                data = bytearray(chance.randbytes(chance.randrange(600)))
            case 1:
                del data[chance.randrange(len(data)) :]
            case 2:
                data += chance.randbytes(chance.randrange(1, 200))
            case 3:
                start = chance.randrange(len(data))
                del data[start : start + chance.randrange(1, 20)]
            case 4:
                other = chance.choice(SEEDS)
                data[chance.randrange(len(data)) :] = other[chance.randrange(len(other)) :]
            case 5:
                start = chance.randrange(len(data))
                data[start:start] = data[start : start + chance.randrange(1, 9000)] * 3
            case _:
                for _ in range(chance.randrange(1, 8)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
        yield bytes(data)


def parse(data: bytes, chance: random.Random, found: Found) -> None:
    """Feed the parsers; only their own errors may come out."""
    head, end, rest = data.partition(HEAD_END)
    try:
        request = parse_head(head + end)
        assert is_name(request.host)
    except RequestError:
        found.refused += 1
    for start in (data, rest):
        hello, at = Hello(), 0
        try:
            while at < len(start):
                size = chance.randrange(1, 400)
                hello.feed(start[at : at + size])
                at += size
        except HelloError:
            found.refused += 1


def good(data: bytes) -> bool:
    """Say whether an input may reach the upstream at all, by the parsers' own word."""
    head, end, rest = data.partition(HEAD_END)
    try:
        request = parse_head(head + end)
        name = Hello().feed(rest)
    except (RequestError, HelloError):
        return False
    allowed = request.host == name == ALLOWED and request.port == 443
    return allowed and request.token == network().token


async def through_proxy(cases: list[bytes], found: Found) -> None:
    proxy_module.CONNECTIONS_PER_S = proxy_module.CONNECTIONS_BURST = 1e6
    audit = Audit()
    with tempfile.TemporaryDirectory() as name:
        async with upstream() as server:
            proxy = Proxy(
                audit,
                SystemClock(),
                outside=loopback_outside(server.port),
                limits=Limits(head_s=LIMIT_S),
            )
            door = Path(name) / "net" / "daemon"
            proxy.open(TASK, network(), door)
            for data in cases:
                before = len(server.data)
                reader, writer = await hand_in(door)
                with contextlib.suppress(OSError):
                    writer.write(data)
                    await writer.drain()
                    writer.write_eof()
                    async with asyncio.timeout(LIMIT_S):
                        await reader.read()
                writer.close()
                passed = len(server.data) > before
                assert passed <= good(data), data
                found.passed += passed
                found.through_proxy += 1
            await proxy.close()


def fuzz(count: int, seed: int) -> Found:
    """Run `count` inputs; raise what is neither accepted nor refused."""
    chance, found = random.Random(seed), Found(crashes=[])
    cases: list[bytes] = []
    before = 0
    for number, data in enumerate(inputs(count, chance)):
        if number == min(1000, count // 2):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found.inputs += 1
        try:
            parse(data, chance, found)
        except Exception as error:  # noqa: BLE001 - what a fuzzer is for
            assert found.crashes is not None
            found.crashes.append(f"{type(error).__name__}: {error}: {data[:200]!r}")
        if number % THROUGH_PROXY == 0:
            cases.append(data)
    asyncio.run(through_proxy(cases, found))
    found.growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return found


def main() -> int:
    """Fuzz, print what was found as the last line, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = fuzz(options.inputs, options.seed)
    print(json.dumps(asdict(found)))
    return 1 if found.crashes else 0


if __name__ == "__main__":
    raise SystemExit(main())
