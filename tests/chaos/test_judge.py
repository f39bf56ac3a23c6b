"""The judge of the chaos suite, judged: forged ledgers, and each fault must be found."""

import json

import pytest

from tests.chaos.judge import Asked, Entry, Row, Verdict, judge, read_ledger

TASK, KEY = "01890a5d-ac96-774b-bcce-b302099a8057", "round-1"
HERE = ("queued", "sent", "accepted", "succeeded")
THERE = ("accepted", "intent", "running", "succeeded")
ENDS = {"start": Entry(what="start", task=TASK, key=KEY, nonce="a")}
LEDGER = [ENDS["start"], Entry(what="finish", task=TASK, key=KEY, nonce="a")]


def asked(**more: object) -> Asked:
    fields: dict[str, object] = {"key": KEY, "task_ids": {TASK}, "told": ["queued", "succeeded"]}
    return Asked(**(fields | more))  # pyright: ignore[reportArgumentType] - fields vary by test


def row(state: str = "succeeded", **more: object) -> Row:
    fields: dict[str, object] = {"state": state, "exit_code": 0, "reached": ()}
    return Row(**(fields | more))  # pyright: ignore[reportArgumentType] - fields vary by test


def of(
    one: Asked | None = None,
    ledger: list[Entry] | None = None,
    here: Row | None = None,
    there: Row | None = None,
    processes: tuple[str, ...] = (),
) -> Verdict:
    """Judge one task that went well, but for what is given."""
    return judge(
        [one or asked()],
        LEDGER if ledger is None else ledger,
        {TASK: here or row(reached=HERE)},
        {TASK: there or row(reached=THERE)},
        processes,
    )


def only(verdict: Verdict, kind: str) -> str:
    """Return the fault; there must be one, of this kind."""
    [fault] = verdict.faults
    assert fault.startswith(kind)
    return fault


def test_a_task_that_went_well_has_no_fault() -> None:
    verdict = of()
    assert verdict.faults == []
    assert verdict.states == {"succeeded": 1}


def test_an_acknowledged_task_without_a_row_at_the_caller_is_lost() -> None:
    verdict = judge([asked()], [], {}, {})
    assert "no row" in only(verdict, "lost")


def test_an_acknowledged_task_without_a_row_at_the_worker_is_lost() -> None:
    verdict = judge([asked()], LEDGER, {TASK: row(reached=HERE)}, {})
    assert any("worker has no row" in text for text in verdict.lost)
    assert any("worker does not know it" in text for text in verdict.wrong_state)


def test_a_task_that_was_never_sent_may_end_without_the_worker() -> None:
    here = row("cancelled", exit_code=None, reached=("queued", "cancelled"), receipt="none")
    one = asked(told=["submitting", "cancelled"], cancelled=True)
    assert judge([one], [], {TASK: here}, {}).faults == []


@pytest.mark.parametrize("side", ["here", "there"])
def test_a_task_that_never_ends_is_lost(side: str) -> None:
    verdict = of(asked(told=["queued"]), **{side: row("running", exit_code=None)})  # pyright: ignore[reportArgumentType]
    assert any(fault.startswith("lost") for fault in verdict.faults)


def test_a_task_that_a_caller_called_forgotten_is_wrong() -> None:
    verdict = of(here=row(reached=("queued", "sent", "accepted", "unknown", "succeeded")))
    assert "forgotten" in only(verdict, "wrong_state")


def test_an_interruption_without_a_cause_is_lost() -> None:
    ended = row("interrupted", exit_code=None)
    verdict = of(asked(told=["interrupted"], excused=True), [ENDS["start"]], ended, ended)
    assert [fault.partition(":")[0] for fault in verdict.faults] == ["lost", "lost"]


def test_two_starts_of_a_task_are_doubled() -> None:
    again = Entry(what="start", task=TASK, key=KEY, nonce="b")
    verdict = of(ledger=[*LEDGER, again])
    assert len(verdict.doubled) == 2  # of the task, and of the key
    assert len(verdict.faults) == 2


def test_two_tasks_for_one_key_that_both_start_are_doubled() -> None:
    other = "01890a5d-ac96-774b-bcce-b302099a8058"
    ledger = [*LEDGER, *(Entry(what=e.what, task=other, key=KEY, nonce="b") for e in LEDGER)]
    rows = {TASK: row(), other: row()}
    verdict = judge([asked(task_ids={TASK, other})], ledger, rows, rows)
    assert any("2 tasks" in text for text in verdict.doubled)
    assert any("key" in text and "started 2" in text for text in verdict.doubled)


def test_a_success_the_program_knows_nothing_of_is_wrong() -> None:
    assert "ledger has exits" in only(of(ledger=[ENDS["start"]]), "wrong_state")


def test_another_exit_than_the_programs_is_wrong() -> None:
    ended = row("failed", exit_code=1)
    finish = Entry(what="finish", task=TASK, key=KEY, nonce="a", exit=3)
    verdict = of(asked(told=["failed"]), [ENDS["start"], finish], ended, ended)
    assert "ledger has exit 3" in only(verdict, "wrong_state")


def test_a_failure_nobody_caused_is_wrong() -> None:
    ended = row("failed", exit_code=-9)
    assert "no finish" in only(
        of(asked(told=["failed"]), [ENDS["start"]], ended, ended), "wrong_state"
    )
    touched = asked(told=["failed"], touched=True)
    assert of(touched, [ENDS["start"]], ended, ended).faults == []


def test_two_sides_that_tell_differently_are_wrong() -> None:
    verdict = of(there=row("failed", exit_code=0, reached=()))
    assert any("caller succeeded/0/, worker failed/0/" in text for text in verdict.wrong_state)


def test_an_end_without_both_receipts_is_wrong() -> None:
    assert "receipts" in only(of(there=row(receipt="pending", reached=THERE)), "wrong_state")


def test_an_interruption_by_a_daemons_death_is_wrong() -> None:
    ended = row("interrupted", exit_code=None, reason="its shim ended")
    one = asked(told=["interrupted"])
    assert "shim was not killed" in only(of(one, [ENDS["start"]], ended, ended), "wrong_state")
    one.excused = True
    verdict = of(one, [ENDS["start"]], ended, ended)
    assert (verdict.faults, verdict.interrupted) == ([], 1)


def test_a_cancel_nobody_asked_for_is_wrong() -> None:
    ended = row("cancelled", exit_code=None)
    assert "nobody asked" in only(of(asked(told=["cancelled"]), [], ended, ended), "wrong_state")


def test_a_task_whose_time_was_over_is_cancelled_by_its_worker_only_before_a_start() -> None:
    ended = row("cancelled", exit_code=None, code="expired")
    assert of(asked(told=["cancelled"]), [], ended, ended).faults == []
    verdict = of(asked(told=["cancelled"]), [ENDS["start"]], ended, ended)
    assert "nobody asked" in only(verdict, "wrong_state")


def test_never_started_is_wrong_when_the_program_ran() -> None:
    witness = "the worker committed it before anything was started"
    ended = row("cancelled", exit_code=None, witness=witness)
    verdict = of(asked(told=["cancelled"], cancelled=True), [ENDS["start"]], ended, ended)
    assert "ledger has a start" in only(verdict, "wrong_state")


@pytest.mark.parametrize("state", ["denied", "expired"])
def test_a_refused_task_that_ran_is_wrong(state: str) -> None:
    ended = row(state, exit_code=None)
    verdict = of(asked(told=[state]), [ENDS["start"]], ended, ended)
    assert "ledger has a start" in only(verdict, "wrong_state")


@pytest.mark.parametrize(
    "told", [["running", "queued", "succeeded"], ["succeeded", "running", "succeeded"]]
)
def test_a_state_told_that_goes_back_is_wrong(told: list[str]) -> None:
    assert all("as told" in text for text in of(asked(told=told)).wrong_state)
    assert of(asked(told=told)).wrong_state


def test_a_log_that_goes_back_is_wrong() -> None:
    back = row(reached=("accepted", "intent", "running", "intent", "succeeded"))
    assert "worker's log" in only(of(there=back), "wrong_state")
    twice = row(reached=(*THERE, "failed"))
    assert "failed after succeeded" in only(of(there=twice), "wrong_state")


def test_an_answer_that_did_not_hold_is_wrong() -> None:
    verdict = of(asked(told=["failed"]))
    assert "told failed, is succeeded" in only(verdict, "wrong_state")


def test_a_run_that_no_store_knows_is_wrong() -> None:
    stray = Entry(what="start", task="stray", key="stray", nonce="c")
    verdict = of(ledger=[*LEDGER, stray])
    assert len(verdict.wrong_state) == 2
    assert all("stray ran" in text for text in verdict.wrong_state)


def test_a_process_that_is_left_is_an_orphan() -> None:
    assert only(of(processes=("pid 7 of task 1",)), "orphan") == "orphan: pid 7 of task 1"


def test_a_torn_line_of_the_ledger_is_no_entry() -> None:
    line = json.dumps({"what": "start", "task": TASK, "key": KEY, "nonce": "a", "exit": 0})
    assert read_ledger(f"{line}\n{line[:20]}") == [ENDS["start"]]
