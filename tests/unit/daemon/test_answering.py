"""An answer as the worker takes it from a run, and as the caller looks at it again."""

import json
from datetime import UTC, datetime

import pytest

from cmesh.daemon.answering import answered, not_taken
from cmesh.model import Limits, Profile, TaskId, TaskSpec, TaskState
from cmesh.protocol.answer import canonical, schema_text
from cmesh.protocol.outcome import Outcome as SignedOutcome
from cmesh.redact import Redactor
from cmesh.runner.reader import Outcome

SCHEMA = schema_text({"type": "object", "properties": {"count": {"type": "integer"}}})
SECRET = "hunter2-is-long-enough"


def ended(last: str, state: TaskState = TaskState.SUCCEEDED) -> Outcome:
    outcome = Outcome(state=state, text="some", last=last, error="its own", code="idle_limit")
    return answered(outcome, SCHEMA, Redactor([SECRET]))


def spec(schema: str) -> TaskSpec:
    return TaskSpec(
        task_id=TaskId("01890000-0000-7000-8000-000000000001"),
        runner="claude",
        profile=Profile.QUERY,
        directory="/srv",
        prompt="count",
        limits=Limits(),
        not_after=datetime(2026, 1, 1, tzinfo=UTC),
        answer_schema=schema,
    )


def signed(answer: str | None, state: TaskState = TaskState.SUCCEEDED) -> SignedOutcome:
    return SignedOutcome(state=state, witness="shim recorded exit 0", answer=answer)


def test_an_answer_is_scrubbed_and_redacted_before_it_is_checked() -> None:
    outcome = ended(json.dumps({"count": 1, "said": f"a\u202e {SECRET}"}))
    assert outcome.state is TaskState.SUCCEEDED
    assert SECRET not in outcome.answer
    assert "\u202e" not in outcome.answer
    assert json.loads(outcome.answer)["count"] == 1


@pytest.mark.parametrize(
    ("last", "said"),
    [("three", "no JSON object"), ('{"count": 1.5}', "`$.count` breaks `type`")],
)
def test_without_one_that_fits_the_task_has_failed_and_keeps_its_text(last: str, said: str) -> None:
    outcome = ended(last)
    assert (outcome.state, outcome.code) == (TaskState.FAILED, "answer_invalid")
    assert said in outcome.error
    assert (outcome.text, outcome.answer) == ("some", "")


def test_a_reason_holds_no_secret() -> None:
    assert SECRET not in ended(json.dumps({"count": SECRET})).error


def test_a_run_that_failed_keeps_its_own_reason() -> None:
    outcome = ended('{"count": 1}', TaskState.FAILED)
    assert (outcome.code, outcome.error, outcome.answer) == ("idle_limit", "its own", "")


@pytest.mark.parametrize(
    ("schema", "answer", "said"),
    [
        (SCHEMA, '{"count": 1}', ""),
        (SCHEMA, '{"count": "one"}', "does not fit"),
        (SCHEMA, "{", "does not fit"),
        (SCHEMA, None, "no answer"),
        ("", None, ""),
        ("", '{"count": 1}', "not asked for"),
        (canonical({"type": "object", "$ref": "#/none"}), "{}", "does not fit"),
    ],
)
def test_a_workers_word_for_an_answer_counts_for_nothing(
    schema: str, answer: str | None, said: str
) -> None:
    found = not_taken(spec(schema), signed(answer))
    assert said in found
    assert bool(found) == bool(said)


def test_of_a_task_that_failed_none_is_missed() -> None:
    assert not_taken(spec(SCHEMA), signed(None, TaskState.FAILED)) == ""


def test_a_task_without_a_schema_has_the_hash_it_had() -> None:
    assert spec("").payload_hash() != spec(SCHEMA).payload_hash()
    # Made before there were schemas.
    assert (
        spec("").payload_hash()
        == "a22adfa79c84d0d70972f7fe603889b66eab204d48580e9fbaf27837ff282dad"
    )
