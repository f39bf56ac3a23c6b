"""Registration in the settings of agents: planned, applied, taken back; bad settings left alone."""

import json
import os
import stat
import time
import tomllib
from pathlib import Path

import pytest

from cmesh.errors import CmeshError, ConfigError, EntryTaken, SettingsChanged, StoreBusy
from cmesh.locks import FileLock
from cmesh.platform.system import System
from cmesh.setup import agents, files, registered
from cmesh.setup.agents import apply, plan_add, plan_remove, survey, undo
from cmesh.setup.clients import CLIENTS, Client, client_named
from cmesh.setup.surroundings import Surroundings
from tests.unit.setup.machine import machine

BEFORE = {
    "json": '// mine\n{\n  "theme": "dark", // so\n  "mcpServers": {\n    "x": {"command": "y"}\n  }\n}\n',
    "toml": '# mine\nmodel = "o"\n\n[mcp_servers.x]\ncommand = "y"\n',
}


def client(name: str) -> Client:
    found = client_named(name)
    assert found is not None
    return found


def settings(here: Surroundings, one: Client) -> Path:
    return one.files(here)[0]


def written(here: Surroundings, one: Client, data: bytes | str) -> Path:
    path = settings(here, one)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def tree(home: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(home)): path.read_bytes() if path.is_file() else b""
        for path in home.rglob("*")
        if "share/cmesh" not in str(path)
    }


each = pytest.mark.parametrize("one", CLIENTS, ids=lambda one: one.name)


@each
def test_adding_and_removing_leaves_every_byte_as_it_was(one: Client, tmp_path: Path) -> None:
    here = machine(tmp_path)
    text = BEFORE[one.form].replace('"mcpServers"', f'"{one.table}"')
    path = written(here, one, text)
    path.chmod(0o640)

    done = plan_add(here, one)
    assert path.read_text() == text
    apply(here, done)

    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert _standing(here, one) == "current"
    assert plan_add(here, one).action == "none"
    apply(here, plan_remove(here, one))
    assert path.read_text() == text
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not list((here.data / "backups").glob("*"))


@each
def test_where_there_are_no_settings_none_are_left(one: Client, tmp_path: Path) -> None:
    here = machine(tmp_path)
    (tmp_path / ".local/share/cmesh").mkdir(parents=True, mode=0o700)
    before = tree(tmp_path)
    apply(here, plan_add(here, one))
    path = settings(here, one)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loads = tomllib.loads if one.form == "toml" else json.loads
    assert loads(path.read_text())[one.table]["cmesh"] == one.entry(here)
    apply(here, plan_remove(here, one))
    assert tree(tmp_path) == before


@each
def test_an_entry_of_an_older_cmesh_is_brought_up_to_date(one: Client, tmp_path: Path) -> None:
    old, here = machine(tmp_path, command=("/old/cmesh", "mcp")), machine(tmp_path)
    text = BEFORE[one.form].replace('"mcpServers"', f'"{one.table}"')
    path = written(here, one, text)
    apply(old, plan_add(old, one))
    assert _standing(here, one) == "outdated"

    change = plan_add(here, one)
    assert change.action == "update"
    apply(here, change)

    assert "/old/" not in path.read_text()
    assert _standing(here, one) == "current"
    apply(here, plan_remove(here, one))
    assert path.read_text() == text


@each
def test_what_the_agent_wrote_since_stays_when_the_entry_goes(one: Client, tmp_path: Path) -> None:
    here = machine(tmp_path)
    text = BEFORE[one.form].replace('"mcpServers"', f'"{one.table}"')
    path = written(here, one, text)
    apply(here, plan_add(here, one))
    path.write_text(path.read_text().replace("mine", "mine, still"))
    apply(here, plan_remove(here, one))
    assert path.read_text() == text.replace("mine", "mine, still")


def test_somebody_elses_entry_under_the_name_stays(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("claude")
    path = written(here, one, '{"mcpServers": {"cmesh": {"command": "npx", "args": ["other"]}}}')
    before = path.read_bytes()
    with pytest.raises(EntryTaken, match="npx other"):
        plan_add(here, one)
    assert plan_remove(here, one).action == "none"
    assert path.read_bytes() == before
    seen = next(seen for seen in survey(here) if seen.client is one)
    assert (seen.standing, seen.detail) == ("foreign", "npx other")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("claude", b'{"mcpServers": }', "line 1: a value is expected"),
        ("claude", b'{"a": 1,\n "a": 2}', "line 2: `a` stands twice in one object"),
        ("claude", b"\xff\xfe{\x00}\x00", "is not UTF-8"),
        ("claude", b'["a list"]', "holds no JSON object"),
        ("claude", b'{"mcpServers": []}', "`mcpServers` is no table of servers"),
        ("codex", b"a = 1\na = 2\n", "line 2: not TOML: Cannot overwrite a value"),
        ("codex", b"mcp_servers = { o = { command = 'x' } }\n", "cannot be changed safely"),
        ("gemini", b"not json", "line 1: a value is expected"),
    ],
)
def test_settings_in_no_known_form_are_left_and_said(
    name: str, data: bytes, says: str, tmp_path: Path
) -> None:
    here, one = machine(tmp_path), client(name)
    path = written(here, one, data)
    with pytest.raises(ConfigError) as raised:
        plan_add(here, one)
    assert says in raised.value.message
    assert str(path) in raised.value.message
    assert raised.value.hint
    assert path.read_bytes() == data


def test_an_empty_file_gets_the_entry_and_is_empty_again(tmp_path: Path) -> None:
    here = machine(tmp_path)
    for name in ("claude", "codex"):
        path = written(here, client(name), b"")
        apply(here, plan_add(here, client(name)))
        assert path.read_bytes()
        apply(here, plan_remove(here, client(name)))
        assert path.read_bytes() == b""


def test_a_byte_order_mark_and_line_ends_are_kept(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("vscode")
    path = written(here, one, b'\xef\xbb\xbf{\r\n\t"servers": {}\r\n}\r\n')
    apply(here, plan_add(here, one))
    data = path.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf{\r\n\t")
    assert b"\n" not in data.replace(b"\r\n", b"")


def test_a_link_of_a_manager_of_dotfiles_stays_a_link(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("codex")
    kept = tmp_path / "dotfiles" / "codex.toml"
    kept.parent.mkdir()
    kept.write_text(BEFORE["toml"])
    path = settings(here, one)
    path.parent.mkdir(parents=True)
    path.symlink_to("../dotfiles/codex.toml")
    apply(here, plan_add(here, one))
    assert path.is_symlink()
    assert "[mcp_servers.cmesh]" in kept.read_text()
    apply(here, plan_remove(here, one))
    assert path.is_symlink()
    assert kept.read_text() == BEFORE["toml"]


def test_a_file_with_a_second_name_is_refused(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("codex")
    path = written(here, one, BEFORE["toml"])
    os.link(path, tmp_path / "other")
    with pytest.raises(ConfigError, match="has 2 hard links"):
        plan_add(here, one)


def test_a_pipe_in_its_place_is_refused_at_once(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("claude")
    os.mkfifo(settings(here, one))
    with pytest.raises(ConfigError, match="is no plain file"):
        plan_add(here, one)


def test_what_another_program_wrote_meanwhile_is_not_lost(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("claude")
    path = written(here, one, '{\n  "mcpServers": {\n    "x": {}\n  }\n}\n')
    change = plan_add(here, one)
    path.write_text(path.read_text().replace("{\n", '{\n  "numStartups": 7,\n', 1))
    apply(here, change)
    found = json.loads(path.read_text())
    assert found["numStartups"] == 7
    assert set(found["mcpServers"]) == {"x", "cmesh"}


def test_a_plan_is_not_done_on_settings_where_it_means_something_else(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("claude")
    path = written(here, one, "{}\n")
    change = plan_add(here, one)
    path.write_text('{"mcpServers": {"cmesh": {"command": "/old/cmesh", "args": ["mcp"]}}}')
    before = path.read_bytes()
    with pytest.raises(SettingsChanged):
        apply(here, change)
    assert path.read_bytes() == before
    assert registered.registered(here.data) == ()


def test_settings_that_change_again_and_again_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, one = machine(tmp_path), client("codex")
    path = written(here, one, BEFORE["toml"])
    counted: list[int] = []
    real = files.require_unchanged

    def meddled(before: files.Content) -> None:
        counted.append(1)
        path.write_text(f"# {len(counted)}\n{BEFORE['toml']}")
        real(before)

    monkeypatch.setattr(files, "require_unchanged", meddled)
    with pytest.raises(SettingsChanged):
        apply(here, plan_add(here, one))
    assert len(counted) == agents.TRIES
    assert path.read_text() == f"# {agents.TRIES}\n{BEFORE['toml']}"
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_settings_that_appear_and_cannot_be_read_are_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.json"
    before = files.read(path)
    path.write_text("{}")

    def unreadable(real: Path) -> bytes | None:
        raise PermissionError(13, "Permission denied", str(real))

    monkeypatch.setattr(files, "_bytes", unreadable)
    with pytest.raises(SettingsChanged):
        files.replace(before, b"ours")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [(path.name, "{}")]


def test_undo_brings_the_bytes_back_unless_somebody_wrote_since(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("gemini")
    path = written(here, one, BEFORE["json"])
    done = plan_add(here, one)
    apply(here, done)
    undo(here, done)
    assert path.read_text() == BEFORE["json"]
    assert registered.registered(here.data) == ()

    apply(here, done)
    path.write_text(path.read_text() + "// more\n")
    before = path.read_bytes()
    with pytest.raises(SettingsChanged) as raised:
        undo(here, done)
    assert raised.value.hint == "cmesh mcp remove gemini"
    assert path.read_bytes() == before


def test_the_lock_of_claude_code_is_waited_for_and_a_stale_one_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, one = machine(tmp_path), client("claude")
    path = written(here, one, "{}\n")
    lock = path.with_name(".claude.json.lock")
    lock.mkdir()
    monkeypatch.setattr(files, "LOCK_LIMIT_S", 0.3)
    with pytest.raises(SettingsChanged, match="locked"):
        apply(here, plan_add(here, one))
    assert path.read_text() == "{}\n"
    assert registered.registered(here.data) == ()
    old = time.time() - files.STALE_S - 5
    os.utime(lock, (old, old))
    apply(here, plan_add(here, one))
    assert _standing(here, one) == "current"
    assert not lock.exists()


def test_two_at_once_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, one = machine(tmp_path), client("codex")
    here.data.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(registered, "LOCK_LIMIT_S", 0.1)
    other = FileLock(here.data / "installed.lock")
    other.acquire()
    with pytest.raises(StoreBusy):
        apply(here, plan_add(here, one))
    other.release()
    apply(here, plan_add(here, one))


def test_a_data_directory_that_others_may_read_is_no_obstacle(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("codex")
    here.data.mkdir(parents=True)
    here.data.chmod(0o775)  # as the installer makes it, with the umask of some systems
    apply(here, plan_add(here, one))
    assert _standing(here, one) == "current"


def test_backups_are_for_the_owners_eyes_alone(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("claude")
    written(here, one, '{"apiKey": "secret"}')
    done = apply(here, plan_add(here, one))
    assert done is not None
    backup = Path(done.backup)
    assert backup.read_text() == '{"apiKey": "secret"}'
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert stat.S_IMODE(backup.parent.stat().st_mode) == 0o700


def test_a_difference_shows_what_changes_and_nothing_around(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("cursor")
    secret = '{"mcpServers":{"x":{"env":{"KEY":"' + "s" * 500 + '"}}},"more":"' + "m" * 900 + '"}'
    written(here, one, secret)
    diff = plan_add(here, one).diff
    assert '"cmesh"' in diff
    assert max(map(len, diff.splitlines())) < 320
    written(here, one, json.dumps({"mcpServers": {"x": {"env": {"KEY": "hush"}}}}, indent=2))
    assert "hush" not in plan_add(here, one).diff


def test_settings_of_another_place_are_found_where_a_variable_says(tmp_path: Path) -> None:
    here = machine(
        tmp_path,
        variables={
            "CLAUDE_CONFIG_DIR": "/c",
            "CODEX_HOME": "/x",
            "GEMINI_CLI_HOME": "/g",
            "XDG_CONFIG_HOME": "/k",
        },
    )
    found = {seen.client.name: str(seen.path) for seen in survey(here)}
    assert found["claude"] == "/c/.claude.json"
    assert found["codex"] == "/x/config.toml"
    assert found["gemini"] == "/g/.gemini/settings.json"
    assert found["opencode"] == "/k/opencode/opencode.jsonc"
    assert found["vscode"] == "/k/Code/User/mcp.json"
    assert found["zed"] == "/k/zed/settings.json"


@pytest.mark.parametrize(
    ("platform", "path"),
    [
        ("macos", "Library/Application Support/Claude/claude_desktop_config.json"),
        ("windows", "AppData/Roaming/Claude/claude_desktop_config.json"),
        ("linux", ".config/Claude/claude_desktop_config.json"),
    ],
)
def test_applications_have_their_place_on_each_platform(
    platform: System, path: str, tmp_path: Path
) -> None:
    here = machine(tmp_path, platform=platform)
    assert settings(here, client("claude-desktop")) == tmp_path / path


def test_the_file_of_opencode_that_its_owner_has_is_the_one(tmp_path: Path) -> None:
    here, one = machine(tmp_path), client("opencode")
    path = tmp_path / ".config/opencode/opencode.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    apply(here, plan_add(here, one))
    assert "cmesh" in path.read_text()
    assert [one.name for one in path.parent.iterdir()] == ["opencode.json"]


def test_an_agent_is_here_by_a_sign_of_it(tmp_path: Path) -> None:
    here = machine(tmp_path)
    assert not any(seen.here for seen in survey(here))
    (tmp_path / ".cursor").mkdir()
    assert [seen.client.name for seen in survey(here) if seen.here] == ["cursor"]


def _standing(here: Surroundings, one: Client) -> str:
    return next(seen.standing for seen in survey(here) if seen.client is one)


def test_a_directory_that_cannot_be_written_is_said_and_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, one = machine(tmp_path), client("codex")
    path = written(here, one, BEFORE["toml"])

    def refused(*_args: object, **_named: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(files.tempfile, "mkstemp", refused)
    with pytest.raises(CmeshError, match="Read-only file system; it is as it was"):
        apply(here, plan_add(here, one))
    monkeypatch.undo()
    assert path.read_text() == BEFORE["toml"]
    assert registered.registered(here.data) == ()
