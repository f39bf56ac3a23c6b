"""The chaos suite's long form, `scripts/chaos`: rounds of faults until enough was killed.

The last line is one JSON object. Exit status 1 when anything was lost, doubled, wrong or
left, or a shim's end was told late; what the machines had on their disks is then kept. Ctrl-C
or SIGTERM lets the rounds that run come to their end, and reports.
"""

import argparse
import asyncio
import json
import secrets
import signal
import sys
from collections.abc import Callable

from tests.chaos.faults import FAULTS
from tests.chaos.rounds import Plan, Report, play

SEED_LIMIT = 2**31
LIMIT_S = 6 * 3_600.0


def main() -> int:
    """Run; return the exit status."""
    wanted = _parser().parse_args()
    seed = secrets.randbelow(SEED_LIMIT) if wanted.seed is None else wanted.seed
    plan = Plan(
        kills=wanted.rounds,
        shims=wanted.shims,
        replaces=wanted.replaces,
        seed=seed,
        only=tuple(wanted.only),
        pairs=wanted.pairs,
        limit_s=LIMIT_S,
    )

    def say(line: str) -> None:
        print(line, file=sys.stderr if wanted.json else sys.stdout, flush=True)

    say(f"seed {seed}")
    report = asyncio.run(_play(plan, say))
    for fault in (*report.faults, *report.tally.slow):
        print(f"FAULT {fault}", file=sys.stderr)
    for place in report.kept:
        print(f"kept {place}", file=sys.stderr)
    print(json.dumps(report.line(seed)))
    return 0 if report.clean else 1


async def _play(plan: Plan, say: Callable[[str], None]) -> Report:
    report = Report()

    def stop() -> None:
        report.stopped = True

    # A polite end leaves no daemon behind, and the figures so far.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return await play(plan, say, report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000, help="daemons to kill (default 1000)")
    parser.add_argument("--shims", type=int, default=0, help="shims to kill (default 0)")
    parser.add_argument("--replaces", type=int, default=0, help="daemons to replace (default 0)")
    parser.add_argument("--seed", type=int, help="chance's seed (default: another each time)")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of machines (default 3)")
    parser.add_argument("--json", action="store_true", help="print only the last line to stdout")
    kinds = ", ".join(fault.name for fault in FAULTS)
    parser.add_argument(
        "--only", action="append", default=[], metavar="KIND", help=f"repeatable; {kinds}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
