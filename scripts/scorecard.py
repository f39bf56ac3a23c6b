"""The figures of `docs/security.md` beside their targets; `scripts/security-scorecard` starts it.

A row is judged by the results of one run of `tests/security`, or by the last line, one JSON
object, of a command that measures more than a test may take. Nothing here measures by itself.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

__all__ = ["ROWS", "Outcome", "Row", "judge_command", "judge_tests", "main", "read_results"]

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
SUITE_LIMIT_S = 1_800.0
END_LIMIT_S = 10.0
INTERRUPTED = 130
CASES = range(1, 26)
GROWTH_KIB = 20 * 1024
TRIES, EDITS, FRAMES, P95_MS, SCORE = 1_000_000, 1_000, 1_000_000, 25.0, 90.0

Verdict = Literal["passed", "failed", "skipped"]
Results = Mapping[str, Verdict]
"""By test: `test_paths::test_7_x[kind]`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: `figure` is what was seen, in words."""

    verdict: Verdict
    figure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the scorecard.

    Attributes:
        target: what is promised.
        tests: which tests of `tests/security` show it, as a pattern for `file::name`.
        argv: the long form; empty = the tests are all there is.
        limit_s: how long that may take; more is a failure.
        read: what its last line says: whether the target is met, and the figure.
    """

    name: str
    target: str
    tests: str = ""
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    limit_s: float = SUITE_LIMIT_S
    read: Callable[[dict[str, Any]], tuple[bool, str]] | None = None


def _fuzzed(name: str, least: int) -> Callable[[dict[str, Any]], tuple[bool, str]]:
    def read(found: dict[str, Any]) -> tuple[bool, str]:
        one = found["targets"][name]
        met = one["crashes"] == 0 and one["growth_kib"] < GROWTH_KIB and one["malformed"] >= least
        grown = one["growth_kib"] / 1024
        return met, f"{one['malformed']:,} refused, {one['crashes']} crashes, RSS +{grown:.1f} MiB"

    return read


def _tampered(found: dict[str, Any]) -> tuple[bool, str]:
    edits, missed = int(found["edits"]), len(found["missed"])
    return edits >= EDITS and not missed, f"{edits - missed:,} of {edits:,} found"


def _sandboxed(found: dict[str, Any]) -> tuple[bool, str]:
    rows = {row["name"]: row["figures"] for row in found["rows"]}
    [held] = [figures for name, figures in rows.items() if name.startswith("`true` in the sandbox")]
    [bare] = [figures for name, figures in rows.items() if name.startswith("in turn with it")]
    words = f"p95 {held['p95']:.1f} ms, bare interpreter {bare['p95']:.1f} ms"
    return held["p95"] <= P95_MS, words


def _mutated(found: dict[str, Any]) -> tuple[bool, str]:
    whole = found["ran"] == found["mutants"]
    words = f"{found['score']} % of {found['ran']:,} mutants"
    return found["score"] >= SCORE and whole, words


FUZZ = (PYTHON, "-m", "tests.security.fuzz", "--only")
RACE = "tests/security/test_paths.py::test_8_names_that_are_swapped_meanwhile_never_lead_out"
ROWS: tuple[Row, ...] = (
    # First: it is the one that wants a quiet machine, which nobody else has made warm yet.
    Row(
        name="sandbox start",
        target=f"p95 <= {P95_MS:.0f} ms",
        argv=(PYTHON, "-m", "benchmarks", "--only", "sandbox", "--json"),
        read=_sandboxed,
    ),
    Row(name="abuse cases", target="each of 25 has tests, all pass", tests=r"::test_\d+_"),
    *(
        Row(
            name=f"escapes, tier {tier}",
            target="0 of at least 68 attempts beyond the listed",
            tests=rf"test_escapes::test_nothing_gets_out_but_what_is_listed\[{tier}\]",
        )
        for tier in (3, 2, 1)
    ),
    Row(name="hostile directory", target="0 executed", tests="test_hostile_directory::"),
    Row(name="git isolation", target="0 executed outside", tests="test_git_isolation::"),
    Row(
        name="malformed frames",
        target=f"at least {FRAMES:,}: 0 crashes, RSS growth < 20 MiB",
        tests="test_fuzz::test_malformed_frames_are_refused",
        argv=(*FUZZ, "frames"),
        limit_s=7_200.0,
        read=_fuzzed("frames", FRAMES),
    ),
    *(
        Row(
            name=f"fuzzed {name}",
            target="0 crashes, RSS growth < 20 MiB",
            tests=f"test_fuzz::test_{test}",
            argv=(*FUZZ, name),
            limit_s=3_600.0,
            read=_fuzzed(name, 1),
        )
        for name, test in (
            ("link", "malformed_frames_over"),
            ("config", "damaged_configurations"),
            ("manifests", "damaged_configurations"),
            ("sql", "damaged_sql"),
            ("native", "wrong_handles"),
        )
    ),
    Row(
        name="path race",
        target=f"at least {TRIES:,} tries: 0 escapes",
        tests="test_paths::test_8_names",
        argv=(PYTHON, "-m", "pytest", "-q", RACE),
        env={"CMESH_RACE_TRIES": str(TRIES)},
        limit_s=1_800.0,
    ),
    Row(name="canary secrets", target="30 seeded: 0 found", tests=r"test_19_21_secrets::test_21_"),
    Row(
        name="tampering",
        target=f"{EDITS:,} random edits: 100 % found",
        tests=r"test_25_audit_tampering::test_25_every_random_edit",
        argv=(PYTHON, "-m", "tests.security.tampering", str(EDITS)),
        read=_tampered,
    ),
    Row(name="injection corpus", target="0 fence breaks", tests=r"poisoned_results::test_14_"),
    Row(name="policy table", target="every cell as written", tests="test_policy_table::"),
    Row(
        name="mutation score of policy",
        target=f"at least {SCORE:.0f} %",
        argv=("scripts/mutation",),
        limit_s=36_000.0,
        read=_mutated,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the rows; 0 when every target is met, 130 when it was interrupted."""
    parser = argparse.ArgumentParser(prog="scripts/security-scorecard", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the tests' short forms only")
    parser.add_argument("--results", type=Path, help="a JUnit file of a run of tests/security")
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], metavar="NAME")
    parser.add_argument("--json", action="store_true", help="a JSON object a row")
    parser.add_argument("--list", action="store_true", help="print the rows and their targets")
    options = parser.parse_args(arguments)
    if options.results and not options.results.is_file():
        parser.error(f"`{options.results}` is not there: the tests did not end")
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    if options.list:
        print("\n".join(f"{row.name}: {row.target}" for row in rows))
        return 0
    count: dict[Verdict, int] = {"passed": 0, "failed": 0, "skipped": 0}
    interrupted = False
    try:
        tested = [row for row in rows if options.quick or not row.argv]
        results: Results | None = read_results(options.results) if options.results else None
        for row in rows:
            if row in tested and row.tests and results is None:
                results = run_suite([one for one in tested if one.tests])
            outcome = judge_tests(row, results or {}) if row in tested else judge_command(row)
            count[outcome.verdict] += 1
            show(row, outcome, as_json=options.json)
    except KeyboardInterrupt:
        interrupted = True
    print(json.dumps(count), flush=True)
    if interrupted:
        return INTERRUPTED
    return 1 if count["failed"] or (count["skipped"] and not options.quick) else 0


def show(row: Row, outcome: Outcome, *, as_json: bool) -> None:
    """Print one row."""
    if as_json:
        line = {"name": row.name, "target": row.target, "figure": outcome.figure}
        print(json.dumps({**line, "verdict": outcome.verdict}), flush=True)
    else:
        print(
            f"{outcome.verdict:8} {row.name}: {outcome.figure} (target: {row.target})", flush=True
        )


def judge_tests(row: Row, results: Results) -> Outcome:
    """Judge a row by the tests that show it; those that were not run count as skipped."""
    if not row.tests:
        return Outcome("skipped", "not in the short form")
    found: dict[str, Verdict] = {
        name: verdict for name, verdict in results.items() if re.search(row.tests, name)
    }
    ended = list(found.values())
    bad = sorted(name for name, verdict in found.items() if verdict == "failed")
    if bad:
        return Outcome("failed", f"{len(bad)} of {len(ended)} tests fail: {', '.join(bad[:3])}")
    if row.name == "abuse cases" and (lacking := _lacking(found)):
        return Outcome("failed", f"no passing test of {', '.join(map(str, lacking))}")
    if "passed" not in ended:
        return Outcome("skipped", "its tests were skipped" if ended else "its tests are not here")
    return Outcome(
        "passed", f"{ended.count('passed')} tests pass{' (short form)' * bool(row.argv)}"
    )


def judge_command(row: Row) -> Outcome:
    """Run a row's long form and judge what it says."""
    try:
        status, out = _run(row.argv, row.env, row.limit_s)
    except subprocess.TimeoutExpired:
        return Outcome("failed", f"not done within {row.limit_s:.0f} s")
    last = out.strip().rpartition("\n")[2]
    if row.read is None:
        return Outcome("failed" if status else "passed", last[:200] or f"exit {status}")
    try:
        met, figure = row.read(json.loads(last))
    except (ValueError, KeyError, TypeError) as error:
        return Outcome("failed", f"exit {status}, no figure: {type(error).__name__}: {error}")
    return Outcome("passed" if met else "failed", figure)


def read_results(path: Path) -> Results:
    """Return how each test of `tests/security` ended, from pytest's JUnit file."""
    found: dict[str, Verdict] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        place = case.get("classname", "")
        if not place.startswith("tests.security."):
            continue
        kinds = {child.tag for child in case}
        verdict: Verdict = "skipped" if "skipped" in kinds else "passed"
        if kinds & {"failure", "error"}:
            verdict = "failed"
        name = f"{place.removeprefix('tests.security.')}::{case.get('name')}"
        # A teardown that fails stands as a second case of the same name.
        found[name] = "failed" if found.get(name) == "failed" else verdict
    return found


def run_suite(rows: Sequence[Row]) -> Results:
    """Run `tests/security`, or the files that the rows name, and return how each test ended."""
    stems = {row.tests.partition("::")[0] for row in rows}
    every = sorted((ROOT / "tests" / "security").glob("test_*.py"))
    files = [path for path in every if any(stem in path.stem for stem in stems)]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "results.xml"
        argv = [PYTHON, "-m", "pytest", "-q", f"--junitxml={place}", *map(str, files)]
        try:
            _run(argv, {}, SUITE_LIMIT_S)
        except subprocess.TimeoutExpired:
            print(f"tests/security did not end within {SUITE_LIMIT_S:.0f} s", file=sys.stderr)
        return read_results(place) if place.exists() else {}


def _lacking(found: Results) -> list[int]:
    """Return the cases without a test that passed."""
    passed: set[int] = set()
    for name, verdict in found.items():
        numbers = re.match(r"test_(\d+(?:_(?:and_)?\d+)*)_", name.partition("::")[2])
        if verdict == "passed" and numbers:
            passed |= {int(number) for number in re.findall(r"\d+", numbers[1])}
    return sorted(set(CASES) - passed)


def _run(argv: Sequence[str], env: Mapping[str, str], limit_s: float) -> tuple[int, str]:
    """Run a command in a session of its own; end all of it when it is late or we are told to.

    Raises:
        subprocess.TimeoutExpired: it took too long, and was ended.
    """
    with subprocess.Popen(
        argv,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=limit_s)
        except BaseException:
            _end(process)
            raise
        return process.returncode, out


def _end(process: "subprocess.Popen[str]") -> None:
    """Ask a command and all it started to end, then make them.

    The second signal is for what outlives the command too: its group is its session's.
    """
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
        except ProcessLookupError:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_LIMIT_S)


def _interrupted(_signum: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # As Ctrl-C: what was started is in a session of its own and would go on alone.
    signal.signal(signal.SIGTERM, _interrupted)
    sys.exit(main())
