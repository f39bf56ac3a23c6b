"""Every fuzzer with its count; `scripts/fuzz` starts it. See `docs/security.md`.

Prints a line for each; the last line is one JSON object, and the exit status is 0 only when
nothing crashed and no target's memory grew by `GROWTH_KIB` or more.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tests.security import fuzz_frames, fuzz_link, fuzz_native, fuzz_sql, fuzz_texts
from tests.security.fuzz_frames import Found

__all__ = ["GROWTH_KIB", "main"]

GROWTH_KIB = 20 * 1024
Target = Callable[[int, int], Found]


def _link(count: int, seed: int) -> Found:
    return asyncio.run(fuzz_link.fuzz_link(count, seed))


def _sql(count: int, seed: int) -> Found:
    return asyncio.run(fuzz_sql.fuzz_sql(count, seed))


TARGETS: dict[str, tuple[Target, int]] = {
    "frames": (fuzz_frames.fuzz_frames, 1_000_000),
    "link": (_link, 2_000),
    "config": (fuzz_texts.fuzz_config, 20_000),
    "manifests": (fuzz_texts.fuzz_manifests, 20_000),
    "sql": (_sql, 1_000),
    "native": (fuzz_native.fuzz_native, 200_000),
}
"""What is tried, and how often unless the arguments say otherwise."""


def main() -> int:
    """Run what the arguments say; 130 when it was interrupted."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(TARGETS), default=[])
    parser.add_argument("--inputs", type=int, default=0, help="instead of each target's own count")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    bad: list[str] = []
    try:
        for name in options.only or TARGETS:
            target, count = TARGETS[name]
            began = time.perf_counter()
            found = target(options.inputs or count, options.seed)
            seconds = time.perf_counter() - began
            print(f"{name}: {_in_words(found)}, {seconds:.0f} s", flush=True)
            for crash in found.crashes[:20]:
                print(f"  crash: {crash}", flush=True)
            if found.crashes or found.growth_kib >= GROWTH_KIB:
                bad.append(name)
            figures[name] = asdict(found) | {"crashes": len(found.crashes)}
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(json.dumps({"seed": options.seed, "targets": figures, "failed": bad}))
    return 1 if bad else 0


def _in_words(found: Found) -> str:
    return (
        f"{found.inputs:,} inputs, {found.malformed:,} refused, {len(found.crashes)} crashes,"
        f" RSS +{found.growth_kib / 1024:.1f} MiB"
    )


if __name__ == "__main__":
    sys.exit(main())
