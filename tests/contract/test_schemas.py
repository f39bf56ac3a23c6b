"""The committed JSON Schemas are current, and accept and refuse what the code does."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cmesh.configfile import FileTable, starter_config
from cmesh.runner.manifest import Manifest, built_in_text, load_manifests
from cmesh.runner.template import manifest_text
from scripts.gen_schemas import DIRECTORY, SCHEMAS, render, stale

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
