"""The pages say what is there: links, commands, keys, codes, tools, tests and examples."""

import ast
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cmesh.config import load_config
from cmesh.errors import CmeshError
from cmesh.interfaces.cli.app import app
from cmesh.interfaces.cli.params import bound
from cmesh.interfaces.mcp.tools import TOOLS
from cmesh.runner.manifest import parse_manifest
from cmesh.store.migrations import describe
from cmesh.store.store import Store
from tests.contract.audit_month import MonthClock, live_a_month
from tests.unit.store.support import (
    FixedClock,
    acknowledgement,
    decision,
    event,
    result,
    state,
    task,
    trust,
)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
RECORDS = sorted((DOCS / "decisions").glob("*.md"))
EXAMPLES = (
    "README.md",
    "docs/configuration-keys.md",
    "docs/quickstart.md",
    "docs/runner-manifests.md",
)
README_LINES = 150
RECORD_LINES = 40
# A page on what is not there yet may name it; a changelog may name what has gone.
NAMES_OTHERS = ("docs/roadmap.md", "CHANGELOG.md")
MACHINE_PATH = re.compile(r"(?<![\w.~…])/(?:work|root|home|Users|tmp/[a-z]*-?\w{6,})\b")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"(?ms)^```.*?^```", "", text_of(page))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text_of(page))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"(?m)^#+ (.*)$", prose_of(page))
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


def parse(words: list[str]) -> None:
    """Check a command line of `cmesh` as the program itself does, without running it."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    name = "cmesh"
    while True:
        context = command.make_context(name, words, parent=context)
        rest = [*context._protected_args, *context.args]
        if not hasattr(command, "resolve_command") or not rest:
            return
        name, command, words = command.resolve_command(context, rest)


def lines(script: str) -> Iterator[list[str]]:
    for line in script.splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def public_commands() -> set[str]:
    command: Any = typer.main.get_command(app)
    return set(command.commands)


def error_codes() -> set[str]:
    found = [CmeshError]
    for one in found:
        found += one.__subclasses__()
    return {one.code for one in found}


def extra_codes() -> set[str]:
    """Return the codes that the daemon writes out without an error class."""
    found: set[str] = set()
    for path in sorted((ROOT / "cmesh" / "daemon").glob("*.py")):
        found |= set(re.findall(r'\bcode="([a-z_]+)"', text_of(path)))
    return found - error_codes()


def functions(path: Path) -> set[str]:
    tree = ast.parse(text_of(path))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{target}: no such file"
        assert there.is_relative_to(ROOT), f"{target}: outside the repository"
        if anchor:
            assert anchor in anchors(there), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_test_and_contract_that_is_named_exists(page: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)", text_of(page)):
        assert (ROOT / file).is_file(), file
        assert name in functions(ROOT / file), f"{file}::{name}"


def test_the_site_lists_every_page() -> None:
    listed = set(re.findall(r"[\w-]+\.md", text_of(ROOT / "mkdocs.yml").partition("\nnav:")[2]))
    assert {page.name for page in DOCS.glob("*.md")} <= listed


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_list_begins_after_an_empty_line(page: Path) -> None:
    # Code hosts take one without; the site's Markdown makes it part of the paragraph.
    for above, below in itertools.pairwise(prose_of(page).splitlines()):
        item = re.match(r"(?:[-*] |\d+\. |\|)", below)
        assert not item or not above or re.match(r"(?:[-*#|\s]|\d+\. )", above), below


def test_every_invariant_names_its_guard() -> None:
    linter = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["importlinter"]
    contracts = {contract["id"] for contract in linter["contracts"]}
    found = re.findall(
        r"(?m)^\*\*Architecture Invariant:\*\* (.*)$", text_of(ROOT / "ARCHITECTURE.md")
    )
    assert len(found) >= 10
    for line in found:
        _, _, listed = line.lower().partition("contract")
        guards: set[str] = set(re.findall(r"`([a-z]+)`", listed))
        assert guards <= contracts, line
        assert guards or "::test_" in line, line


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_names_no_machine(page: Path) -> None:
    assert not MACHINE_PATH.findall(text_of(page))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_code_that_a_page_points_to_is_there(page: Path) -> None:
    if named(page) == "CHANGELOG.md":
        return
    wanted = re.findall(
        r"`((?:cmesh|native|scripts|schemas|examples|tests)/[\w./-]+)`", text_of(page)
    )
    for name in wanted:
        # What a build makes is not in a clone.
        if not name.startswith(("cmesh/_native", "cmesh/node/bin")):
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_only_commands_that_exist_are_named(page: Path) -> None:
    if named(page) in NAMES_OTHERS:
        return
    for words in re.findall(r"`(?:\.venv/bin/)?cmesh ([a-z][\w -]*)", prose_of(page)):
        first = words.split()[0]
        assert first in public_commands() | {"daemon"}, f"cmesh {words}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_line_is_one_that_parses(page: Path) -> None:
    for script in blocks(page, "sh"):
        checked = subprocess.run(["/bin/sh", "-n"], input=script, text=True, check=False)
        assert checked.returncode == 0, script
        for words in lines(script):
            if Path(words[0]).name == "cmesh":
                parse(words[1:])
            elif words[0].startswith(("scripts/", ".venv/bin/")):
                assert words[0].startswith(".venv/") or (ROOT / words[0]).exists(), words


def test_a_wrong_command_line_is_found() -> None:
    wrong: list[str] = ["nosuch", "tasks --nosuch", "peers trust", "reply 0190"]
    for line in wrong:
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parse(list(line.split()))


def test_the_program_exits_as_the_page_says() -> None:
    # The script beside the interpreter is made by the set-up, or by pip.
    program = Path(sys.executable).with_name("cmesh")
    for words, status in ((["nosuch"], 2), (["version"], 0), (["status"], 81)):
        done = subprocess.run([program, *words], capture_output=True, check=False, timeout=30)
        assert done.returncode == status, words


def test_the_readme_is_short_and_its_two_commands_are_there() -> None:
    text = text_of(README)
    assert len(text.splitlines()) < README_LINES
    for name in ("scripts/demo", "scripts/test"):
        script = ROOT / name
        assert re.search(rf"(?m)^{name}\b", "\n".join(blocks(README, "sh")))
        assert script.is_file(), name
        assert script.stat().st_mode & 0o111, f"{name} is not executable"
    assert text.index("Read this first") < text.index("scripts/demo")


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_configuration_that_is_shown_is_valid(name: str, tmp_path: Path) -> None:
    shown = blocks(ROOT / name, "toml")
    assert shown
    for text in shown:
        if "schema_version" in text:
            assert parse_manifest(text, source=name).name
            continue
        path = tmp_path / "config.toml"
        path.write_text(text, "utf-8")
        path.chmod(0o600)
        assert load_config(path).configured


@pytest.mark.anyio
async def test_every_question_of_the_cookbook_has_an_answer(tmp_path: Path) -> None:
    shown = blocks(DOCS / "audit-cookbook.md", "sql")
    assert len(set(shown)) >= 25
    clock = MonthClock()
    store = await Store.open(tmp_path / "store", clock=clock, node="nSELF")
    try:
        await live_a_month(store, clock)
        for sql in shown:
            rows = (await store.sql(sql.strip(), (), 100)).rows
            # Whether a question finds anything is part of the page.
            assert bool(rows) != sql.startswith("-- no rows: "), sql
    finally:
        await store.close()


@pytest.mark.anyio
async def test_every_query_that_is_shown_runs(tmp_path: Path) -> None:
    shown = blocks(DOCS / "audit.md", "sql")
    asked = [(text.strip(), bound([])) for text in shown]
    for words in _sql_lines():
        if words[1:2] == ["sql"] and not words[2].startswith("-"):
            given = [value for at, value in enumerate(words) if words[at - 1] == "-p"]
            asked.append((words[2], bound(given)))
    assert len(asked) > 5
    store = await Store.open(tmp_path / "store", clock=FixedClock(), node="nSELF")
    try:
        one = task()
        await store.commit([decision(one), one, state(one, "running", witness="w")])
        await store.commit([event(one, 1), result(one), acknowledgement(one), trust()])
        for sql, values in asked:
            rows = await store.sql(sql, values, 100)
            assert rows.columns, sql
    finally:
        await store.close()


def test_every_view_is_in_the_page_on_the_audit() -> None:
    views = {view for view, *_ in describe()}
    named_here = set(re.findall(r"`(\w+)`", text_of(DOCS / "audit.md")))
    assert not views - named_here


def test_every_code_is_in_the_reference() -> None:
    commands, errors = text_of(DOCS / "commands.md"), text_of(DOCS / "errors.md")
    assert not {code for code in error_codes() if f"`{code}`" not in commands}
    assert not {code for code in extra_codes() if f"| `{code}` |" not in errors}


def test_every_command_and_tool_is_in_the_reference() -> None:
    headings = re.findall(r"(?m)^## `cmesh ([a-z]+)", text_of(DOCS / "commands.md"))
    assert set(headings) == public_commands()
    tools = re.findall(r"(?m)^### `(\w+)`", text_of(DOCS / "mcp-tools.md"))
    assert set(tools) == set(TOOLS)


def test_every_page_is_in_the_list_of_pages() -> None:
    listed = set(re.findall(r"\]\(([\w./-]+)\)", text_of(DOCS / "README.md")))
    there = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert there <= listed


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_decision_is_short_has_its_three_parts_and_is_listed(record: Path) -> None:
    if record.name == "README.md":
        return
    text = text_of(record)
    assert len(text.splitlines()) < RECORD_LINES
    for part in ("Context", "Decision", "Consequences"):
        assert f"**{part}.**" in text, part
    assert f"]({record.name})" in text_of(DOCS / "decisions" / "README.md")


def _sql_lines() -> Iterator[list[str]]:
    for page in PAGES:
        for script in blocks(page, "sh"):
            for words in lines(script):
                if Path(words[0]).name == "cmesh":
                    yield words
