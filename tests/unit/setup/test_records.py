"""What the wizard keeps: one change that waits, what was applied, and what takes it back."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cmesh.errors import ConfigError, PlanGone, StoreError
from cmesh.setup.plan import Block, Plan, Trusting
from cmesh.setup.records import EXPIRES_AFTER, Applied, Pending, Records
from cmesh.setup.undo import reverse_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BLOCK = '[[inbound.allow]]\nname = "one"\n'
PLAN = Plan(
    step="peer",
    title="work for `builder`",
    file="/c/config.toml",
    before="a = 1\n",
    after=f"a = 1\n\n{BLOCK}",
    blocks=(Block(direction="inbound", text=BLOCK),),
    trust=Trusting(node_id="nB", name="builder", fingerprint="ab"),
)


def pending(plan: Plan = PLAN) -> Pending:
    return Pending.of(plan, NOW, session="s", agent="a", pid=1)


def applied(plan: Plan = PLAN, **more: object) -> Applied:
    fields = {"plan_id": "s-00000001", "plan": plan, "at": NOW, "done": True} | more
    return Applied.model_validate(fields)


def test_a_change_waits_over_a_restart_and_no_longer_than_its_time(tmp_path: Path):
    kept = pending()
    Records(tmp_path).keep_pending(kept)
    assert Records(tmp_path).pending(NOW) == kept
    assert Records(tmp_path).pending(NOW + EXPIRES_AFTER) is None
    Records(tmp_path).keep_pending(None)
    assert Records(tmp_path).pending(NOW) is None


def test_ids_differ_and_files_are_the_owners(tmp_path: Path):
    records = Records(tmp_path)
    records.keep_pending(pending())
    first = records.pending(NOW)
    records.keep_pending(pending())
    second = records.pending(NOW)
    assert first is not None
    assert second is not None
    assert first.plan_id != second.plan_id
    [file] = (tmp_path / "setup").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "{", "[]", '{"plan_id": 3}'])
def test_a_damaged_file_is_no_change_that_waits(tmp_path: Path, content: str):
    records = Records(tmp_path)
    records.keep_pending(pending())
    (tmp_path / "setup" / "pending.json").write_text(content, "utf-8")
    assert records.pending(NOW) is None


def test_applied_changes_come_back_in_order_and_the_oldest_go(tmp_path: Path):
    records = Records(tmp_path)
    for number in range(103):
        at = NOW + timedelta(seconds=number)
        records.keep(applied(plan_id=f"s-{number:08x}", at=at))
    found = records.applied()
    assert [one.plan_id for one in found] == [f"s-{n:08x}" for n in range(3, 103)]
    records.keep(found[-1].model_copy(update={"undone": True}))
    assert records.applied()[-1].undone
    assert len(records.applied()) == 100


def test_a_state_directory_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fails(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StoreError, match=r"nothing was changed: .*No space left"):
        Records(tmp_path).keep_pending(pending())
    assert Records(tmp_path).pending(NOW) is None


def test_an_untouched_file_goes_back_to_what_it_was():
    back = reverse_of([applied()], "", PLAN.after)
    assert (back.after, back.untrust, back.undoes) == (PLAN.before, PLAN.trust, "s-00000001")


def test_what_a_person_wrote_since_stays():
    now = f"# mine\n{PLAN.after}\n[worker]\nconcurrent = 3\n"
    back = reverse_of([applied()], "peer", now)
    assert back.after == "# mine\na = 1\n\n[worker]\nconcurrent = 3\n"


def test_a_rule_that_was_changed_since_is_the_persons():
    with pytest.raises(ConfigError, match="changed since"):
        reverse_of([applied()], "", (PLAN.after or "").replace("one", "two"))


@pytest.mark.parametrize(
    "records",
    [
        [],
        [applied(undone=True)],
        [applied(done=False)],
        [applied(PLAN.model_copy(update={"undoes": "s"}))],
    ],
)
def test_nothing_is_taken_back_twice_or_before_it_was(records: list[Applied]):
    with pytest.raises(PlanGone):
        reverse_of(records, "", PLAN.after)


def test_the_newest_of_a_step_is_taken_back():
    machine = PLAN.model_copy(update={"step": "machine", "before": None, "trust": None})
    records = [applied(machine, plan_id="s-00000002"), applied()]
    assert reverse_of(records, "", PLAN.after).undoes == "s-00000001"
    back = reverse_of(records, "machine", PLAN.after)
    assert (back.undoes, back.after) == ("s-00000002", None)
    assert "without a configuration" in back.effects[0]
