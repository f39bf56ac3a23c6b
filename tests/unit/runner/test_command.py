"""From a task to an argv: pure, and complete."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cmesh.errors import SandboxUnavailable, UsageError
from cmesh.model import Limits, Profile, TaskId, TaskSpec
from cmesh.runner.command import Host, build_launch
from cmesh.runner.manifest import Manifest, load_manifests
from cmesh.runner.sessions import Sessions
from cmesh.runner.shim_repair import SESSION_MARK

TASK = TaskId("0198c0de-1111-7aaa-8bbb-0123456789ab")
SPEC = TaskSpec(
    task_id=TASK,
    runner="claude",
    profile=Profile.FULL,
    directory="/srv/myapp",
    prompt="why did the deploy fail?",
    limits=Limits(runtime_s=60, output_bytes=1000),
    not_after=datetime(2030, 1, 1, tzinfo=UTC),
)
HOST = Host(
    program="/opt/claude",
    search_path="/usr/bin",
    env={"ANTHROPIC_API_KEY": "key-1"},
    home="/tasks/t/home",
    tmp="/tasks/t/tmp",
)
CLAUDE = load_manifests()["claude"]
COMMAND = load_manifests()["command"]
GEMINI = load_manifests()["gemini"]
CODEX = load_manifests()["codex"]


def test_claude_gets_its_flags_and_the_prompt_on_stdin_alone() -> None:
    launch = build_launch(SPEC, CLAUDE, HOST)
    assert launch.argv[0] == "/opt/claude"
    assert launch.argv[launch.argv.index("--session-id") + 1] == TASK
    assert "--dangerously-skip-permissions" in launch.argv
    assert launch.stdin == b"why did the deploy fail?"
    assert not any("deploy" in text for text in launch.argv)
    assert (launch.cwd, launch.runtime_s, launch.output_bytes) == ("/srv/myapp", 60, 1000)


def test_a_later_turn_goes_on_with_the_conversation_of_the_first(tmp_path: Path) -> None:
    thread = TaskId("0198c0de-0000-7aaa-8bbb-0123456789ab")
    assert CLAUDE.session is not None
    host = replace(HOST, session=Sessions(tmp_path).place(thread, CLAUDE.session))
    launch = build_launch(replace(SPEC, follows=thread), CLAUDE, host)
    assert launch.argv[launch.argv.index("--resume") + 1] == thread
    assert "--session-id" not in launch.argv
    assert launch.session == host.session
    assert launch.session_link == "/tasks/t/home/.claude/projects"
    assert build_launch(SPEC, COMMAND, host).session_link == ""


def test_codex_goes_on_with_the_conversation_that_it_named_itself(tmp_path: Path) -> None:
    thread, said = TaskId("0198c0de-0000-7aaa-8bbb-0123456789ab"), "01a2278f-a47e-7fe3"
    assert CODEX.session is not None
    sessions = Sessions(tmp_path)
    (tmp_path / thread).mkdir()
    host = replace(HOST, session=sessions.place(thread, CODEX.session))
    assert "resume" not in build_launch(SPEC, CODEX, host).argv
    sessions.note(thread, CODEX.session, said)
    host = replace(HOST, session=sessions.place(thread, CODEX.session))
    argv = build_launch(replace(SPEC, follows=thread), CODEX, host).argv
    at = argv.index("resume")
    assert argv[at : at + 3] == ("resume", said, "-")
    assert argv.index('sandbox_mode="danger-full-access"') < at


def test_gemini_starts_in_an_empty_folder_of_its_home_and_is_told_the_directory() -> None:
    launch = build_launch(SPEC, GEMINI, HOST)
    assert (launch.cwd, launch.starts_in) == ("/srv/myapp", "/tasks/t/home/work")
    assert launch.env["CMESH_DIRECTORY"] == "/srv/myapp"
    assert "/tasks/t/home/.gemini/settings.json" in launch.files
    assert not any("/srv/myapp" in text for text in (*launch.argv, *launch.files.values()))
    other = build_launch(SPEC, CLAUDE, HOST)
    assert (other.starts_in, other.files) == ("", {})


def test_the_key_is_in_the_environment_and_never_in_the_argv() -> None:
    launch = build_launch(SPEC, CLAUDE, HOST)
    assert launch.env["ANTHROPIC_API_KEY"] == "key-1"
    assert not any("key-1" in text for text in launch.argv)


def test_the_environment_is_the_task_s_own() -> None:
    launch = build_launch(SPEC, CLAUDE, HOST)
    assert launch.env["CLAUDE_CONFIG_DIR"] == "/tasks/t/home/.claude"
    assert launch.env["HOME"] == "/tasks/t/home"
    assert launch.env["TMPDIR"] == "/tasks/t/tmp"
    assert launch.env["PATH"] == "/usr/bin"


def test_model_and_budget_are_arguments_only_when_set() -> None:
    plain = build_launch(SPEC, CLAUDE, HOST).argv
    assert "--model" not in plain
    assert "--max-budget-usd" not in plain
    spec = replace(SPEC, limits=Limits(cost_usd=2.5))
    argv = build_launch(spec, CLAUDE, replace(HOST, model="m-1")).argv
    assert argv[argv.index("--model") + 1] == "m-1"
    assert argv[argv.index("--max-budget-usd") + 1] == "2.5"


@pytest.mark.parametrize("profile", [Profile.EDIT, Profile.BUILD])
def test_a_profile_that_no_manifest_has_is_refused(profile: Profile) -> None:
    narrow = CLAUDE.model_copy(update={"profiles": {Profile.QUERY: ()}})
    with pytest.raises(SandboxUnavailable, match=profile.value):
        build_launch(replace(SPEC, profile=profile), narrow, HOST)


def test_a_command_s_own_braces_and_the_task_s_are_left_alone() -> None:
    host = replace(HOST, program="/usr/bin/awk", arguments=("{print $1} {home}",), env={})
    spec = replace(SPEC, directory="/srv/{home}")
    launch = build_launch(spec, COMMAND, host)
    assert launch.argv == ("/usr/bin/awk", "{print $1} {home}")
    assert launch.env["CMESH_DIRECTORY"] == "/srv/{home}"


def test_a_nul_in_the_directory_is_refused() -> None:
    with pytest.raises(UsageError, match="NUL"):
        build_launch(replace(SPEC, directory="/srv\0"), COMMAND, HOST)


def test_a_lone_surrogate_in_the_prompt_does_not_stop_the_task() -> None:
    assert build_launch(replace(SPEC, prompt="a\ud800b"), COMMAND, HOST).stdin == b"a?b"


def with_json(value: object) -> Manifest:
    return COMMAND.model_copy(update={"env_json": {"CONFIG": value}})


def json_of(value: object, host: Host) -> object:
    return json.loads(build_launch(SPEC, with_json(value), host).env["CONFIG"])


def test_what_a_value_holds_stays_inside_its_text_of_a_json_variable() -> None:
    host = replace(HOST, base_url='http://x/","a":"{model}\\', model='m"1')
    value: dict[str, object] = {
        "url": "{base_url}",
        "models": {"{model}": {}},
        "n": 1,
        "on": False,
        "l": ["{model}"],
    }
    assert json_of(value, host) == {
        "url": host.base_url,
        "models": {'m"1': {}},
        "n": 1,
        "on": False,
        "l": ['m"1'],
    }


def test_of_a_json_variable_that_is_left_out_which_has_no_value() -> None:
    value: dict[str, object] = {
        "url": "{base_url}",
        "by": {"{model}": {}},
        "l": ["{model}", ""],
        "m": "x/{model}",
    }
    assert json_of(value, HOST) == {"by": {}, "l": [""]}


def test_the_owner_s_variables_win_over_the_manifest_s() -> None:
    host = replace(HOST, env={"CONFIG": "mine"})
    assert build_launch(SPEC, with_json({}), host).env["CONFIG"] == "mine"


SCHEMA = '{"description":"{home}","type":"object"}'


def test_each_agent_gets_the_schema_of_its_answer_in_its_way() -> None:
    spec = replace(SPEC, answer_schema=SCHEMA)
    claude = build_launch(spec, CLAUDE, HOST)
    assert claude.argv[claude.argv.index("--json-schema") + 1] == SCHEMA
    codex = build_launch(spec, CODEX, HOST)
    file = codex.argv[codex.argv.index("--output-schema") + 1]
    assert codex.files[file] == SCHEMA
    assert file.startswith("/tasks/t/home/")
    assert claude.stdin == codex.stdin == SPEC.prompt.encode()
    gemini = build_launch(spec, GEMINI, HOST)
    assert SCHEMA.encode() in gemini.stdin
    assert gemini.stdin.endswith(SPEC.prompt.encode())
    assert build_launch(spec, COMMAND, HOST).stdin == SPEC.prompt.encode()


def test_without_a_schema_nothing_is_said_of_one() -> None:
    for manifest in (CLAUDE, CODEX, GEMINI):
        launch = build_launch(SPEC, manifest, HOST)
        assert "schema" not in " ".join(launch.argv)
        assert not any("answer" in name for name in launch.files)


def test_a_repair_turn_starts_as_a_later_turn_of_the_same_conversation_does(tmp_path: Path) -> None:
    spec = replace(SPEC, answer_schema=SCHEMA)
    assert CLAUDE.session is not None
    assert CODEX.session is not None
    host = replace(HOST, session=Sessions(tmp_path).place(TASK, CLAUDE.session))
    again = build_launch(spec, CLAUDE, host).again
    later = build_launch(replace(spec, follows=TASK), CLAUDE, host)
    assert again == later.argv
    # Only codex's first turn will say which conversation it is.
    host = replace(HOST, session=Sessions(tmp_path).place(TASK, CODEX.session))
    again = build_launch(spec, CODEX, host).again
    assert again[again.index("resume") + 1] == SESSION_MARK
    # Who was asked for no answer, or keeps no conversation, has none.
    assert build_launch(SPEC, CLAUDE, host).again == ()
    assert build_launch(spec, CLAUDE, HOST).again == ()
    assert build_launch(spec, COMMAND, HOST).again == ()
