"""The directories that a pairing may give to a peer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cmesh.daemon.pair_wanted import Wanted
from cmesh.errors import UsageError


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
