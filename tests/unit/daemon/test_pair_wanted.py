"""The directories that a pairing may give to a peer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cmesh.daemon import pair_wanted
from cmesh.daemon.pair_wanted import Wanted
from cmesh.errors import RootRefused, UsageError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("uid", "allowed", "refused"), [(0, False, True), (0, True, False), (7, False, False)]
)
async def test_who_refuses_tasks_as_root_is_told_before_a_rule_allows_them(
    uid: int, allowed: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SimpleNamespace(worker=SimpleNamespace(allow_root=allowed))
    daemon = SimpleNamespace(rules=SimpleNamespace(config=lambda: config))
    wanted = Wanted(cast("Any", daemon))
    monkeypatch.setattr(pair_wanted, "is_superuser", lambda: uid == 0)
    assert bool(wanted.cannot_work()) == refused
    with pytest.raises(RootRefused if refused else UsageError) as caught:
        await wanted.checked("nowhere", [])
    assert ("allow_root = true" in caught.value.hint) == refused


@pytest.mark.parametrize("text", ["h", "h/.local/state", "h/.config", "h/.config/cmesh/runners"])
def test_what_holds_the_home_or_cmesh_itself_is_given_to_nobody(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "h"
    monkeypatch.setenv("HOME", str(tmp_path / "linked"))
    (tmp_path / "linked").symlink_to(home)
    for name in (".local/state/cmesh", ".config/cmesh/runners", "src"):
        (home / name).mkdir(parents=True)
    settings = SimpleNamespace(
        state_dir=home / ".local/state/cmesh", config_file=home / ".config/cmesh/config.toml"
    )
    wanted = cast("Any", Wanted(cast("Any", SimpleNamespace(settings=settings))))
    assert wanted._directory(str(home / "src")) == str(home / "src")
    with pytest.raises(UsageError, match=r"more than one project|cmesh's own"):
        wanted._directory(str(tmp_path / text))


@pytest.mark.parametrize("text", [".", "~nobody-of-this-name/src", r"C:\src", "/nowhere\0"])
def test_what_is_no_directory_from_a_root_is_said_to_be_none(text: str) -> None:
    wanted = cast("Any", Wanted(cast("Any", SimpleNamespace())))
    with pytest.raises(UsageError, match="is no directory here"):
        wanted._directory(text)
