"""Every abuse case has a test of its number, and the table of the page names them."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "security.md"
CASES = range(1, 26)
ROW = re.compile(r"(?m)^\| (\d+) \| [^|]+ \| [^|]+ \| (.+) \|$")
TEST = re.compile(r"`(tests/security/\w+\.py)::(test_\w+)`")


def numbers(name: str) -> set[int]:
    """Return the case numbers that a test's name begins with: `test_4_and_5_x` has two."""
    found = re.match(r"test_(\d+(?:_(?:and_)?\d+)*)_", name)
    return {int(number) for number in re.findall(r"\d+", found[1])} if found else set()


def by_case() -> dict[int, set[str]]:
    """Return the tests of this directory by the number in their names."""
    found: dict[int, set[str]] = {}
    for path in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for case in numbers(node.name):
                    found.setdefault(case, set()).add(f"{path.name}::{node.name}")
    return found


def table() -> dict[int, list[tuple[str, str]]]:
    rows = ROW.findall(PAGE.read_text("utf-8").partition("## 10.")[2])
    assert [int(number) for number, _ in rows] == list(CASES)
    return {int(number): TEST.findall(shown) for number, shown in rows}


def test_every_case_has_a_test_of_its_number_and_no_test_another_number() -> None:
    assert sorted(by_case()) == list(CASES)


def test_every_case_is_in_the_table_with_tests_of_its_number() -> None:
    there = by_case()
    for case, shown in table().items():
        assert shown, f"case {case} names no test"
        for file, name in shown:
            assert f"{Path(file).name}::{name}" in there[case], f"case {case}: {name}"


def test_a_number_is_read_from_a_name_as_people_read_it() -> None:
    assert numbers("test_4_and_5_every_combination") == {4, 5}
    assert numbers("test_13_14_something") == {13, 14}
    assert numbers("test_2_of_3_things") == {2}
    assert numbers("test_the_9_lives") == set()
