"""A rule means what its path leads to: a link that an agent makes widens nothing unseen."""

import tomllib
from pathlib import Path

import pytest

from cmesh.errors import PlanGone, UsageError
from cmesh.setup.directories import require_in_place, resolved
from cmesh.setup.plan import Plan, Wish
from cmesh.setup.planning import plan_of
from tests.unit.setup.facts import UP, facts, peer


def planned(home: Path, directory: Path) -> Plan:
    wish = Wish(step="peer", peer="builder", allow="work", directory=str(directory))
    return plan_of(facts(**UP, home=home, peers=(peer(),)), resolved(wish, home))


def test_a_link_to_the_home_is_refused_as_the_home_is(tmp_path: Path) -> None:
    project = tmp_path / "src"
    project.mkdir()
    (project / "docs").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="your home"):
        planned(tmp_path, project / "docs")


def test_what_is_shown_and_written_is_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    made = planned(tmp_path, tmp_path / "link")
    [rule] = tomllib.loads(made.after or "")["inbound"]["allow"]
    assert rule["paths"] == [f"{tmp_path}/real"]
    assert any(f"{tmp_path}/real here" in effect for effect in made.effects)


def test_a_directory_that_became_a_link_before_the_word_is_not_applied(tmp_path: Path) -> None:
    place = tmp_path / "app"
    place.mkdir()
    made = planned(tmp_path, place)
    require_in_place(made)
    place.rmdir()
    place.symlink_to(tmp_path)
    with pytest.raises(PlanGone, match="leads elsewhere"):
        require_in_place(made)


def test_what_is_no_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no directory here"):
        planned(tmp_path, tmp_path / "nothing")


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (None, 0, "is not there"),
        (" \n", 0o600, "is empty"),
        ("tskey-1", 0o644, "lets other users in"),
        ("tskey-1", 0o600, ""),
    ],
)
def test_an_auth_key_that_the_node_could_not_read_is_refused_when_planned(
    tmp_path: Path, text: str | None, mode: int, why: str
) -> None:
    if text is not None:
        (tmp_path / "key").write_text(text)
        (tmp_path / "key").chmod(mode)
    wish = Wish(step="machine", auth_key_file="key")
    if not why:
        assert resolved(wish, tmp_path) == wish
        return
    with pytest.raises(UsageError, match=why) as caught:
        resolved(wish, tmp_path)
    assert str(tmp_path / "key") in caught.value.message
    assert "tskey" not in caught.value.message + caught.value.hint
