"""What cmesh has on a machine, and how each part of it goes: nothing beside it is touched."""

import stat
import tarfile
from pathlib import Path

import pytest

from cmesh.errors import ConfigError, UsageError
from cmesh.setup.files import digest
from cmesh.setup.installed import Entry, record_file, write_installed
from cmesh.setup.shells import BEGIN, END, Block, added
from cmesh.setup.uninstall import Item, Name, Places, back_up, inventory, take_away, tidy


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(
        config=tmp_path / "config", state=tmp_path / "state", data=tmp_path / "share" / "cmesh"
    )
    found.config.mkdir()
    (found.config / "config.toml").write_text("")
    for name in ("node", "logins", "store", "tasks"):
        (found.state / name).mkdir(parents=True)
        (found.state / name / "x").write_text(name)
    (found.state / "key").write_text("k")
    found.data.mkdir(parents=True, mode=0o700)
    return found


def item(places: Places, name: Name) -> Item:
    return next(one for one in inventory(places) if one.name == name)


def recorded(places: Places, *entries: Entry) -> None:
    write_installed(places.data, entries, version="0.1.0")


def names(directory: Path) -> set[str]:
    return {one.name for one in directory.iterdir()}


def test_each_part_has_its_own_paths_and_all_of_the_state_is_in_one(places: Places) -> None:
    found = {one.name: {path.name for path in one.paths} for one in inventory(places)}
    assert found == {
        "config": {"config.toml"},
        "logins": {"logins"},
        "identity": {"node", "key"},
        "store": {"store", "tasks"},
    }


def test_a_part_goes_alone_and_the_last_one_takes_the_directory_with_it(places: Places) -> None:
    take_away(item(places, "store"), places)
    assert names(places.state) == {"node", "key", "logins"}
    take_away(item(places, "logins"), places)
    take_away(item(places, "identity"), places)
    assert not places.state.exists()
    take_away(item(places, "config"), places)
    assert not places.config.exists()
    assert inventory(places) == ()


@pytest.mark.parametrize("before", [b"", b"alias x=y\n", b"alias x=y"])
def test_lines_in_a_shells_file_go_to_the_byte(
    before: bytes, places: Places, tmp_path: Path
) -> None:
    path = tmp_path / ".bashrc"
    text, newline = added(before, Block(path=path, line="export PATH"))
    path.write_bytes(before + text)
    path.chmod(0o640)
    entry: Entry = {"kind": "block", "path": str(path), "begin": BEGIN, "end": END}
    recorded(places, entry | {"made": not before, "newline": newline})
    assert take_away(item(places, "program"), places) == ()
    if before:
        assert path.read_bytes() == before
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    else:
        assert not path.exists()


def test_what_was_changed_since_stays_and_is_said(places: Places, tmp_path: Path) -> None:
    unit, link = tmp_path / "unit", tmp_path / "link"
    unit.write_text("mine by now")
    link.symlink_to("/elsewhere")
    recorded(
        places,
        {"kind": "file", "path": str(unit), "sha256": digest(b"as written")},
        {"kind": "link", "path": str(link), "target": "/opt/cmesh"},
    )
    left = take_away(item(places, "program"), places)
    assert unit.read_text() == "mine by now"
    assert link.is_symlink()
    assert [line.partition(" ")[2] for line in left] == [
        "was changed since, so it stays",
        "leads elsewhere by now",
    ]


def test_trees_go_below_the_data_directory_only_and_folders_when_empty(
    places: Places, tmp_path: Path
) -> None:
    tree, other, folder, used = (
        places.data / "versions" / "1",
        tmp_path / "other",
        tmp_path / "bin",
        tmp_path / "used",
    )
    for path in (tree / "lib", other / "lib", folder, used / "in"):
        path.mkdir(parents=True)
    recorded(
        places,
        {"kind": "directory", "path": str(tree), "tree": True},
        {"kind": "directory", "path": str(other), "tree": True},
        {"kind": "directory", "path": str(folder)},
        {"kind": "directory", "path": str(used)},
        {"kind": "directory", "path": str(places.data.parent)},
    )
    take_away(item(places, "program"), places)
    assert not places.data.parent.exists()
    assert (other / "lib").is_dir()
    assert not folder.exists()
    assert (used / "in").is_dir()


def test_links_are_deleted_and_not_what_they_lead_to(places: Places, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "x").write_text("x")
    (places.config / "runners").symlink_to(kept)
    take_away(item(places, "config"), places)
    assert (kept / "x").read_text() == "x"


def test_a_backup_holds_the_store_for_its_owner_alone(places: Places, tmp_path: Path) -> None:
    target = tmp_path / "store.tar.gz"
    assert back_up(item(places, "store"), target) == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with tarfile.open(target) as tar:
        assert "cmesh/store/x" in tar.getnames()
    with pytest.raises(UsageError, match="there already"):
        back_up(item(places, "store"), target)
    with pytest.raises(UsageError, match="inside of what goes"):
        back_up(item(places, "store"), places.state / "store" / "b.tar.gz")
    with pytest.raises(ConfigError, match="cannot be written"):
        back_up(item(places, "store"), tmp_path / "none" / "b.tar.gz")


def test_a_record_of_a_newer_cmesh_is_not_half_obeyed(places: Places) -> None:
    record_file(places.data).write_text('{"version": 2, "entries": []}')
    with pytest.raises(ConfigError):
        inventory(places)


def test_the_records_lock_goes_with_the_record(places: Places) -> None:
    (places.data / "installed.lock").touch()
    recorded(places, {"kind": "mcp", "client": "claude", "path": "/x"})
    tidy(places)
    assert names(places.data) == {"installed.json", "installed.lock"}
    record_file(places.data).unlink()
    tidy(places)
    assert not places.data.exists()


@pytest.mark.parametrize("inside", ["versions/../../../mine", "../../mine", "versions", "backups"])
def test_a_tree_of_the_record_goes_only_where_environments_are(
    places: Places, tmp_path: Path, inside: str
) -> None:
    (tmp_path / "mine").mkdir()
    for one in (tmp_path / "mine", places.data / "versions", places.data / "backups"):
        one.mkdir(exist_ok=True)
        (one / "x").write_text("x")
    tree: Entry = {"kind": "directory", "path": f"{places.data}/{inside}", "tree": True}
    recorded(places, tree)
    [note] = take_away(item(places, "program"), places)
    assert "so it stays" in note
    assert Path(f"{places.data}/{inside}/x").read_text() == "x"


def test_of_a_linked_configuration_the_link_goes_and_what_it_leads_to_stays(
    places: Places, tmp_path: Path
) -> None:
    places.config.rename(tmp_path / "dotfiles")
    places.config.symlink_to(tmp_path / "dotfiles")
    take_away(item(places, "config"), places)
    assert not places.config.is_symlink()
    assert names(tmp_path / "dotfiles") == {"config.toml"}


@pytest.mark.parametrize("which", ["state", "config"])
@pytest.mark.parametrize("above", [False, True])
def test_a_home_is_never_taken_for_a_directory_of_cmeshs(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, above: bool
) -> None:
    directory = places.state if which == "state" else places.config
    monkeypatch.setenv("HOME", str(directory / "me" if above else directory))
    with pytest.raises(UsageError, match="your home or holds it") as refused:
        inventory(places)
    assert refused.value.hint == f"env -u CMESH_{which.upper()}_DIR cmesh uninstall --dry-run"


def test_of_a_directory_with_other_things_in_it_only_cmeshs_go(places: Places) -> None:
    (places.state / "launch.json").write_text("{}")
    (places.state / ".key.new").write_text("")
    (places.state / ".launch.json.0a1b2c3d.new").write_text("")
    (places.state / "photos").mkdir()
    (places.config / "claude.key").write_text("k")
    (places.config / "config.toml").write_text('[node]\nauth_key_file = "auth"\n')
    (places.config / "auth").write_text("k")
    (places.config / "vimrc").write_text("mine")
    assert "stays in" in item(places, "store").note
    notes = [take_away(one, places) for one in inventory(places)]
    assert names(places.state) == {"photos"}
    assert names(places.config) == {"vimrc"}
    assert notes[-1] == (f"what is not cmesh's stays in {places.state}: photos",)


def test_a_directory_in_which_no_daemon_ran_and_somebody_else_works_stays_whole(
    places: Places,
) -> None:
    (places.state / "src").mkdir()  # beside folders that only happen to be named as cmesh's are
    assert [one.name for one in inventory(places)] == ["config"]


def test_a_part_says_how_much_of_each_path_goes(places: Places, tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("")
    tree = places.data / "versions" / "1"
    tree.mkdir(parents=True)
    recorded(
        places,
        {"kind": "directory", "path": str(tree), "tree": True},
        {"kind": "directory", "path": str(tmp_path)},
        {"kind": "block", "path": str(tmp_path / ".bashrc")},
        {"kind": "link", "path": str(tmp_path / "gone")},
    )
    assert item(places, "program").lines == (
        str(tree),
        f"{tmp_path}  (only if nothing is in it then)",
        f"{tmp_path}/.bashrc  (the lines of cmesh's alone)",
    )
