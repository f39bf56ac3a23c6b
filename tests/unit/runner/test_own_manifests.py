"""Manifests of the owner: over the built-in ones, as authority, each on its own."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from cmesh.config import RunnerConfig
from cmesh.errors import ConfigError, RunnerUnavailable, TaskConflict, UnsafePermissions
from cmesh.model import Profile, TaskId
from cmesh.runner.manifest import load_manifests, parse_manifest
from cmesh.runner.own_manifests import check_name, file_of, load_all, stamp_of, write_own
from cmesh.runner.programs import Programs
from cmesh.runner.reader import OutputReader
from cmesh.runner.readers import note_parser, noted_reader
from cmesh.runner.registry import Runners
from cmesh.runner.sessions import Sessions
from cmesh.runner.template import manifest_text

BUILT_IN = ("claude", "codex", "gemini", "opencode")


def text_of(name: str, *, program: str = "/bin/cat", more: str = "") -> str:
    return f"""
schema_version = 1
name = "{name}"
program = "{program}"
parser = "output"
argv = []
reports_cost = false
{more}
[profiles]
query = []
full = []
"""


def put(config: Path, name: str, text: str, mode: int = 0o600) -> Path:
    path = file_of(config, name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return path


def runners(config: Path, configs: Mapping[str, RunnerConfig] | None = None) -> Runners:
    programs = Programs("/usr/bin:/bin")
    return Runners(configs or {}, {}, programs=programs, manifests=load_all(config))


def test_without_a_folder_the_built_in_ones_are_all(tmp_path: Path) -> None:
    found = load_all(tmp_path)
    assert (found.agents, dict(found.own), dict(found.broken)) == (BUILT_IN, {}, {})
    assert found.by_name == load_manifests()
    assert stamp_of(tmp_path) == ()


def test_an_own_manifest_is_one_more_runner(tmp_path: Path) -> None:
    path = put(tmp_path, "mine", text_of("mine"))
    put(tmp_path, ".mine", "an editor's left-over")
    (path.parent / "mine.toml~").write_text("another")
    found = load_all(tmp_path)
    assert found.agents == (*BUILT_IN[:3], "mine", "opencode")
    assert (dict(found.own), dict(found.broken)) == ({"mine": path}, {})
    runner = runners(tmp_path).resolve("mine")
    assert (runner.program, runner.own) == ("/bin/cat", True)
    assert runner.credential(Profile.QUERY) == "none"


def test_a_file_of_a_built_in_name_takes_its_place(tmp_path: Path) -> None:
    put(tmp_path, "codex", text_of("codex"))
    found = load_all(tmp_path)
    assert found.agents == BUILT_IN
    assert found.by_name["codex"].program == "/bin/cat"
    assert load_manifests()["codex"].program == "codex"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("mine", text_of("other"), "`name`: expected `mine`"),
        ("mine", text_of("mine", program=""), "`program`: expected a program"),
        ("mine", text_of("mine", more='parser = "magic"'), "Cannot overwrite a value"),
        (
            "mine",
            text_of("mine", more="shell = true"),
            "`shell`: unknown key; known here: `schema_",
        ),
        ("mine", text_of("mine", more='cwd = "../out"'), "`cwd`: expected a path below the home"),
        ("mine", text_of("mine", more='[env]\n"A=B" = ""'), '`env."A=B"`: expected letters'),
        ("mine", text_of("mine", more='[files]\n"../x" = ""'), '`files."../x"`: expected a path'),
        ("mine", f"argv = {'[' * 2000}", "nested too deeply"),
        ("mine", f"schema_version = {'1' * 5000}", "integer string conversion"),
        ("mine", text_of("mine", more=f"[env_json.A]\nx = {'[' * 40}{']' * 40}"), "deeper than 32"),
        ("claude", text_of("claude", more="x = 1"), "`x`: unknown key"),
        ("clauds", text_of("clauds"), "too like the built-in `claude`"),
        ("Mine", text_of("Mine"), "no runner's name"),
        ("command", text_of("command"), "cmesh's own"),
    ],
)
def test_a_bad_file_is_named_with_its_key_and_takes_away_its_own_runner_alone(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = put(tmp_path, name, text)
    put(tmp_path, "good", text_of("good"))
    found = load_all(tmp_path)
    assert list(found.broken) == [name]
    error = found.broken[name]
    assert said in error.message
    assert str(path) in error.message
    # A file that is to replace a built-in one and cannot does not bring that one back.
    assert set(found.by_name) == {*load_manifests(), "good"} - ({name} - {"command"})
    assert runners(tmp_path).resolve("good").own
    if name in runners(tmp_path).names():
        with pytest.raises(RunnerUnavailable) as caught:
            runners(tmp_path).resolve(name)
        assert said in caught.value.message
        assert caught.value.hint == error.hint


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'parser = "output"',
            'parser = "outptu"',
            "line 5: `parser`: expected one of",
        ),
        ('parser = "output"', 'parser = "outptu"', '"output"; did you mean `output`?'),
        ("argv = ", "argv = 1 #", "line 6: `argv`: expected a list"),
        ("argv = ", "argv = [1] #", "line 6: `argv[0]`: expected a string"),
        ("reports_cost", "report_cost", "`report_cost`: unknown key; did you mean `reports_cost`?"),
        ("schema_version = 1", "schema_version = 2", "line 2: `schema_version`: expected 1"),
        ("schema_version = 1", "", "`schema_version`: expected this key"),
        (
            "argv = ",
            'argv = ["{hom}"] #',
            "expected a known placeholder, not `{hom}`; did you mean",
        ),
        ("[profiles]", "[profiles]\nqery = []", "`profiles.qery`: expected one of"),
        (
            "[profiles]",
            '[profiles]\nenv = "x"',
            "; `env` of the whole file stands above the first [table]",
        ),
        (
            "[profiles]",
            '[versions]\nfirst = "x"\nbelow = "2.0"\n[profiles]',
            '`versions.first`: expected a version such as "1.4"',
        ),
        (
            "[profiles]",
            '[network]\nhosts = ["A b"]\n[profiles]',
            "`network.hosts[0]`: expected a host",
        ),
        ("argv = ", "argv = [", ": not TOML: "),
    ],
)
def test_a_mistake_is_told_by_line_and_key_and_with_what_was_meant(
    old: str, new: str, said: str
) -> None:
    text = text_of("mine")
    assert old in text
    with pytest.raises(ConfigError) as caught:
        parse_manifest(text.replace(old, new, 1), source="f")
    assert said in caught.value.message
    words = caught.value.message.lower()
    assert not any(word in words for word in ("input", "pattern", "field", "tuple", "value error"))


def test_a_missing_program_is_looked_for_where_it_is_named(tmp_path: Path) -> None:
    path = put(tmp_path, "mine", text_of("mine", program="no-such-program"))
    with pytest.raises(RunnerUnavailable) as caught:
        runners(tmp_path).resolve("mine")
    assert caught.value.hint == f"install it, or correct `program` in {path}"
    with pytest.raises(RunnerUnavailable) as caught:
        runners(tmp_path, {"mine": RunnerConfig(program="/no/such")}).resolve("mine")
    assert caught.value.hint == "install it, or set `program` of [runners.mine] in config.toml"


def test_a_cost_that_nobody_tells_is_no_cost(tmp_path: Path) -> None:
    text = text_of("mine").replace("reports_cost = false", "reports_cost = true")
    put(tmp_path, "mine", text)
    assert "`reports_cost`: expected false" in load_all(tmp_path).broken["mine"].message
    text = text.replace('"output"', '"opencode-json"')
    put(tmp_path, "mine", text + '[options]\ncost_usd = ["--most", "{cost_usd}"]\n')
    assert load_all(tmp_path).by_name["mine"].reports_cost


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = put(tmp_path, "mine", text_of("mine"), mode)
    before = stamp_of(tmp_path)
    assert isinstance(load_all(tmp_path).broken["mine"], UnsafePermissions)
    path.chmod(0o644)
    assert stamp_of(tmp_path) != before  # a new mode alone is news
    assert not load_all(tmp_path).broken


def test_a_folder_that_others_may_write_takes_away_all_it_holds(tmp_path: Path) -> None:
    path = put(tmp_path, "codex", text_of("codex"))
    path.parent.chmod(0o770)
    found = load_all(tmp_path)
    assert isinstance(found.broken["codex"], UnsafePermissions)
    assert "codex" not in found.by_name


@pytest.mark.parametrize("kind", ["file", "dangling"])
def test_a_folder_that_cannot_be_read_takes_away_every_agent(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "runners"
    folder.symlink_to("nowhere") if kind == "dangling" else folder.write_text("")
    found = load_all(tmp_path)
    assert set(found.by_name) == {"command"}
    assert set(found.broken) == set(BUILT_IN)
    assert stamp_of(tmp_path)
    folder.unlink()
    assert not load_all(tmp_path).broken


def test_a_link_and_another_users_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(text_of("mine"))
    elsewhere.chmod(0o600)
    put(tmp_path, "other", text_of("other"))
    file_of(tmp_path, "mine").symlink_to(elsewhere)
    assert "is not a plain file" in load_all(tmp_path).broken["mine"].message
    here = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: here + 1)
    assert "belongs to uid" in load_all(tmp_path).broken["other"].message


def test_who_was_never_tried_with_a_hostile_directory_runs_in_full_only(tmp_path: Path) -> None:
    put(tmp_path, "mine", text_of("mine"))
    untested = runners(tmp_path).resolve("mine").untested()
    assert untested is not None
    assert "nobody tried it with a hostile directory" in untested.message
    assert "`full`" in untested.hint
    program = tmp_path / "agent"
    program.write_text("#!/bin/sh\necho agent 1.4.2\n")
    program.chmod(0o755)
    more = 'version_argv = ["--version"]\n[versions]\nfirst = "1.4.0"\nbelow = "1.5"'
    put(tmp_path, "mine", text_of("mine", program=str(program), more=more))
    assert runners(tmp_path).resolve("mine").untested() is None  # by its owner's word


def test_a_program_without_a_way_to_ask_its_version_is_not_started_for_it(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    put(tmp_path, "mine", text_of("mine", program=str(program)))
    assert runners(tmp_path).resolve("mine").version == ""
    assert not (tmp_path / "started").exists()


def test_a_new_manifest_is_private_and_never_written_over(tmp_path: Path) -> None:
    text = manifest_text("mine", "/bin/cat")
    path = write_own(tmp_path / "config", "mine", text, force=False)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    path.write_text("my own work")
    with pytest.raises(TaskConflict, match="already"):
        write_own(tmp_path / "config", "mine", text, force=False)
    assert path.read_text() == "my own work"
    write_own(tmp_path / "config", "mine", text, force=True)
    assert path.read_text("utf-8") == text
    assert list(path.parent.iterdir()) == [path]
    assert load_all(tmp_path / "config").own == {"mine": path}


@pytest.mark.parametrize("name", ["command", "clauds", "x" * 33, "-x", "x y", ""])
def test_nobody_may_have_such_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name)
    with pytest.raises(ConfigError):
        write_own(tmp_path, name, text_of(name), force=False)
    assert not list(tmp_path.iterdir())


def test_an_output_is_read_as_its_manifest_said_at_the_start(tmp_path: Path) -> None:
    assert noted_reader(tmp_path) is None
    note_parser(tmp_path, "output")
    assert isinstance(noted_reader(tmp_path), OutputReader)
    (tmp_path / "parser").write_bytes(b"\xff")
    assert noted_reader(tmp_path) is None
    (tmp_path / "parser").write_text("of a later version")
    assert noted_reader(tmp_path) is None


def test_two_agents_of_one_program_have_a_version_each(tmp_path: Path) -> None:
    """A range of versions is what a sandbox rests on: another agent's answer proves nothing."""
    for name, said in (("one", "1.0.0"), ("two", "9.0.0")):
        ask = f'version_argv = ["{said}"]\n[versions]\nfirst = "1.0"\nbelow = "2.0"'
        put(tmp_path, name, text_of(name, program="/bin/echo", more=ask))
    found = runners(tmp_path)
    assert [found.resolve(name).version for name in ("one", "two")] == ["1.0.0", "9.0.0"]
    assert found.resolve("one").untested() is None
    assert found.resolve("two").untested() is not None


@pytest.mark.parametrize(
    "more", ['version_argv = ["a\\u0000b"]', 'version_argv = ["a"]\n[env]\nX = "a\\u0000b"']
)
def test_what_no_program_can_be_asked_by_takes_no_other_runner_away(
    tmp_path: Path, more: str
) -> None:
    put(tmp_path, "mine", text_of("mine", program="/bin/echo", more=more))
    put(tmp_path, "other", text_of("other"))
    found = {status.name: status for status in runners(tmp_path).status()}
    assert found["mine"].version == ""
    assert found["other"].available


def session(home: str, file: str) -> str:
    table = f'[session]\nnew = []\nresume = []\nhome = "{home}"\nfile = "{file}"\n'
    return f"{table}adds_up_cost = false"


@pytest.mark.parametrize(
    "file", ["/x/{session_id}", "", "a**", "../*", "x/../../y", "a//b", "{home}/x", "a\\u0000b"]
)
def test_a_conversation_is_looked_for_below_its_own_folder(tmp_path: Path, file: str) -> None:
    """Some of these raised at the end of each task, the others found files of anybody."""
    put(tmp_path, "mine", text_of("mine", more=session("sessions", file)))
    assert "`session.file`" in load_all(tmp_path).broken["mine"].message


@pytest.mark.parametrize("file", ["{session_id}.json", "*/{session_id}.jsonl", "**/*.x", "s..x"])
def test_a_pattern_of_a_conversation_is_one_that_can_be_looked_for(
    tmp_path: Path, file: str
) -> None:
    put(tmp_path, "mine", text_of("mine", more=session("sessions", file)))
    kept = runners(tmp_path).session("mine")
    assert kept is not None
    thread = TaskId("8d4b7c0e-0000-4000-8000-000000000001")
    assert not Sessions(tmp_path / "kept").kept(thread, kept)


@pytest.mark.parametrize(
    "more",
    [
        '[files]\n".mine/settings.json" = "{}"',
        '[files]\n".mine" = "{}"',
        '[files]\n".mine/deep/settings.json" = "{}"',
    ],
)
def test_nothing_is_written_into_a_conversation_by_the_daemon(tmp_path: Path, more: str) -> None:
    put(tmp_path, "mine", text_of("mine", more=f"{session('.mine', 'x')}\n{more}"))
    put(tmp_path, "start", f'cwd = ".mine/work"\n{text_of("start", more=session(".mine", "x"))}')
    broken = load_all(tmp_path).broken
    assert [sorted(broken), *("`session.home`: expected" in broken[name].message for name in broken)] == [
        ["mine", "start"], True, True,
    ]  # fmt: skip


def test_paths_beside_a_conversation_are_taken(tmp_path: Path) -> None:
    more = f'{session(".mine/sessions", "x")}\n[files]\n".mine/sessions.json" = ""'
    put(tmp_path, "mine", text_of("mine", more=more))
    assert load_all(tmp_path).broken == {}
