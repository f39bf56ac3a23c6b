"""What differs between systems is in `cmesh.platform`, in one form for all of them."""

import ast
import importlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEAMS = sorted(
    path.stem
    for path in (ROOT / "cmesh/platform").glob("*.py")
    if path.stem not in ("__init__", "elsewhere", "system")
)
SYSTEMS = {
    "linux": ("linux", "posix"),
    "macos": ("macos", "posix"),
    "windows": ("windows",),
}
# Where Linux itself is the subject, and what a program may take for granted is said by the file.
FOR_LINUX = ("cmesh/sandbox/", "cmesh/runner/")
ONE_SYSTEM_S = frozenset({"fcntl", "grp", "msvcrt", "pwd", "resource", "termios", "tty", "winreg"})
KNOWN = frozenset(
    {
        "cmesh/interfaces/cli/output.py",  # a terminal of Unix is set, where there is one
        "cmesh/setup/doctor/outside.py",  # a login shell of Unix
        "cmesh/setup/service/systemd.py",
        "cmesh/store/confined_main.py",  # runs in a sandbox of Linux
    }
)


def sources(words: Iterable[str]) -> Iterator[tuple[str, ast.Module]]:
    """Yield what holds one of the words anywhere; to parse all of it takes long."""
    for path in sorted((ROOT / "cmesh").rglob("*.py")):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
        if not name.startswith("cmesh/platform/") and any(word in text for word in words):
            yield name, ast.parse(text)


def test_nobody_else_asks_which_system_this_is() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in sources(("sys.platform", "os.name"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id.lstrip("_"), node.attr) in (("sys", "platform"), ("os", "name"))
    ]
    assert found == []


def test_modules_that_one_system_has_are_imported_for_it_only() -> None:
    found = {
        name
        for name, tree in sources(ONE_SYSTEM_S)
        if not name.startswith(FOR_LINUX)
        for node in ast.walk(tree)
        if ONE_SYSTEM_S.intersection(_imported(node))
    }
    assert found == KNOWN


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("seam", SEAMS)
def test_each_system_does_all_of_a_seam_in_its_form(seam: str, system: str) -> None:
    here = importlib.import_module(f"cmesh.platform.{seam}")
    for name in here.__all__:
        other = _of(system, seam, name)
        mine = getattr(here, name)
        if callable(mine):
            assert _parameters(other) == _parameters(mine)
        else:
            assert type(other) is type(mine)


def _of(system: str, seam: str, name: str) -> object:
    for place in SYSTEMS[system]:
        try:
            module = importlib.import_module(f"cmesh.platform.{place}.{seam}")
        except ModuleNotFoundError:
            continue
        if hasattr(module, name):
            return getattr(module, name)
    raise AssertionError(f"nothing in cmesh.platform does `{seam}.{name}` for {system}")


def _parameters(function: object) -> list[str]:
    assert callable(function)
    given = inspect.signature(function).parameters.values()
    return [one.name for one in given if one.default is inspect.Parameter.empty]
