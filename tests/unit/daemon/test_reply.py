"""The turn that a reply asks for: never more than the turn before it may have."""

from datetime import UTC, datetime

import pytest

from cmesh.daemon.arguments import ReplyArguments
from cmesh.daemon.followup import wider
from cmesh.daemon.reply import next_spec
from cmesh.model import Limits, Profile, TaskId, TaskSpec

NOW = datetime(2030, 1, 1, tzinfo=UTC)
BEFORE = TaskSpec(
    task_id=TaskId("0198c0de-1111-7aaa-8bbb-0123456789ab"),
    runner="claude",
    profile=Profile.QUERY,
    directory="/srv",
    prompt="look",
    limits=Limits(runtime_s=600, turns=10, cost_usd=2.0),
    not_after=NOW,
)


@pytest.mark.parametrize(
    ("asked", "limits"),
    [
        ({}, Limits(runtime_s=600, turns=10, cost_usd=2.0)),
        ({"turns": 3, "cost_usd": 0.5}, Limits(runtime_s=600, turns=3, cost_usd=0.5)),
        ({"turns": 99, "cost_usd": 9, "timeout_s": 900}, BEFORE.limits),
        ({"tokens": 1_000}, Limits(runtime_s=600, turns=10, cost_usd=2.0, tokens=1_000)),
        ({"timeout_s": 60}, Limits(runtime_s=60, turns=10, cost_usd=2.0)),
    ],
)
def test_a_reply_lowers_limits_and_raises_none(asked: dict[str, float], limits: Limits) -> None:
    fields = {"task_id": BEFORE.task_id, "prompt": "again", **asked}
    spec = next_spec(BEFORE, ReplyArguments.model_validate(fields), NOW)
    assert spec.limits == limits
    assert not wider(spec, BEFORE)
