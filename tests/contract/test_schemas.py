"""The committed JSON Schemas are current, and accept and refuse what the code does."""

import json
import re
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cmesh.configfile import FileTable, starter_config
from cmesh.daemon.answers import WillRunView
from cmesh.interfaces.cli.app import main
from cmesh.interfaces.cli.watching.board import Change
from cmesh.interfaces.cli.watching.words import as_json
from cmesh.model import TaskState
from cmesh.runner.manifest import Manifest, built_in_text, load_manifests
from cmesh.runner.template import manifest_text
from scripts.gen_schemas import DIRECTORY, SCHEMAS, render, stale
from tests.fakes.daemon import DaemonThread
from tests.fakes.operations import FIRST_TASK, FakeOperations

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_committed_schemas_are_current() -> None:
    assert stale() == []


def test_a_changed_missing_or_foreign_schema_is_found(tmp_path: Path) -> None:
    for name in SCHEMAS:
        (tmp_path / f"{name}.json").write_text(render(name), encoding="utf-8")
    assert stale(tmp_path) == []
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "link.json").unlink()
    (tmp_path / "old.json").write_text("{}", encoding="utf-8")
    assert len(stale(tmp_path)) == 3


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_a_valid_schema(name: str) -> None:
    schema = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    assert schema["$id"].endswith(f"/{name}.json")


WHOLE = re.findall(
    r"(?s)```toml\n(.*?)```", (DOCS / "configuration.md").read_text(encoding="utf-8")
)[0]


def accepts(raw: dict[str, Any], name: str = "config") -> bool:
    validator = Draft202012Validator(SCHEMAS[name]())
    # The library's stubs leave an argument of a deprecated overload untyped.
    return validator.is_valid(raw)  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize("text", [WHOLE, starter_config("box"), ""])
def test_the_config_schema_accepts_valid_files(text: str) -> None:
    raw = tomllib.loads(text)
    FileTable.model_validate(raw)
    assert accepts(raw)


@pytest.mark.parametrize(
    "raw",
    [
        {"nod": {}},
        {"node": {"hostname": 1}},
        {"inbound": {"allow": [{"name": "x"}]}},
        {"inbound": {"allow": [{"name": "x", "peers": ["*"], "operations": ["all"]}]}},
        {"outbound": {"allow": [{"name": "x", "peers": [], "profiles": ["query"]}]}},
        {"commands": {"x": {"argv": []}}},
        {"runners": {"Other": {}}},
    ],
)
def test_the_config_schema_refuses_what_the_code_refuses(raw: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        FileTable.model_validate(raw)
    assert not accepts(raw)


MANIFEST = manifest_text("mine", "mine")


@pytest.mark.parametrize("text", [MANIFEST, *map(built_in_text, sorted(load_manifests()))])
def test_the_runner_schema_accepts_every_manifest_of_ours(text: str) -> None:
    assert accepts(tomllib.loads(text), "runner")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shell", True),
        ("name", "Mine"),
        ("parser", "magic"),
        ("argv", "--json"),
        ("profiles", {"root": []}),
        ("cwd", "/tmp"),
        ("env", {"A=B": ""}),
        ("credential", {}),
        ("schema_version", 2),
    ],
)
def test_the_runner_schema_refuses_what_the_code_refuses(key: str, value: object) -> None:
    raw = tomllib.loads(MANIFEST) | {key: value}
    with pytest.raises(ValueError, match="validation error"):
        Manifest.model_validate(raw)
    assert not accepts(raw, "runner")


EVIL = "\x1b[31m\u202e<b>"


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonThread]:
    with tempfile.TemporaryDirectory(prefix="cm-") as directory:  # its path must be short
        for name in ("STATE", "CONFIG"):
            monkeypatch.setenv(f"CMESH_{name}_DIR", f"{directory}/{name.lower()}")
        with DaemonThread() as running:
            yield running


def test_what_commands_print_fits_its_schema(
    daemon: DaemonThread, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ["delegate", "worker", "look", "-C", "/srv/app"]
    assert main([*task, "--no-wait"]) == 0
    daemon.order("start", task_id=FIRST_TASK)
    call = {"tool": "Bash", "command": EVIL}
    daemon.order("emit", task_id=FIRST_TASK, kind="tool_call", text=EVIL, data=call)
    daemon.order("finish", task_id=FIRST_TASK, state="succeeded", text=EVIL)
    for schema, command in (("task", "show"), ("result", "result"), ("event", "logs")):
        capsys.readouterr()
        assert main([command, FIRST_TASK, "--json"]) == 0
        raw = json.loads(capsys.readouterr().out)
        assert accepts(raw, schema)
        assert not accepts({key: raw[key] for key in list(raw)[1:]}, schema)


def test_a_line_of_watch_fits_its_schema() -> None:
    operations = FakeOperations()
    view = operations.knock(WillRunView(argv=["/bin/true"]))
    event = operations.emit(view.task_id, "text", EVIL)
    for change in (
        Change(kind="task", task=view),
        Change(kind="state", task=view, was=TaskState.QUEUED),
        Change(kind="event", task=view, event=event),
    ):
        line = json.loads(as_json(change))
        assert accepts(line, "watch")
        assert not accepts(line | {"change": "other"}, "watch")


def test_the_page_names_each_schema_and_the_tests_that_check_real_ones() -> None:
    page = (DIRECTORY / "README.md").read_text("utf-8")
    assert set(re.findall(r"\]\(([a-z]+)\.json\)", page)) == SCHEMAS.keys()
    for test in re.findall(r"`(tests/[^`]+)`", page):
        assert (DOCS.parent / test).is_file()
