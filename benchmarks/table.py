"""Figures as values, and the table they are printed in. Measures nothing."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Row", "as_json", "machine", "render", "timing", "write_document"]

_BEGIN, _END = "<!-- figures: benchmarks/run --write -->", "<!-- end of figures -->"
_P95 = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line.

    Attributes:
        figures: column -> value, in `unit`.
        goal: what it is held against, in words; empty = it only explains others.
        met: the goal is reached; None = there is none, or it could not be measured.
        note: what to know when reading the line.
    """

    name: str
    unit: str = "ms"
    figures: dict[str, float] = field(default_factory=dict[str, float])
    goal: str = ""
    met: bool | None = None
    note: str = ""


def timing(name: str, seconds: Sequence[float], *, goal: str = "", limit_ms: float = 0) -> Row:
    """Return the row of repeated timings; with `limit_ms` the p50 is held against it."""
    values = sorted(value * 1000 for value in seconds)
    p50 = statistics.median(values)
    return Row(
        name=name,
        figures={
            "min": values[0],
            "p50": p50,
            "p95": values[min(len(values) - 1, int(len(values) * _P95))],
            "n": len(values),
        },
        goal=goal,
        met=p50 <= limit_ms if limit_ms else None,
    )


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    info = Path("/proc/cpuinfo").read_text("utf-8")
    models = [line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line]
    memory_kb = int(Path("/proc/meminfo").read_text("utf-8").split()[1])
    return {
        "cpu": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "memory": f"{memory_kb / 2**20:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def render(rows: Sequence[Row]) -> str:
    """Return a Markdown table that also reads well in a terminal."""
    head = ["what", "min", "p50", "p95", "n", "unit", "goal", "met", "note"]
    lines = [head, ["---"] * len(head), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def as_json(rows: Sequence[Row], facts: dict[str, str]) -> str:
    """Return everything as one JSON line."""
    return json.dumps({"machine": facts, "rows": [asdict(row) for row in rows]})


def write_document(path: Path, table: str, facts: dict[str, str]) -> None:
    """Put the table between the document's marks.

    Raises:
        ValueError: the document has no marks.
    """
    before, mark, rest = path.read_text("utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (mark and end):
        raise ValueError(f"{path} lacks the marks of the table")
    about = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    path.write_text(f"{before}{_BEGIN}\n\n{about}\n\n{table}\n\n{_END}{after}", "utf-8")


def _cells(row: Row) -> list[str]:
    # A value that was taken once stands under p50, where the timings have theirs.
    shown = {"p50": row.figures["value"]} if "value" in row.figures else row.figures
    numbers = [f"{shown[name]:.2f}" if name in shown else "" for name in ("min", "p50", "p95")]
    count = f"{shown['n']:.0f}" if "n" in shown else ""
    met = {True: "yes", False: "**no**", None: ""}[row.met]
    return [row.name, *numbers, count, row.unit, row.goal, met, row.note]
