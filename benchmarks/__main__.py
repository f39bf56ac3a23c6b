"""Runs every benchmark in turn and prints one table; see `benchmarks/run --help`."""

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from benchmarks import (
    agents,
    audit,
    cancel,
    containment,
    dashboard,
    delegation,
    evidence,
    fleet,
    flood,
    link_echo,
    mcp_start,
    memory,
    patches,
    queue,
    replace,
    sandbox,
    scale,
    watch,
)
from benchmarks.calibration import calibrate
from benchmarks.stage import ROOT, Stage, stage
from benchmarks.table import Row, as_json, machine, render, write_document

__all__ = ["main"]

FULL, QUICK = 100, 15
GAPS_A_HUNDRED = 20  # restarts cost seconds each
AGENTS_A_HUNDRED, AGENTS_LEAST = 14, 2  # a run of an agent takes about one
LIMIT_S = 1_800.0
DOCUMENT = ROOT / "docs" / "performance.md"

Part = Callable[[Stage, int], Awaitable[list[Row]]]


def main() -> None:
    """Run them; a figure that misses its goal is shown, never an error."""
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions, for a first look")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead")
    parser.add_argument("--write", action="store_true", help=f"put the table in {DOCUMENT.name}")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; repeatable")
    parser.add_argument("--directory", type=Path, help="where the state lies: which disk counts")
    arguments = parser.parse_args()
    only = "".join(f" --only {part}" for part in arguments.only or ())
    facts = machine() | {"command": f"`benchmarks/run --write{only}`"}
    begun, before = time.monotonic(), os.getloadavg()
    count = QUICK if arguments.quick else FULL
    # In the order of the table, whatever order they were named in.
    parts = [part for name, part in PARTS.items() if name in (arguments.only or PARTS)]
    rows = asyncio.run(_measure(parts, count, arguments.directory))
    facts["load before and after"] = f"{before[0]:.1f}, {os.getloadavg()[0]:.1f} (of 1 minute)"
    facts["took"] = f"{time.monotonic() - begun:.0f} s"
    table = render(rows)
    if arguments.json:
        print(as_json(rows, facts))
    else:
        print(table, *(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    if arguments.write:
        write_document(DOCUMENT, table, facts)


async def _measure(parts: list[Part], count: int, directory: Path | None) -> list[Row]:
    async with asyncio.timeout(LIMIT_S), stage(directory) as made:
        rows: list[Row] = []
        for part in parts:
            rows += await part(made, count)
        return await asyncio.to_thread(calibrate, made.base, count) + rows


async def _memory(made: Stage, _count: int) -> list[Row]:
    return await memory.measure(made)


async def _link(made: Stage, count: int) -> list[Row]:
    return await link_echo.measure(made, count * 5)


async def _mcp(made: Stage, count: int) -> list[Row]:
    return await asyncio.to_thread(mcp_start.measure, made, count // 2)


async def _delegation(made: Stage, count: int) -> list[Row]:
    rows = await asyncio.to_thread(delegation.measure, made, count)
    grown = memory.rss_mib(made.caller.pid)
    name = "the caller's daemon after all that, an agent connected before"
    return [*rows, Row(name=name, unit="MiB", figures={"value": grown})]


async def _watch(made: Stage, count: int) -> list[Row]:
    return await asyncio.to_thread(watch.measure, made, count * 5)


async def _dashboard(made: Stage, count: int) -> list[Row]:
    return await dashboard.measure(made, count)


async def _cancel(made: Stage, count: int) -> list[Row]:
    rows = await containment.measure(made.base, count // 2)
    return rows + await asyncio.to_thread(cancel.measure, made, count)


async def _sandbox(made: Stage, count: int) -> list[Row]:
    return await asyncio.to_thread(sandbox.measure, made.base, count)


async def _agents(made: Stage, count: int) -> list[Row]:
    return await agents.measure(made, max(AGENTS_LEAST, count * AGENTS_A_HUNDRED // 100))


async def _evidence(made: Stage, count: int) -> list[Row]:
    return await asyncio.to_thread(evidence.measure, made.base, count)


async def _queue(made: Stage, _count: int) -> list[Row]:
    return await asyncio.to_thread(queue.measure, made.base)


async def _flood(made: Stage, count: int) -> list[Row]:
    return await flood.measure(made.base, count * 4)


async def _scale(made: Stage, count: int) -> list[Row]:
    return await scale.measure(made, quick=count < FULL)


async def _replace(made: Stage, count: int) -> list[Row]:
    return await asyncio.to_thread(replace.measure, made, count * GAPS_A_HUNDRED // 100)


# Memory first: later parts connect agents, and the daemon grows by the SDK.
PARTS: Mapping[str, Part] = {
    "memory": _memory,
    "link": _link,
    "mcp": _mcp,
    "delegation": _delegation,
    "watch": _watch,
    "dashboard": _dashboard,
    "cancel": _cancel,
    "sandbox": _sandbox,
    "agents": _agents,
    "evidence": _evidence,
    "patches": patches.measure,
    "audit": audit.measure,
    "fleet": fleet.measure,
    "flood": _flood,
    "queue": _queue,
    "scale": _scale,
    "replace": _replace,
}


if __name__ == "__main__":
    main()
