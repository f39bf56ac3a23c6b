"""Runner manifests: the built-in ones are valid, and a mistake is found by its key."""

import pytest

from cmesh.errors import ConfigError
from cmesh.model import Profile
from cmesh.runner.manifest import load_manifests, parse_manifest

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


def test_the_built_in_runners_are_claude_and_command() -> None:
    assert sorted(load_manifests()) == ["claude", "command"]


@pytest.mark.parametrize("name", ["claude", "command"])
def test_only_the_profile_without_a_sandbox_runs_yet(name: str) -> None:
    assert set(load_manifests()[name].profiles) == {Profile.FULL}


def test_claude_never_reads_settings_of_the_working_directory() -> None:
    manifest = load_manifests()["claude"]
    full = manifest.profiles[Profile.FULL]
    assert full[full.index("--setting-sources") + 1] == "user"
    assert "--strict-mcp-config" in manifest.argv
    assert manifest.env["CLAUDE_CONFIG_DIR"].startswith("{home}/")


def test_a_good_manifest_is_read() -> None:
    assert parse_manifest(GOOD, source="x.toml").argv == ("{task_id}",)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{task_id}", "{prompt}", "argv.0"),
        ('parser = "output"', 'parser = "magic"', "parser"),
        ("full = []", "root = []", "profiles.root"),
        ("schema_version = 1", "schema_version = 2", "schema_version"),
        ('name = "x"', 'name = "x"\nshell = true', "shell"),
        ("reports_cost = false", "", "reports_cost"),
        ("[profiles]", '[env]\nA = "{b}"\n[profiles]', "env.A"),
    ],
)
def test_a_mistake_is_named_by_its_key(old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"`x.toml`: `{said}`"):
        parse_manifest(GOOD.replace(old, new), source="x.toml")


def test_what_is_no_toml_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x\.toml"):
        parse_manifest("= 1", source="x.toml")
