"""The repair turn: an agent whose answer does not fit its schema is told why, once, and goes on.

The shim has ended the first turn and waits for a word; here it is found. INVARIANT: the word
follows from the first turn's output alone, and is written once, so that a later life of the
daemon repeats it and changes nothing.
"""

import asyncio
from dataclasses import replace

from cmesh.daemon import followup
from cmesh.daemon.answering import answered
from cmesh.daemon.draft import Draft
from cmesh.daemon.parts import Parts
from cmesh.daemon.spool import Spool
from cmesh.errors import AnswerInvalid
from cmesh.model import TaskState
from cmesh.runner.command import ANSWER_BY
from cmesh.runner.evidence import Exit
from cmesh.runner.reader import Outcome
from cmesh.runner.shim_repair import RAN
from cmesh.store.records import TaskRecord

__all__ = ["ASKED_AGAIN", "judged", "tell_shim"]

ASKED_AGAIN = "asked_again"
"""Fact: the agent was told what is wrong with its answer."""

_FITS = "the answer fits"
_OWN_FAILURE = "the agent failed by itself"
_NO_SESSION = "its agent keeps no conversation that could go on"


async def tell_shim(parts: Parts, draft: Draft, spool: Spool, schema: str) -> None:
    """Tell the shim that waits whether there is a repair turn; may be repeated.

    The caller sees it as an event of its own. Blocks on the disk and on the check in threads.

    Raises:
        OSError: the disk refuses the word; the next look tries again.
    """
    record, first = draft.record, spool.first
    if record is None or first is None:
        return
    checked = await asyncio.to_thread(answered, first, schema, parts.redactor())
    session, why = await _way_on(parts, record, spool, first, checked)
    if not parts.supervisor.told_again(record.task_id):
        prompt = _prompt(checked.error, schema) if session else ""
        parts.supervisor.tell_again(record.task_id, session, prompt, why=why)
    if session and ASKED_AGAIN not in draft.facts:
        draft.add_fact(ASKED_AGAIN, code=checked.code, reason=checked.error)
        text = f"its answer does not fit, so its agent was asked once more: {checked.error}"
        draft.next_event(parts.clock.now(), "warning", text, {"repair_turn": 1})


def judged(spool: Spool, schema: str, parts: Parts) -> Outcome | None:
    """Return a run's outcome with the answer that fits; None = its end was not read yet.

    Without one it has failed, and the reason says what the repair turn did about it. Up to about
    a second, for a thread.
    """
    outcome, exit_ = spool.outcome, spool.exit
    if outcome is None or exit_ is None:
        return None
    redactor = parts.redactor()
    checked = answered(outcome, schema, redactor)
    if exit_.turn is None or spool.first is None:
        return checked
    if exit_.turn.again != RAN:
        return _without_turn(checked, exit_)
    before = answered(spool.first, schema, redactor).error
    if checked.code == AnswerInvalid.code:
        error = f"{checked.error}; asked once more, because of: {before}"
        return replace(checked, error=error)
    if checked.state is TaskState.FAILED and not checked.code:
        error = f"{before}; the turn that was to set it right failed: {checked.error}"
        return replace(checked, code=AnswerInvalid.code, error=error)
    return checked


def _without_turn(checked: Outcome, exit_: Exit) -> Outcome:
    turn = exit_.turn
    if checked.code != AnswerInvalid.code or turn is None:
        return checked
    return replace(checked, error=f"{checked.error}; its agent was not asked again: {turn.again}")


async def _way_on(
    parts: Parts, record: TaskRecord, spool: Spool, first: Outcome, checked: Outcome
) -> tuple[str, str]:
    """Return the session in which the agent goes on; empty = it does not, and why."""
    if checked.answer:
        return "", _FITS
    if checked.code != AnswerInvalid.code:
        return "", _OWN_FAILURE
    if (reached := spool.reached) is not None:
        return "", reached.words
    session = await followup.session_of(parts, record, first.session)
    return session, "" if session else _NO_SESSION


def _prompt(reason: str, schema: str) -> str:
    return (
        f"Your answer was not taken, because {reason}. Set it right: change nothing else, and"
        f" answer what you were asked before. {ANSWER_BY}\n{schema}"
    )
