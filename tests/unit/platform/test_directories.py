"""Each system's own directories, from an environment and a home."""

import tempfile
from pathlib import Path, PurePosixPath

from cmesh.platform.posix import directories as posix
from cmesh.platform.windows import directories as windows

HOME = Path("/home/me")


def test_the_variables_of_xdg_go_before_the_usual_places() -> None:
    named = {"XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s", "XDG_DATA_HOME": "/d"}
    assert posix.config(named, HOME) == Path("/c/cmesh")
    assert posix.state(named, HOME) == Path("/s/cmesh")
    assert posix.data(named, HOME) == Path("/d/cmesh")
    assert posix.config({}, HOME) == HOME / ".config/cmesh"
    assert posix.state({"XDG_STATE_HOME": ""}, HOME) == HOME / ".local/state/cmesh"
    assert posix.data({}, HOME) == HOME / ".local/share/cmesh"
    assert posix.runtime({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7")


def test_settings_roam_on_windows_and_the_rest_does_not() -> None:
    named = {"APPDATA": "/roaming", "LOCALAPPDATA": "/local"}
    assert windows.config(named, HOME) == Path("/roaming/cmesh")
    assert windows.state(named, HOME) == Path("/local/cmesh/state")
    assert windows.config({}, HOME) == HOME / "AppData/Roaming/cmesh"
    assert windows.data({}, HOME) == HOME / "AppData/Local/cmesh"


def test_the_program_is_where_install_ps1_puts_it() -> None:
    text = (Path(__file__).parents[3] / "scripts/install.ps1").read_text("utf-8")
    assert "Join-Path $env:LOCALAPPDATA 'cmesh'" in text
    assert "%LOCALAPPDATA%\\cmesh\\bin\\cmesh.cmd" in text
    found = windows.program({"LOCALAPPDATA": "/local"}, HOME)
    assert PurePosixPath(found) == PurePosixPath("/local/cmesh/bin/cmesh.cmd")


def test_a_long_temporary_directory_gives_way_to_a_short_one(tmp_path: Path) -> None:
    usual = tempfile.gettempdir()
    assert posix.short_temporary(len(usual)) == usual
    assert posix.short_temporary(3) == "/tmp"
    assert windows.short_temporary(3) == usual
