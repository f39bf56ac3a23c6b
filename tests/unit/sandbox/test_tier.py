"""Tiers and what each profile may do on them: every cell has its expected answer."""

import pytest

from cmesh.errors import SandboxUnavailable
from cmesh.model import Profile
from cmesh.sandbox.tier import LABEL, Accept, Enforcement, require, require_network, warning

ALL = {"landlock_abi": 7, "bwrap": True, "seccomp": True, "netns": True}
FOUND = {
    3: Enforcement(landlock_abi=4, bwrap=True, seccomp=True, netns=True),
    2: Enforcement(landlock_abi=6, seccomp=True, why="no bwrap", hint="install it"),
    1: Enforcement(landlock_abi=3, bwrap=True, seccomp=True, netns=True, why="old", hint="renew"),
    0: Enforcement(why="nothing", hint="another machine"),
}
NETWORK, EDIT = Accept(tier2_network=True), Accept(tier2_edit=True)
BOTH = Accept(tier2_network=True, tier2_edit=True)
RUNS = {
    Profile.QUERY: {3: (Accept(), NETWORK, EDIT, BOTH), 2: (NETWORK, BOTH),
                    1: (Accept(), NETWORK, EDIT, BOTH), 0: ()},
    Profile.EDIT: {3: (Accept(), NETWORK, EDIT, BOTH), 2: (BOTH,), 1: (EDIT, BOTH), 0: ()},
    Profile.BUILD: {3: (Accept(), NETWORK, EDIT, BOTH), 2: (BOTH,), 1: (EDIT, BOTH), 0: ()},
    Profile.FULL: dict.fromkeys(range(4), (Accept(), NETWORK, EDIT, BOTH)),
}  # fmt: skip


@pytest.mark.parametrize("tier", FOUND)
def test_the_parts_make_the_tier(tier: int) -> None:
    assert FOUND[tier].tier == tier


@pytest.mark.parametrize(
    ("missing", "tier"),
    [
        ({"seccomp": False}, 0),
        ({"bwrap": False, "netns": False}, 2),
        ({"bwrap": False, "netns": False, "landlock_abi": 5}, 0),
        ({"netns": False}, 2),
        ({"landlock_abi": 3}, 1),
        ({"landlock_abi": 0}, 1),
        ({"landlock_abi": 0, "bwrap": False, "netns": False}, 0),
    ],
)
def test_each_missing_part_costs_its_tier(missing: dict[str, int], tier: int) -> None:
    assert Enforcement(**{**ALL, **missing}).tier == tier  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("accept", [Accept(), NETWORK, EDIT, BOTH])
@pytest.mark.parametrize("tier", FOUND)
@pytest.mark.parametrize("profile", Profile)
def test_a_profile_runs_where_the_table_says_and_nowhere_else(
    profile: Profile, tier: int, accept: Accept
) -> None:
    if accept in RUNS[profile][tier]:
        require(profile, FOUND[tier], accept)
        return
    with pytest.raises(SandboxUnavailable) as refused:
        require(profile, FOUND[tier], accept)
    assert FOUND[tier].why in refused.value.message
    assert FOUND[tier].hint in refused.value.hint


def test_a_refusal_names_the_key_that_accepts() -> None:
    with pytest.raises(SandboxUnavailable) as refused:
        require(Profile.QUERY, FOUND[2], Accept())
    assert "`accept_tier2_network = true` under `[sandbox]`" in refused.value.hint


@pytest.mark.parametrize("tier", FOUND)
def test_a_task_gets_a_port_in_a_network_namespace_of_its_own_or_none(tier: int) -> None:
    if tier in {1, 3}:
        require_network(FOUND[tier])
        return
    with pytest.raises(SandboxUnavailable) as refused:
        require_network(FOUND[tier])
    assert FOUND[tier].why in refused.value.message
    assert FOUND[tier].hint in refused.value.hint


@pytest.mark.parametrize("found", FOUND.values())
def test_a_label_is_one_that_is_known_again_and_fits_a_result(found: Enforcement) -> None:
    assert LABEL.fullmatch(found.label)
    assert len(found.label) <= 64


def test_labels_name_the_parts() -> None:
    assert Enforcement(**ALL).label == "tier3:bwrap,landlock7,seccomp,netns"  # pyright: ignore[reportArgumentType]
    assert FOUND[2].label == "tier2:landlock6,seccomp"
    assert FOUND[0].label == "none"


def test_a_result_warns_of_what_is_left_over() -> None:
    assert warning(FOUND[3].label) == warning("none") == warning("") == ""
    assert "the addresses are not" in warning(FOUND[2].label)
    assert "tier 1" in warning(FOUND[1].label)
    assert warning("tier2: text of somebody else") == ""
