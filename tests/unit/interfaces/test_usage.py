"""Bad arguments: one sentence, the choices or the nearest one, nothing that may be a secret."""

from typing import Any

import pytest
from pydantic import ValidationError

from cmesh.daemon.arguments import Arguments, CancelArguments, DelegateArguments, TasksArguments
from cmesh.daemon.setup_arguments import SetupStepArguments
from cmesh.errors import UsageError
from cmesh.interfaces.usage import usage_error


def failed(model: type[Arguments], *, echo: bool = True, **fields: Any) -> UsageError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(fields)
    return usage_error(caught.value, echo=echo)


def test_a_word_that_is_no_choice_gets_the_nearest_and_all_of_them():
    error = failed(TasksArguments, state="runing")
    assert error.message == "`state`: `runing` is not known"
    assert error.hint.startswith("did you mean `running`? one of submitting, ")
    assert error.hint.endswith(", open, any")


def test_what_is_no_id_is_told_what_an_id_is():
    error = failed(CancelArguments, task_id="nope")
    assert error.message == "`task_id`: `nope` is no task id"
    assert "cmesh tasks" in error.hint


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"timeout_s": 99_999}, "`timeout_s`: at most 14400 seconds (4h)"),
        ({"timeout_s": 0}, "`timeout_s`: at least 1"),
        ({"prompt": ""}, "`prompt`: must not be empty"),
        ({"prompt": "x" * 20_001}, "`prompt`: too long, at most 20000"),
        ({"colour": 1}, "`colour`: no such argument"),
    ],
)
def test_a_value_out_of_range_says_the_range(fields: dict[str, Any], said: str):
    good: dict[str, Any] = {"peer": "worker", "prompt": "look", "directory": "/srv"}
    assert failed(DelegateArguments, **(good | fields)).message == said


@pytest.mark.parametrize(("given", "echo"), [("s3cret", False), ("s3cret\nin two lines", True)])
def test_what_may_be_a_secret_is_not_repeated(given: str, echo: bool):
    error = failed(TasksArguments, state=given, echo=echo)
    assert "s3cret" not in error.message + error.hint


def test_a_time_to_keep_texts_says_how_it_is_written():
    error = failed(SetupStepArguments, step="machine", keep_text="30x")
    assert (error.message, error.hint) == (
        "`keep_text`: `30x` is no time",
        "write 30d, 90d or forever",
    )
