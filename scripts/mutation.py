"""Runs mutmut over `cmesh/policy` in a copy of the tree; `scripts/mutation` starts it."""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / ".cache" / "mutation" / "tree"
TESTS = ("tests/unit/policy", "tests/security/test_policy_table.py")
COUNTED = (
    "tests/security/test_policy_table.py::test_the_table_has_each_answer_and_no_file_allows_most"
)
TABLE_STEP = 397
"""Every so many-th cell of the table is asked: the whole of it takes minutes, for each mutant."""
TARGET = 90.0
SURVIVED, NO_TEST = 0, 33  # exit codes, as mutmut keeps them

CONFIG = """
[tool.mutmut]
source_paths = ["cmesh"]
only_mutate = ["cmesh/policy/*"]
also_copy = ["tests"]
pytest_add_cli_args_test_selection = {tests}
"""


def main() -> int:
    """Run what the arguments say; 0 only when the target is met."""
    parser = argparse.ArgumentParser(prog="scripts/mutation")
    parser.add_argument("--sample", type=int, default=0, help="so many mutants; 0 = all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="first those that survived before")
    options = parser.parse_args()
    copy_tree()
    names: list[str] = []
    if options.again and (survived := [name for name, code in codes().items() if left(code)]):
        mutmut(options.jobs, *survived)
    if options.sample:
        mutmut(options.jobs, "cmesh.policy.none*")  # makes the mutants, and then runs none
        every = sorted(codes())
        names = random.Random(options.seed).sample(every, min(options.sample, len(every)))
    mutmut(options.jobs, *names)
    return report(codes(), names)


def copy_tree() -> None:
    """Bring the copy up to date; mutmut keeps what it knows of unchanged files."""
    COPY.mkdir(parents=True, exist_ok=True)
    for name in ("cmesh", "tests"):
        shutil.rmtree(COPY / name, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "cmesh", COPY / "cmesh", ignore=ignored)
    for name in ("conftest.py", "expected_skips.txt"):
        (COPY / "tests").mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / name, COPY / "tests" / name)
    shutil.copytree(ROOT / "tests/unit/policy", COPY / "tests/unit/policy", ignore=ignored)
    (COPY / "tests/security").mkdir()
    for path in (ROOT / "tests/security").glob("*policy_table.py"):
        shutil.copy(path, COPY / "tests/security" / path.name)
    selection = json.dumps([*TESTS, f"--deselect={COUNTED}"])
    text = (ROOT / "pyproject.toml").read_text("utf-8") + CONFIG.format(tests=selection)
    (COPY / "pyproject.toml").write_text(text, "utf-8")
    site = next((ROOT / ".venv" / "lib").glob("python*/site-packages"))
    ours = next((Path(sys.prefix) / "lib").glob("python*/site-packages"))
    (ours / "tree.pth").write_text(f"{site}\n", "utf-8")


def mutmut(jobs: int, *names: str) -> None:
    """Run mutants by name, or all; what became of them is read from its files."""
    program = Path(sys.executable).with_name("mutmut")
    subprocess.run(
        [program, "run", "--max-children", str(jobs), *names],
        cwd=COPY,
        env={**os.environ, "CMESH_TABLE_STEP": str(TABLE_STEP)},
        stdout=sys.stderr,
        check=False,
    )


def codes() -> dict[str, int | None]:
    """Return how the tests ended for each mutant; None = they did not run."""
    found: dict[str, int | None] = {}
    for path in (COPY / "mutants" / "cmesh" / "policy").glob("*.meta"):
        found |= json.loads(path.read_text("utf-8")).get("exit_code_by_key", {})
    return found


def left(code: int | None) -> bool:
    """Say whether no test noticed a mutant that ran."""
    return code in {SURVIVED, NO_TEST}


def report(ended: dict[str, int | None], names: list[str]) -> int:
    """Print what survived and the score of those that ran."""
    ran = {name: code for name, code in ended.items() if code is not None}
    if names:
        ran = {name: code for name, code in ran.items() if name in names}
    survived = sorted(name for name, code in ran.items() if left(code))
    for name in survived:
        print(f"survived: {name}")
    killed = len(ran) - len(survived)
    score = round(100 * killed / len(ran), 1) if ran else 0.0
    figures = {"mutants": len(ended), "ran": len(ran), "killed": killed, "score": score}
    print(json.dumps({**figures, "target": TARGET}))
    return 0 if score >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
