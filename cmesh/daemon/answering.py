"""Answers by a JSON Schema: taken from a run on the worker, looked at again when they came."""

from dataclasses import replace

from cmesh.errors import AnswerInvalid, UsageError
from cmesh.model import TaskSpec, TaskState
from cmesh.protocol.answer import canonical, check_answer, check_schema, last_object
from cmesh.protocol.outcome import Outcome as SignedOutcome
from cmesh.redact import Redactor
from cmesh.runner.reader import Outcome
from cmesh.text import scrub_data

__all__ = ["answered", "not_taken"]


def answered(outcome: Outcome, schema: str, redactor: Redactor) -> Outcome:
    """Return a run's outcome with the answer that fits `schema`; without one it has failed.

    The answer is scrubbed and redacted first, so what is signed is what was checked. A run that
    failed by itself stays as it is. The same each time; up to about a second, for a thread.
    """
    if outcome.state is not TaskState.SUCCEEDED:
        return outcome
    try:
        found = last_object(outcome.last)
        if found is None:
            raise AnswerInvalid("its final text holds no JSON object")
        answer = canonical(redactor.data(scrub_data(found))[0])
        check_answer(answer, schema)
    except AnswerInvalid as error:
        reason, _ = redactor.text(error.message)
        return replace(outcome, state=TaskState.FAILED, code=error.code, error=reason)
    return replace(outcome, answer=answer)


def not_taken(spec: TaskSpec, outcome: SignedOutcome) -> str:
    """Say why the answer in a worker's outcome is not taken; empty = it is, or there is none.

    INVARIANT: a worker's word that an answer fits counts for nothing.
    """
    if not spec.answer_schema:
        return "the worker sent an answer that was not asked for" if outcome.answer else ""
    if not outcome.answer:
        ended_well = outcome.state is TaskState.SUCCEEDED
        return "the worker sent no answer by the schema" if ended_well else ""
    try:
        check_schema(spec.answer_schema)
        check_answer(outcome.answer, spec.answer_schema)
    except (AnswerInvalid, UsageError) as error:
        return f"the worker sent an answer that does not fit: {error.message}"
    return ""
