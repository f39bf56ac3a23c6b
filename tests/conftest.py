"""For every test: a home of its own, a clean environment; for a run: what it ran on.

Under CI a skip that tests/expected_skips.txt does not list fails the run.
"""

import os
import platform
import re
import sys
from collections.abc import Callable, Generator
from importlib.metadata import version
from pathlib import Path

import pytest

from cmesh import __version__
from cmesh.node import ffi

EXPECTED_SKIPS = Path(__file__).with_name("expected_skips.txt")
LOG_CHARS = 6_000
OWN_PREFIXES = ("CMESH_", "XDG_")
CLEARED = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point HOME at an empty directory, so that no test can touch real state."""
    for name in list(os.environ):
        if name.startswith(OWN_PREFIXES) or name in CLEARED:
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    return home


def pytest_report_header() -> str:
    parts = {
        "cmesh": __version__,
        "tailnet code": ffi.version(),
        "duckdb": version("duckdb"),
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
        "uid": str(os.getuid()),
        "processors": str(os.cpu_count()),
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items())


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Skips())
    if hasattr(config, "workerinput"):
        _show_timeouts()


def _show_timeouts() -> None:
    """Let a timeout print its stacks: the terminal of one of several processes goes nowhere."""
    import pytest_timeout  # tests of mutants do without

    end: Callable[[pytest.Item, object], None] = vars(pytest_timeout)["timeout_timer"]

    def end_loudly(item: pytest.Item, settings: object) -> None:
        vars(item.config.get_terminal_writer())["_file"] = sys.__stderr__
        end(item, settings)

    pytest_timeout.timeout_timer = end_loudly


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        add_logs(item, report)
    return report


class Skips:
    """Looks for skips that nobody expects; with several processes, in the one that reports."""

    def __init__(self) -> None:
        self.unexpected: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            # A tuple, or a list when another process has sent it.
            why = report.longrepr
            reason = str(why[2] if isinstance(why, (tuple, list)) else why)
            line = f"{report.nodeid}: {reason.removeprefix('Skipped: ')}"
            if not any(re.search(pattern, line) for pattern in expected_skips(EXPECTED_SKIPS)):
                self.unexpected.append(line)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.unexpected:
            terminalreporter.write_line(f"UNEXPECTED SKIP {line}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        found = self.unexpected and os.environ.get("CI") == "true"
        if found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def add_logs(item: pytest.Function, report: pytest.TestReport) -> None:
    """Show the ends of the daemons' logs with a failure; a rare one is understood by them only."""
    ground = item.funcargs.get("ground")
    if isinstance(ground, Path):
        for log in sorted(ground.glob("*/log")):
            text = log.read_text("utf-8", "replace")[-LOG_CHARS:]
            report.sections.append((f"end of the log of {log.parent.name}", text))


def expected_skips(path: Path) -> list[str]:
    """Return the patterns of a list: one regular expression a line, after ` # ` its reason."""
    lines = path.read_text("utf-8").splitlines()
    return [line.partition(" # ")[0].rstrip() for line in lines if line and line[0] != "#"]
