"""`cmesh mcp` as an agent starts it: spawn to answered `initialize` and `tools/list`.

Interleaved with the bare interpreter, so that a busy moment hits both.
"""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.calibration import spawned
from benchmarks.lines import LineClient, mcp_initialize
from benchmarks.memory import rss_mib
from benchmarks.stage import ROOT, Stage
from benchmarks.table import Row, timing

__all__ = ["SCRIPT", "measure"]

WITH_MS, WITHOUT_MS, RELAY_MIB = 40, 60, 15
END_LIMIT_S = 10.0
SCRIPT = str(Path(sys.executable).with_name("cmesh"))
_RELAY = str(ROOT / "cmesh" / "interfaces" / "mcp" / "relay.py")


@dataclass(slots=True, kw_only=True)
class _Case:
    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    limit_ms: float
    seconds: list[float] = field(default_factory=list[float])
    resident: list[float] = field(default_factory=list[float])


def measure(stage: Stage, count: int) -> list[Row]:
    """Start the relay again and again, with a daemon and without one; blocks."""
    down = _marked_down(stage)
    script = (SCRIPT, "mcp")
    direct = (sys.executable, "-I", "-S", _RELAY)
    caller = stage.caller.environment()
    cases = [
        _Case(name="`cmesh mcp`, daemon runs", argv=script, environment=caller, limit_ms=WITH_MS),
        _Case(name="`cmesh mcp`, stopped", argv=script, environment=down, limit_ms=WITHOUT_MS),
        _Case(name="`python -I -S relay.py`", argv=direct, environment=caller, limit_ms=WITH_MS),
        _Case(
            name="`python -I -S relay.py`, stopped",
            argv=direct,
            environment=down,
            limit_ms=WITHOUT_MS,
        ),
    ]
    bare: list[float] = []
    for _ in range(count):
        bare += spawned([sys.executable, "-I", "-S", "-c", "pass"], 1)
        for case in cases:
            _start(case)
    rows = [timing("bare interpreter, interleaved", bare)]
    for case in cases:
        goal = f"p50 <= {case.limit_ms:g} ms"
        rows.append(timing(case.name, case.seconds, goal=goal, limit_ms=case.limit_ms))
    largest = max(value for case in cases for value in case.resident)
    rows.append(
        Row(
            name="the relay's RSS, largest seen",
            unit="MiB",
            figures={"value": largest},
            goal=f"<= {RELAY_MIB} MiB",
            met=largest <= RELAY_MIB,
        )
    )
    return rows


def _start(case: _Case) -> None:
    begun = time.perf_counter()
    pipe = subprocess.PIPE
    with subprocess.Popen(case.argv, env=case.environment, stdin=pipe, stdout=pipe) as process:
        with LineClient.of(process) as client:
            tools = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
            ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            client.ask(mcp_initialize(1))
            client.send(ready)
            answer = client.ask(tools)
            case.seconds.append(time.perf_counter() - begun)
            if not answer["result"]["tools"]:
                raise RuntimeError("`tools/list` names no tool")
            case.resident.append(rss_mib(process.pid))
        process.communicate(timeout=END_LIMIT_S)


def _marked_down(stage: Stage) -> dict[str, str]:
    """Return the environment of a machine whose owner said `cmesh down`."""
    state = stage.base / "down" / "state"
    state.mkdir(parents=True, mode=0o700)
    (state / "down").touch()
    return stage.caller.environment() | {"CMESH_STATE_DIR": str(state)}
