"""Runs every benchmark in turn and prints one table; see `benchmarks/run --help`."""

import argparse
import asyncio
import os
import time
from pathlib import Path

from benchmarks import delegation, link_echo, mcp_start, memory
from benchmarks.calibration import calibrate
from benchmarks.stage import ROOT, stage
from benchmarks.table import Row, as_json, machine, render, write_document

__all__ = ["main"]

FULL, QUICK = 100, 15
LIMIT_S = 180.0
DOCUMENT = ROOT / "docs" / "performance.md"


def main() -> None:
    """Run them; a figure that misses its goal is shown, never an error."""
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions, for a first look")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead")
    parser.add_argument("--write", action="store_true", help=f"put the table in {DOCUMENT.name}")
    parser.add_argument("--directory", type=Path, help="where the state lies: which disk counts")
    arguments = parser.parse_args()
    facts = machine() | {"command": "`benchmarks/run --write`"}
    begun, before = time.monotonic(), os.getloadavg()
    rows = asyncio.run(_all(QUICK if arguments.quick else FULL, arguments.directory))
    facts["load before and after"] = f"{before[0]:.1f}, {os.getloadavg()[0]:.1f} (of 1 minute)"
    facts["took"] = f"{time.monotonic() - begun:.0f} s"
    table = render(rows)
    if arguments.json:
        print(as_json(rows, facts))
    else:
        print(table, *(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    if arguments.write:
        write_document(DOCUMENT, table, facts)


async def _all(count: int, directory: Path | None) -> list[Row]:
    async with asyncio.timeout(LIMIT_S), stage(directory) as made:
        # Memory first: later benchmarks connect agents, and the daemon grows by the SDK.
        rows = await memory.measure(made)
        rows = await asyncio.to_thread(calibrate, made.base, count) + rows
        rows += await link_echo.measure(made, count * 5)
        rows += await asyncio.to_thread(mcp_start.measure, made, count // 2)
        rows += await asyncio.to_thread(delegation.measure, made, count)
        grown = memory.rss_mib(made.caller.pid)
        name = "the caller's daemon after all that, an agent connected before"
        return [*rows, Row(name=name, unit="MiB", figures={"value": grown})]


if __name__ == "__main__":
    main()
