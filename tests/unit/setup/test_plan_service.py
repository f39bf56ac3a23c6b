"""The step `service`: what a person is shown, what is refused, and what takes it back."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cmesh.errors import PlanGone, ServiceFailed
from cmesh.setup.plan import Plan, Wish
from cmesh.setup.plan_service import require_as_planned
from cmesh.setup.planning import plan_of
from cmesh.setup.records import Applied
from cmesh.setup.undo import reverse_of
from tests.unit.setup.facts import UNIT, UP, facts


def plan(**more: Any) -> Plan:
    return plan_of(facts(**UP | {"unit": UNIT} | more), Wish(step="service"))


def test_a_person_is_shown_the_file_and_every_command():
    shown = plan()
    assert shown.diff == (
        "--- (no file)\n+++ /home/me/.config/systemd/user/cmesh.service (after)\n"
        "@@ -0,0 +1 @@\n+[Unit]\n"
    )
    assert shown.before == shown.after  # config.toml is left alone
    [commands, hands_over, lingering] = shown.effects
    for verb in ("daemon-reload", "enable cmesh.service", "start cmesh.service"):
        assert f"systemctl --user {verb}" in commands
    assert "its tasks run on" in hands_over
    assert "loginctl enable-linger" in lingering
    assert len(plan(unit=replace(UNIT, lingers=True)).effects) == 2


def test_the_digest_covers_the_unit():
    assert plan().sha256 != plan(unit=replace(UNIT, wanted="[Unit]\n[Install]\n")).sha256


def test_what_is_there_already_is_nothing_to_change():
    there = replace(UNIT, found=UNIT.wanted)
    assert plan(unit=there, service="systemd").empty
    assert plan(unit=None, service="launchd").empty
    # The file alone is half of it: an install that was cut off is gone on with.
    half = plan(unit=there)
    assert (half.empty, half.diff) == (False, "")


@pytest.mark.parametrize("kept", ["", "systemd"])
def test_another_unit_in_its_place_is_not_overwritten(kept: str):
    with pytest.raises(ServiceFailed, match="is not what cmesh would write"):
        plan(unit=replace(UNIT, found="[Service]\nExecStart=/mine\n"), service=kept)


def test_without_a_systemd_it_says_what_to_do():
    with pytest.raises(ServiceFailed, match="no systemd of this user") as error:
        plan(unit=None)
    assert "cmesh daemon --service" in error.value.hint


def test_taken_back_it_is_the_same_file_or_nothing():
    done = Applied(
        plan_id="s-00000001", plan=plan(), at=datetime(2026, 1, 1, tzinfo=UTC), done=True
    )
    back = reverse_of([done], "service", UP["config"])
    assert back.unit is not None
    assert (back.unit.before, back.unit.after, back.undoes) == ("[Unit]\n", None, "s-00000001")
    assert "disable --now cmesh.service" in back.effects[0]
    assert "-[Unit]" in back.diff
    require_as_planned(back.unit, "[Unit]\n")
    for found in (None, "[Unit]\n# mine\n"):
        with pytest.raises(PlanGone, match="not as the wizard has seen it"):
            require_as_planned(back.unit, found)
