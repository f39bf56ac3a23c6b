"""Runner manifests: the built-in ones are valid, and a mistake is found by its key."""

import json
import re

import pytest

from cmesh.errors import ConfigError
from cmesh.model import Profile
from cmesh.runner.manifest import Manifest, load_manifests, parse_manifest
from cmesh.runner.template import manifest_text

GOOD = """
schema_version = 1
name = "x"
program = "x"
parser = "output"
argv = ["{task_id}"]
reports_cost = false
[profiles]
full = []
"""
SESSION = """[session]
id = "read"
new = []
resume = []
home = "kept"
file = "x"
adds_up_cost = false
"""


def test_the_built_in_runners_are_agents_and_command() -> None:
    assert sorted(load_manifests()) == ["claude", "codex", "command", "gemini", "opencode"]


def test_every_profile_runs_with_every_built_in_runner() -> None:
    for manifest in load_manifests().values():
        assert set(manifest.profiles) == set(Profile)


def test_claude_never_reads_settings_of_the_working_directory() -> None:
    manifest = load_manifests()["claude"]
    for arguments in manifest.profiles.values():
        assert arguments[arguments.index("--setting-sources") + 1] == "user"
    assert "--strict-mcp-config" in manifest.argv
    assert manifest.env["CLAUDE_CONFIG_DIR"].startswith("{home}/")


def test_codex_is_told_by_arguments_alone() -> None:
    manifest = load_manifests()["codex"]
    assert {"--ignore-user-config", "--ignore-rules"} <= set(manifest.argv)
    assert manifest.env["CODEX_HOME"] == "{home}"


def test_gemini_never_starts_in_the_working_directory_and_its_settings_are_its_homes() -> None:
    manifest = load_manifests()["gemini"]
    assert manifest.cwd is not None
    assert manifest.env["GEMINI_CLI_HOME"] == "{home}"
    settings = json.loads(manifest.files[".gemini/settings.json"])
    assert settings["context"]["includeDirectories"] == ["$CMESH_DIRECTORY"]
    assert settings["security"]["auth"]["selectedType"] == "gemini-api-key"
    assert manifest.session is not None
    assert manifest.session.home == f".gemini/tmp/{manifest.cwd}/chats"


def test_opencode_takes_no_project_and_knows_one_provider() -> None:
    manifest = load_manifests()["opencode"]
    assert manifest.env["OPENCODE_DISABLE_PROJECT_CONFIG"] == "1"
    assert "--pure" in manifest.argv
    config = manifest.env_json["OPENCODE_CONFIG_CONTENT"]
    assert isinstance(config, dict)
    assert config["enabled_providers"] == ["anthropic"]
    assert [config[key] for key in ("snapshot", "formatter", "lsp")] == [False, False, False]


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ("2.1.330 (Claude Code)", True),
        ("codex-cli 2.1.331", True),
        ("2.1.1000", True),
        ("2.1.329", False),
        ("2.1", False),
        ("2.2", False),
        ("2.2.0", False),
        ("10.1.330", False),
        ("v", False),
        ("", False),
    ],
)
def test_a_version_is_held_by_its_numbers(said: str, holds: bool) -> None:
    versions = load_manifests()["claude"].versions
    assert versions is not None
    assert versions.hold(said) is holds


def test_each_agent_names_the_versions_that_were_tried() -> None:
    with_versions = {name for name, one in load_manifests().items() if one.versions is not None}
    assert with_versions == {name for name, one in load_manifests().items() if one.program}


def test_a_good_manifest_is_read() -> None:
    assert parse_manifest(GOOD, source="x.toml").argv == ("{task_id}",)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{task_id}", "{prompt}", "argv[0]"),
        ('parser = "output"', 'parser = "magic"', "parser"),
        ("full = []", "root = []", "profiles.root"),
        ("schema_version = 1", "schema_version = 2", "schema_version"),
        ('name = "x"', 'name = "x"\nshell = true', "shell"),
        ("reports_cost = false", "", "reports_cost"),
        ("[profiles]", '[versions]\nfirst = "new"\nbelow = "2"\n[profiles]', "versions.first"),
        ("[profiles]", '[env]\nA = "{b}"\n[profiles]', "env.A"),
        ("[profiles]", SESSION + "[profiles]", "session.id"),
        ("[profiles]", SESSION.replace("[]", '["{session_id}"]', 1) + "[profiles]", "session.new"),
        ("[profiles]", 'cwd = "/tmp"\n[profiles]', "cwd"),
        ("[profiles]", '[files]\n"/etc/x" = ""\n[profiles]', 'files."/etc/x"'),
        ("[profiles]", '[env_json.A]\nx = ["{b}"]\n[profiles]', "env_json.A"),
        ("[profiles]", '[env_json.A]\n"{b}" = 1\n[profiles]', "env_json.A"),
        ("[profiles]", "[env_json.A]\nx = 2026-01-01\n[profiles]", "env_json.A.x"),
    ],
)
def test_a_mistake_is_named_by_its_key(old: str, new: str, said: str) -> None:
    place = rf"`x\.toml`(?: line \d+)?: `{re.escape(said)}`: "
    with pytest.raises(ConfigError, match=place):
        parse_manifest(GOOD.replace(old, new), source="x.toml")


def test_the_template_is_a_manifest_also_with_all_that_it_leaves_out() -> None:
    text = manifest_text("mine", 'a "program"')
    manifest = parse_manifest(text, source="mine.toml")
    assert (manifest.name, manifest.program) == ("mine", 'a "program"')
    assert (set(manifest.profiles), manifest.parser) == (set(Profile), "output")
    assert "@" not in text
    # Every table that stands there as a comment may be taken in, and together.
    whole = re.sub(r"(?m)^# (?=\[[\w.]+\]$|[\w\".]+(?:/settings\.json\")? = )", "", text)
    filled = parse_manifest(whole, source="mine.toml")
    assert filled.session is not None
    assert filled.credential is not None
    assert filled.credential.gateway is not None
    assert filled.versions is not None
    assert (filled.cwd, filled.refuses) == ("work", (".mine",))
    assert filled.files == {".example/settings.json": "{}"}
    assert set(filled.model_dump(exclude_defaults=True)) >= set(Manifest.model_fields) - {
        "env_json",
        "install_hint",
        "reports",  # its parser tells none
    }


@pytest.mark.parametrize("name", sorted(set(load_manifests()) - {"command"}))
def test_a_copy_of_a_built_in_manifest_says_the_same(name: str) -> None:
    assert parse_manifest(manifest_text(name, name), source=name) == load_manifests()[name]


def test_what_is_no_toml_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x\.toml"):
        parse_manifest("= 1", source="x.toml")
