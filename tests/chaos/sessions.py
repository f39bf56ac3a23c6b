"""The long form of the sessions under fire, `scripts/chaos-sessions`.

Real `claude` and `codex`, one process and one conversation each, against a scripted model on
loopback. Prints one JSON object; progress goes to stderr. Exit status 1 when a call failed, or a task was lost
or started twice.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks.calibration import calibrate
from cmesh.node.testnet import Testnet
from tests.chaos.agent_session import AgentSession
from tests.chaos.session_rounds import Rounds, field_of, plan
from tests.fakes.model_server import ModelServer
from tests.system.daemon.agents import CLAUDE, CODEX

SEED_LIMIT = 2**31
PROGRESS_EVERY = 10
CALIBRATION = 20
IDLE_CALLS = 10
AGENTS = {"claude": CLAUDE, "codex": CODEX}


Kept = Callable[[Rounds], None]


async def play(kinds: list[str], names: list[str], chance: random.Random, keep: Kept) -> None:
    """Play it all; `keep` gets what it comes to before the first round."""
    async with contextlib.AsyncExitStack() as stack:
        ground = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cmesh-")))
        testnet = await stack.enter_async_context(Testnet())
        model = stack.enter_context(ModelServer())
        field = await stack.enter_async_context(field_of(ground, testnet))
        sessions = [
            await stack.enter_async_context(AgentSession(name, field.laptop, model))
            for name in names
        ]
        rounds = Rounds(field, sessions, chance)
        keep(rounds)
        await rounds.calibrate(IDLE_CALLS)
        for number, kind in enumerate(kinds, 1):
            before = len(rounds.failed)
            await rounds.play(kind)
            for fault in rounds.failed[before:]:
                print(f"round {number}: {fault}", file=sys.stderr, flush=True)
            if number % PROGRESS_EVERY == 0:
                so_far = json.dumps(rounds.line())
                print(f"{number} of {len(kinds)} rounds: {so_far}", file=sys.stderr, flush=True)
        before = len(rounds.failed)
        await rounds.close()
        for fault in rounds.failed[before:]:
            print(f"at the end: {fault}", file=sys.stderr, flush=True)


def main() -> int:
    """Run; return the exit status."""
    wanted = _parser().parse_args()
    names = wanted.only or list(AGENTS)
    missing = [name for name in names if AGENTS[name] is None]
    if missing:
        print(f"not installed: {', '.join(missing)}; run scripts/setup-env all", file=sys.stderr)
        return 2
    seed = secrets.randbelow(SEED_LIMIT) if wanted.seed is None else wanted.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    chance = random.Random(seed)
    kinds = plan(wanted.kills, wanted.replaces, chance)
    # A polite end leaves no daemon behind, and says what was found up to then.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        rows = calibrate(Path(place), CALIBRATION)
    made: list[Rounds] = []
    ended_early = False
    try:
        asyncio.run(play(kinds, names, chance, made.append))
    except KeyboardInterrupt:
        ended_early = True
    except (AssertionError, TimeoutError):  # the harness gave up: what was found still counts
        ended_early = True
        traceback.print_exc()
    if not made:
        return 1
    rounds = made[0]
    about = {
        "ended_early": ended_early,
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "calibration_ms": {row.name: round(row.figures["p50"], 2) for row in rows},
    }
    print(json.dumps(rounds.line() | about))
    return 1 if rounds.failed or ended_early else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/chaos-sessions", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of the caller's daemon")
    parser.add_argument("--replaces", type=int, default=50, help="of the caller's daemon")
    parser.add_argument("--seed", type=int, help="chance's seed (default: another each time)")
    parser.add_argument("--only", action="append", choices=list(AGENTS), default=[])
    return parser


if __name__ == "__main__":
    sys.exit(main())
