"""Which runners there are, and why one is not available."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cmesh.config import CommandConfig, RunnerConfig
from cmesh.errors import RunnerUnavailable
from cmesh.model import Limits, Profile, TaskId, TaskSpec
from cmesh.paths import key_file
from cmesh.runner.claude_stream import ClaudeReader
from cmesh.runner.codex_stream import CodexReader
from cmesh.runner.egress.network import RELAY_PORT, variables
from cmesh.runner.gemini_stream import GeminiReader
from cmesh.runner.opencode_stream import OpencodeReader
from cmesh.runner.programs import Programs
from cmesh.runner.reader import OutputReader
from cmesh.runner.registry import Runners

ECHO = {"echo": CommandConfig(argv=("echo", "hi"), env_pass=("COLOUR", "UNSET"))}


@pytest.fixture
def claude(tmp_path: Path) -> Path:
    """Return a folder with a program that says a version and counts how often it is asked."""
    program = tmp_path / "bin" / "claude"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\necho 2.1.330 '(Claude)'\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("sk-owner\n")
    path.chmod(0o600)
    return path


def runners(claude: Path, **config: object) -> Runners:
    programs = Programs(f"{claude.parent}:/usr/bin:/bin")
    configs = {"claude": RunnerConfig(**config)}  # pyright: ignore[reportArgumentType]
    return Runners(configs, ECHO, programs=programs, environment={"COLOUR": "never", "X": "y"})


def spec(runner: str) -> TaskSpec:
    return TaskSpec(
        task_id=TaskId("0198c0de-1111-7aaa-8bbb-0123456789ab"),
        runner=runner,
        profile=Profile.FULL,
        directory="/srv/myapp",
        prompt="hello",
        limits=Limits(),
        not_after=datetime(2030, 1, 1, tzinfo=UTC),
    )


def test_a_command_is_its_configured_argv_by_absolute_path(claude: Path, tmp_path: Path) -> None:
    runner = runners(claude).resolve("command:echo")
    launch = runner.launch(spec("command:echo"), tmp_path, tmp_path / "home")
    assert Path(launch.argv[0]).is_absolute()
    assert launch.argv[1:] == ("hi",)
    assert isinstance(runner.reader(), OutputReader)
    assert (runner.credential(Profile.QUERY), runner.reports_cost) == ("none", False)


def test_a_command_sees_only_the_variables_it_names(claude: Path, tmp_path: Path) -> None:
    runner = runners(claude).resolve("command:echo")
    env = runner.launch(spec("command:echo"), tmp_path, tmp_path / "home").env
    assert env["COLOUR"] == "never"
    assert "X" not in env
    assert "UNSET" not in env


def test_claude_takes_its_key_from_the_file_at_each_launch(
    claude: Path, key: Path, tmp_path: Path
) -> None:
    runner = runners(claude, key_file=key, base_url="http://127.0.0.1:1").resolve("claude")
    key.write_text("sk-2")
    launch = runner.launch(spec("claude"), tmp_path, tmp_path / "home")
    assert launch.env["ANTHROPIC_API_KEY"] == "sk-2"
    assert launch.env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1"
    assert runner.version == "2.1.330 (Claude)"
    assert (runner.credential(Profile.FULL), runner.reports_cost) == ("exposed", True)
    assert isinstance(runner.reader(), ClaudeReader)


@pytest.mark.parametrize(
    ("profile", "url", "seen"),
    [
        (Profile.FULL, "http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1"),
        (Profile.QUERY, "http://127.0.0.1:1/v1", f"http://127.0.0.1:{RELAY_PORT}/v1"),
        (Profile.QUERY, "https://model.example.com/api", f"http://127.0.0.1:{RELAY_PORT}/api"),
        (Profile.EDIT, "", f"http://127.0.0.1:{RELAY_PORT}/v1"),
    ],
)
def test_codex_is_told_its_models_address_as_the_task_sees_it(
    claude: Path, key: Path, tmp_path: Path, profile: Profile, url: str, seen: str
) -> None:
    config = RunnerConfig(program=str(claude), key_file=key, base_url=url, model="m")
    runner = Runners({"codex": config}, {}, programs=Programs("/usr/bin:/bin")).resolve("codex")
    task = replace(spec("codex"), profile=profile)
    launch = runner.launch(task, tmp_path, tmp_path / "home")
    assert f'model_providers.cmesh.base_url="{seen}"' in launch.argv
    assert launch.argv[launch.argv.index("--model") + 1] == "m"
    assert launch.env["CODEX_API_KEY"] == ("sk-owner" if profile is Profile.FULL else "")
    assert launch.env["CODEX_HOME"] == launch.env["HOME"]
    assert not runner.reports_cost
    assert isinstance(runner.reader(), CodexReader)


def test_without_an_address_codex_asks_its_own(claude: Path, key: Path, tmp_path: Path) -> None:
    config = RunnerConfig(program=str(claude), key_file=key)
    runner = Runners({"codex": config}, {}, programs=Programs("/usr/bin:/bin")).resolve("codex")
    argv = runner.launch(spec("codex"), tmp_path, tmp_path / "home").argv
    assert not [part for part in argv if "model_provider" in part]


def test_gemini_gets_key_and_address_in_its_environment(
    claude: Path, key: Path, tmp_path: Path
) -> None:
    url = "http://127.0.0.1:1"
    config = RunnerConfig(program=str(claude), key_file=key, base_url=url, model="m")
    runner = Runners({"gemini": config}, {}, programs=Programs("/usr/bin:/bin")).resolve("gemini")
    launch = runner.launch(spec("gemini"), tmp_path, tmp_path / "home")
    assert launch.env["GEMINI_API_KEY"] == "sk-owner"
    assert launch.env["GOOGLE_GEMINI_BASE_URL"] == url
    assert launch.argv[launch.argv.index("--model") + 1] == "m"
    assert (runner.credential(Profile.FULL), runner.reports_cost) == ("exposed", False)
    assert isinstance(runner.reader(), GeminiReader)


def test_opencode_is_told_model_and_address_in_its_configuration_and_no_key(
    claude: Path, key: Path, tmp_path: Path
) -> None:
    config = RunnerConfig(
        program=str(claude), key_file=key, base_url="http://127.0.0.1:1/v1", model="m"
    )
    found = Runners({"opencode": config}, {}, programs=Programs("/usr/bin:/bin"))
    runner = found.resolve("opencode")
    task = replace(spec("opencode"), profile=Profile.QUERY)
    launch = runner.launch(task, tmp_path, tmp_path / "home")
    told = json.loads(launch.env["OPENCODE_CONFIG_CONTENT"])
    anthropic = told["provider"]["anthropic"]
    assert anthropic == {
        "options": {"baseURL": f"http://127.0.0.1:{RELAY_PORT}/v1"},
        "models": {"m": {}},
    }
    assert told["model"] == "anthropic/m"
    assert not any("sk-owner" in text for text in (*launch.argv, *launch.env.values()))
    assert isinstance(runner.reader(), OpencodeReader)
    bare = Runners(
        {"opencode": replace(config, base_url="", model="")},
        {},
        programs=Programs("/usr/bin:/bin"),
    )
    task = replace(task, profile=Profile.FULL)
    launch = bare.resolve("opencode").launch(task, tmp_path, tmp_path / "home")
    assert launch.env["ANTHROPIC_API_KEY"] == "sk-owner"
    told = json.loads(launch.env["OPENCODE_CONFIG_CONTENT"])
    assert told["provider"] == {"anthropic": {"options": {}, "models": {}}}
    assert "model" not in told


@pytest.mark.parametrize("name", [".opencode", "opencode.json", "opencode.jsonc"])
def test_a_directory_that_opencode_would_act_on_is_refused_up_to_its_repository(
    claude: Path, key: Path, tmp_path: Path, name: str
) -> None:
    config = RunnerConfig(program=str(claude), key_file=key)
    agents = {"opencode": config, "claude": config}
    found = Runners(agents, {}, programs=Programs("/usr/bin:/bin"))
    below = tmp_path / "repository" / "below"
    (below.parent / ".git").mkdir(parents=True)
    below.mkdir()
    (tmp_path / name).mkdir()  # beyond the repository
    found.resolve("opencode").check_directory(str(below))
    (below.parent / name).symlink_to("nowhere")
    found.resolve("claude").check_directory(str(below))
    with pytest.raises(RunnerUnavailable, match=f"repository/{name}"):
        found.resolve("opencode").check_directory(str(below))


@pytest.mark.parametrize("name", ["claude", "codex", "gemini", "opencode"])
def test_in_a_sandbox_each_agent_is_given_its_own_credential_and_the_gateway(
    claude: Path, key: Path, tmp_path: Path, name: str
) -> None:
    config = RunnerConfig(program=str(claude), key_file=key)
    runner = Runners({name: config}, {}, programs=Programs("/usr/bin:/bin")).resolve(name)
    assert [runner.credential(one) for one in (Profile.QUERY, Profile.FULL)] == [
        "gateway",
        "exposed",
    ]
    launch = runner.launch(replace(spec(name), profile=Profile.BUILD), tmp_path, tmp_path / "home")
    network, credential = runner.network(), runner.manifest.credential
    assert network.gate is not None
    assert credential is not None
    env = {**launch.env, **variables(network, credential)}
    assert env[credential.variable] == network.gate.token
    assert f"http://127.0.0.1:{RELAY_PORT}" in str((env, launch.argv))
    assert not any("sk-owner" in text for text in (*launch.argv, *env.values()))
    # Else it could reach the model with a key that a prompt gave to it.
    assert network.hosts == frozenset()
    assert network.gate.host in runner.manifest.network.hosts


def test_an_address_that_a_query_cannot_reach_is_refused(
    claude: Path, key: Path, tmp_path: Path
) -> None:
    config = RunnerConfig(program=str(claude), key_file=key, base_url="http://[")
    runner = Runners({"codex": config}, {}, programs=Programs("/usr/bin:/bin")).resolve("codex")
    with pytest.raises(RunnerUnavailable, match="is not a URL"):
        runner.launch(replace(spec("codex"), profile=Profile.QUERY), tmp_path, tmp_path / "home")


def test_the_version_is_asked_once(claude: Path, key: Path, tmp_path: Path) -> None:
    known = runners(claude, key_file=key)
    for _ in range(3):
        known.resolve("claude")
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_a_version_is_asked_anew_when_an_interpreter_is_replaced_in_place(
    claude: Path, key: Path, tmp_path: Path
) -> None:
    def install(version: str) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(f"#!/bin/sh\necho {version}\n")
        fresh.chmod(0o755)
        os.utime(fresh, ns=(1, 1))  # as package managers do
        fresh.replace(claude.parent / "node")

    install("2.1.330")
    claude.write_text("#!/usr/bin/env node\n")
    known = runners(claude, key_file=key)
    assert known.resolve("claude").version == "2.1.330"
    install("2.1.331")
    assert known.resolve("claude").version == "2.1.331"


def test_a_program_that_is_asked_its_version_can_write_to_a_home_that_goes_away(
    claude: Path, key: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    claude.write_text(f'#!/bin/sh\necho x >"$HOME/x" && echo "$HOME" >{home} && echo 2.1.330\n')
    assert runners(claude, key_file=key).resolve("claude").version == "2.1.330"
    assert not Path(home.read_text().strip()).exists()


def test_an_unknown_name_gets_the_nearest(claude: Path) -> None:
    with pytest.raises(RunnerUnavailable) as caught:
        runners(claude).resolve("command:ecko")
    assert "command:echo" in caught.value.hint


def test_a_missing_program_is_named(claude: Path) -> None:
    with pytest.raises(RunnerUnavailable, match="program `klaude`"):
        runners(claude, program="klaude").resolve("claude")


def test_a_relative_program_is_never_taken(claude: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(claude.parent)
    with pytest.raises(RunnerUnavailable, match=r"program `\./claude`"):
        runners(claude, program="./claude").resolve("claude")


def test_claude_without_a_key_says_where_to_put_one(claude: Path) -> None:
    with pytest.raises(RunnerUnavailable, match="no key") as caught:
        runners(claude).resolve("claude")
    assert "key_file" in caught.value.hint


def test_the_key_of_a_login_is_taken_where_the_configuration_names_none(
    claude: Path, key: Path, tmp_path: Path
) -> None:
    place = key_file(tmp_path, "claude")
    place.parent.mkdir(mode=0o700)
    place.touch(mode=0o600)
    place.write_text("sk-login\n")
    known = runners(claude)
    known.state = tmp_path
    launch = known.resolve("claude").launch(spec("claude"), tmp_path, tmp_path / "home")
    assert launch.env["ANTHROPIC_API_KEY"] == "sk-login"
    named = runners(claude, key_file=key)
    named.state = tmp_path
    assert named.resolve("claude").key_file == key
    place.unlink()  # as a logout does
    with pytest.raises(RunnerUnavailable, match="no key") as caught:
        known.resolve("claude")
    assert "cmesh runners login claude --key" in caught.value.hint


def test_a_key_that_others_can_read_is_refused(claude: Path, key: Path) -> None:
    key.chmod(0o644)
    with pytest.raises(RunnerUnavailable, match="0644") as caught:
        runners(claude, key_file=key).resolve("claude")
    assert "chmod" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
def test_a_key_file_without_a_key_is_refused(claude: Path, key: Path, content: bytes) -> None:
    key.write_bytes(content)
    with pytest.raises(RunnerUnavailable, match="key file"):
        runners(claude, key_file=key).resolve("claude")


def test_a_missing_key_file_is_named(claude: Path, tmp_path: Path) -> None:
    with pytest.raises(RunnerUnavailable, match="cannot be read"):
        runners(claude, key_file=tmp_path / "none").resolve("claude")


def test_the_list_says_why_a_runner_is_not_available(claude: Path) -> None:
    by_name = {status.name: status for status in runners(claude).status()}
    assert list(by_name) == ["claude", "codex", "gemini", "opencode", "command:echo"]
    assert by_name["command:echo"].available
    assert not by_name["claude"].available
    assert "no key" in by_name["claude"].reason


def test_the_list_says_what_runs_without_a_sandbox_only(claude: Path, key: Path) -> None:
    assert runners(claude, key_file=key).resolve("claude").untested() is None
    claude.write_text("#!/bin/sh\necho 3.0.0\n")
    status = {one.name: one for one in runners(claude, key_file=key).status()}["claude"]
    assert status.available
    assert status.untested is not None
    assert "`3.0.0`; only 2.1.330 to below 2.2" in status.untested.message
    claude.write_text("#!/bin/sh\n")
    silent = runners(claude, key_file=key).resolve("claude").untested()
    assert silent is not None
    assert "names no version" in silent.message


def test_the_login_shell_gives_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".profile").write_text("echo noise\nPATH=/opt/agents/bin:$PATH\n")
    assert Programs().search_path.startswith("/opt/agents/bin:")
    assert os.environ["HOME"] == str(tmp_path)
