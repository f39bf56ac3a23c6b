"""The C ABI from C: libtailscale's header alone, every function misused, every one guarded."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import build_ext
from cmesh.node.testnet import Testnet

pytestmark = [pytest.mark.anyio, pytest.mark.system]

ROOT = Path(__file__).parents[3]
NATIVE = ROOT / "native"
ARCHIVE = ROOT / "build" / "native" / "libtailscale.a"
COMPILE_LIMIT_S = 60
RUN_LIMIT_S = 45
_REAL_HOME = os.environ.get("HOME", "/")  # before a test gets its own: Go's caches are there
GO_TEST_LIMIT_S = 900  # cold, on two busy cores; warm it takes a second

Compile = Callable[[str], Path]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    if not ARCHIVE.exists():
        pytest.skip("no native archive here: python build_ext.py --inplace")
    directory = tmp_path_factory.mktemp("c")

    def compile_one(name: str) -> Path:
        source, target = Path(__file__).with_name(f"{name}.c"), directory / name
        flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", f"-I{NATIVE}"]
        libraries = [str(ARCHIVE), "-lresolv", "-lpthread"]
        argv = [compiler, *flags, str(source), *libraries, "-o", str(target)]
        subprocess.run(argv, check=True, timeout=COMPILE_LIMIT_S)
        return target

    return compile_one


@pytest.mark.parametrize(("name", "directories"), [("two_nodes", 2), ("every_export", 1)])
async def test_a_c_program_runs(
    compile_c: Compile, tmp_path: Path, name: str, directories: int
) -> None:
    async with Testnet(auto_user="alice@example.com") as testnet:
        states = [str(tmp_path / str(number)) for number in range(directories)]
        done = subprocess.run(
            [str(compile_c(name)), testnet.control_url, *states],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=RUN_LIMIT_S,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def test_two_nodes_c_knows_libtailscales_header_only() -> None:
    source = Path(__file__).with_name("two_nodes.c").read_text("utf-8")
    assert re.findall(r'#include "(.*)"', source) == ["tailscale.h"]


def test_every_export_recovers_from_panics() -> None:
    bodies = _exports()
    declared = set(re.findall(r"\b(\w+)\(", build_ext.declarations()))
    assert set(bodies) == declared
    unguarded = [name for name, body in bodies.items() if not re.search(r"recovered\(", body)]
    delegating = {
        name for name in unguarded if re.search(r"return (configure|endOperation)\(", bodies[name])
    }
    # These hand their whole work to a function that recovers; a constant cannot panic.
    assert set(unguarded) - delegating == {"cmesh_version", "tailscale_set_logfd"}
    assert "code := configure(" in bodies["tailscale_set_logfd"]


def test_every_export_is_called_from_c() -> None:
    called = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("*.c"))
    assert [name for name in _exports() if f"{name}(" not in called] == []


@pytest.mark.timeout(GO_TEST_LIMIT_S)
def test_the_go_tests_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", _REAL_HOME)
    done = build_ext.go_test()
    assert done.returncode == 0, done.stdout


def _exports() -> dict[str, str]:
    """Return the body of each exported Go function by its name."""
    bodies: dict[str, str] = {}
    for path in NATIVE.glob("*.go"):
        for found in re.finditer(
            r"^//export (\w+)\nfunc \1\((?:.|\n)*?(?:^\}| \}$)",
            path.read_text("utf-8"),
            re.MULTILINE,
        ):
            bodies[found[1]] = found[0]
    return bodies
