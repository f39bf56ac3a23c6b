"""Single rows and the shape of the tables; whole lives are in tests/contract."""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import pytest

from cmesh.errors import LinkError, LocalProtocolError, RemoteProtocolError
from cmesh.model import TaskState
from cmesh.protocol import facts as f
from cmesh.protocol import happenings as h
from cmesh.protocol.facts import CallerFacts, WorkerFacts
from cmesh.protocol.guards import CALLER_GUARDS, WORKER_GUARDS
from cmesh.protocol.happenings import Looked
from cmesh.protocol.state import (
    CALLER,
    WORKER,
    Act,
    Row,
    Send,
    Step,
    Write,
    caller,
    mcp_state,
    public,
    render_table,
    worker,
)

E = TypeVar("E")
F = TypeVar("F", CallerFacts, WorkerFacts)

CALLER_STATES = (None, f.QUEUED, f.SENT, f.ACCEPTED, f.UNKNOWN, *f.TERMINALS)
WORKER_STATES = (None, f.ACCEPTED, f.WAITING, f.INTENT, f.RUNNING, *f.TERMINALS)
BOTH = (False, True)

CALLER_EVENTS: tuple[h.CallerEvent, ...] = (
    h.Delegated(),
    h.LinkUp(),
    h.UserCancels(),
    h.Expired(),
    h.Connected(),
    h.GotAccepted(),
    h.GotDenied("policy_denied", "no rule"),
    *(h.GotEvent(n) for n in (1, 2, 3, 4)),
    *(h.GotGap(n) for n in (1, 2, 3)),
    h.GotForgotten(),
    h.GotStillWanted(),
    *(h.GotResult(state, n) for state in (*f.TERMINALS, "accepted") for n in (0, 1, 2, 3)),
    h.GotWelcome(),
)

LOOKS: tuple[Looked, ...] = tuple(
    Looked(
        claim=claim,
        agent=agent,
        owner_alive=owner,
        child=child,
        result=result,
        stored=stored,
        processes=processes,
        directory=directory,
    )
    for claim in ("none", "shim", "burnt")
    for result in (None, "succeeded", "cancelled")
    for processes in (0, 2)
    for agent, owner, child, stored, directory in itertools.product(BOTH, repeat=5)
)

WORKER_EVENTS: tuple[h.WorkerEvent, ...] = (
    *(
        h.GotSubmit(decision, waited=waited)
        for decision in ("allow", "ask", "deny")
        for waited in BOTH
    ),
    h.GotCancel("user"),
    h.GotCancel("expired"),
    h.Approved(),
    h.Refused(),
    h.Expired(),
    h.Connected(),
    h.Restarted(),
    h.StoreRestored(),
    h.GotWanted(),
    h.Slot(),
    *(h.GotSubscribe(n) for n in (0, 2, 3)),
    h.Flow(),
    h.GotResultAck(),
)


def caller_facts() -> Iterator[CallerFacts]:
    for state, wish in itertools.product(CALLER_STATES, ("", "user", "expired")):
        for evidence, connected, other in itertools.product(BOTH, repeat=3):
            yield CallerFacts(
                state=state,
                wish=wish,
                last_seq=2,
                evidence=evidence,
                connected=connected,
                other_store=other,
            )


def worker_facts() -> Iterator[WorkerFacts]:
    for state, cursor, pruned in itertools.product(WORKER_STATES, (None, 0, 1, 2), (0, 1, 2)):
        for wish, late, acknowledged, same, wanted, asked in itertools.product(BOTH, repeat=6):
            yield WorkerFacts(
                state=state,
                cancel_wish=wish,
                late=late,
                acknowledged=acknowledged,
                last_seq=2,
                pruned_through=pruned,
                same_hash=same,
                wanted=wanted,
                ending=asked,
                asked=asked,
                cursor=cursor,
                told=wanted,
            )


@pytest.fixture(scope="module")
def caller_steps() -> list[tuple[h.CallerEvent, CallerFacts, Step]]:
    return list(_all_steps(CALLER_EVENTS, list(caller_facts()), caller))


@pytest.fixture(scope="module")
def worker_steps() -> list[tuple[h.WorkerEvent, WorkerFacts, Step]]:
    plain = list(_all_steps(WORKER_EVENTS, list(worker_facts()), worker))
    looking = [
        WorkerFacts(
            state=state,
            cancel_wish=wish,
            ending=ending,
            acknowledged=acknowledged,
            restored=restored,
        )
        for state in WORKER_STATES
        for wish, ending, acknowledged, restored in itertools.product(BOTH, repeat=4)
    ]
    return plain + list(_all_steps(LOOKS, looking, worker))


def _all_steps(
    events: tuple[E, ...], facts: list[F], ask: Callable[[E, F], Step]
) -> Iterator[tuple[E, F, Step]]:
    for event, known in itertools.product(events, facts):
        try:
            yield event, known, ask(event, known)
        except LinkError:
            continue


# -- the shape of the tables ------------------------------------------------------------------


def test_every_row_of_the_model_is_there_and_nothing_else() -> None:
    assert sorted({row.id for row in CALLER}, key=_order) == [f"C{n}" for n in range(1, 25)]
    assert sorted({row.id for row in WORKER}, key=_order) == [f"W{n}" for n in range(1, 31)]
    assert {row.side for row in CALLER} == {"caller"}
    assert {row.side for row in WORKER} == {"worker"}


def test_every_guard_is_defined_and_used() -> None:
    assert {name for row in CALLER for name in row.guard} == set(CALLER_GUARDS)
    assert {name for row in WORKER for name in row.guard} == set(WORKER_GUARDS)


def test_no_guard_raises_or_takes_a_number_from_an_event_without_one() -> None:
    about_caller = {n: g(object(), CallerFacts(state=None)) for n, g in CALLER_GUARDS.items()}
    about_worker = {n: g(object(), WorkerFacts(state=None)) for n, g in WORKER_GUARDS.items()}
    numeric = {name for name in (*about_caller, *about_worker) if name.startswith("n ")}
    assert len(numeric) == 8
    assert not any((about_caller | about_worker)[name] for name in numeric)


def test_every_row_is_reached(
    caller_steps: list[tuple[object, object, Step]], worker_steps: list[tuple[object, object, Step]]
) -> None:
    assert {step.row for *_, step in caller_steps} == {row.id for row in CALLER}
    assert {step.row for *_, step in worker_steps} == {row.id for row in WORKER}


def test_rows_exclude_each_other_so_that_order_decides_nothing_but_looks() -> None:
    for event, known in itertools.product(CALLER_EVENTS, caller_facts()):
        fits = [r for r in CALLER if _fits(r, event, known, CALLER_GUARDS)]
        assert len(fits) <= 1, (event, known, fits)
    for event, known in itertools.product(WORKER_EVENTS, worker_facts()):
        fits = [
            r for r in WORKER if _fits(r, event, known, WORKER_GUARDS) and r.guard != ("otherwise",)
        ]
        assert len(fits) <= 1, (event, known, fits)


def test_no_step_leaves_a_terminal_state(
    caller_steps: list[tuple[object, CallerFacts, Step]],
    worker_steps: list[tuple[object, WorkerFacts, Step]],
) -> None:
    for _, known, step in (*caller_steps, *worker_steps):
        if known.state in f.TERMINALS:
            assert step.next == known.state
            assert all(write.kind != "state" for write in step.writes)


def test_every_change_of_state_is_written_and_nothing_else_is(
    caller_steps: list[tuple[object, CallerFacts, Step]],
    worker_steps: list[tuple[object, WorkerFacts, Step]],
) -> None:
    for _, known, step in (*caller_steps, *worker_steps):
        states = [write.name for write in step.writes if write.kind == "state"]
        assert states == ([step.next] if step.next != (known.state or "") else [])


def test_a_worker_never_ends_a_task_without_a_result(
    worker_steps: list[tuple[object, WorkerFacts, Step]],
) -> None:
    for _, known, step in worker_steps:
        ends = step.next in f.TERMINALS and known.state not in f.TERMINALS
        assert (Write("result") in step.writes) is ends


def test_a_shim_is_spawned_only_with_an_intent_on_file(
    worker_steps: list[tuple[object, WorkerFacts, Step]],
) -> None:
    for _, known, step in worker_steps:
        if Act.SPAWN in step.acts:
            assert known.state == f.INTENT
            assert not known.cancel_wish


def test_what_no_row_takes_is_the_fault_of_whoever_sent_it() -> None:
    with pytest.raises(RemoteProtocolError, match=r"`event\(n\)`.*state `accepted`"):
        caller(h.GotEvent(4), CallerFacts(state=f.ACCEPTED, last_seq=2))
    with pytest.raises(RemoteProtocolError, match="state `none`"):
        worker(h.GotResultAck(), WorkerFacts(state=None))
    with pytest.raises(LocalProtocolError, match="`delegate`"):
        caller(h.Delegated(), CallerFacts(state=f.SENT))
    with pytest.raises(LocalProtocolError, match="`approved`"):
        worker(h.Approved(), WorkerFacts(state=f.RUNNING))


# -- the caller ---------------------------------------------------------------------------------


def test_a_task_is_marked_sent_before_it_is_sent() -> None:
    assert caller(h.LinkUp(), CallerFacts(state=f.QUEUED, connected=True)) == Step(
        row="C2",
        next=f.SENT,
        writes=(Write("state", "sent"),),
        sends=(Send.SUBMIT, Send.SUBSCRIBE),
    )


@pytest.mark.parametrize(
    ("event", "end"), [(h.UserCancels(), "cancelled"), (h.Expired(), "expired")]
)
def test_a_caller_decides_alone_only_what_was_never_sent(
    event: h.UserCancels | h.Expired, end: str
) -> None:
    assert caller(event, CallerFacts(state=f.QUEUED)).next == end
    for state in f.OPEN:
        step = caller(event, CallerFacts(state=state, connected=True))
        assert step.next == state
        assert [write.kind for write in step.writes] == ["fact"]


def test_a_wish_is_written_offline_and_sent_at_the_next_connection() -> None:
    offline = caller(h.UserCancels(), CallerFacts(state=f.SENT))
    assert (offline.writes, offline.sends) == ((Write("fact", "cancel_wish"),), ())
    step = caller(h.Connected(), CallerFacts(state=f.SENT, wish="user", connected=True))
    assert step.sends == (Send.CANCEL_USER, Send.SUBSCRIBE)
    step = caller(h.Connected(), CallerFacts(state=f.SENT, wish="expired", connected=True))
    assert step.sends == (Send.CANCEL_EXPIRED, Send.SUBSCRIBE)


def test_a_users_cancel_outranks_an_expiry_but_not_the_other_way_round() -> None:
    step = caller(h.UserCancels(), CallerFacts(state=f.SENT, wish="expired", connected=True))
    assert (step.row, step.sends) == ("C8", (Send.CANCEL_USER,))
    step = caller(h.Expired(), CallerFacts(state=f.SENT, wish="user", connected=True))
    assert (step.row, step.writes, step.sends) == ("C9", (), ())
    assert caller(h.UserCancels(), CallerFacts(state=f.SENT, wish="user")).writes == ()


def test_nothing_is_sent_to_another_store_than_the_task_was_sent_to() -> None:
    known = CallerFacts(state=f.SENT, connected=True, other_store=True)
    assert caller(h.Connected(), known).sends == ()
    assert caller(h.UserCancels(), known).sends == ()
    assert public("caller", f.SENT, known) is TaskState.UNKNOWN


def test_a_task_that_its_worker_has_forgotten_is_unknown_and_only_followed() -> None:
    assert caller(h.GotForgotten(), CallerFacts(state=f.ACCEPTED, last_seq=2)).next == f.UNKNOWN
    for state in (f.QUEUED, f.SENT, "succeeded"):  # what it never took it cannot forget
        assert caller(h.GotForgotten(), CallerFacts(state=state)).next == state
    known = CallerFacts(state=f.UNKNOWN, last_seq=2, wish="user", connected=True)
    assert caller(h.Connected(), known).sends == (Send.SUBSCRIBE,)
    for event in (h.GotStillWanted(), h.GotWelcome(), h.GotDenied(), h.UserCancels()):
        step = caller(event, known)
        assert (step.next, step.writes, step.sends) == (f.UNKNOWN, (), ())
    wish = caller(h.UserCancels(), CallerFacts(state=f.UNKNOWN, connected=True))
    assert (wish.writes, wish.sends) == ((Write("fact", "cancel_wish"),), ())


def test_a_forgotten_task_is_taken_up_where_its_worker_shows_more_of_it() -> None:
    known = CallerFacts(state=f.UNKNOWN, last_seq=2, connected=True)
    step = caller(h.GotEvent(3), known)
    assert (step.next, step.sends) == (f.ACCEPTED, ())
    wished = CallerFacts(state=f.UNKNOWN, last_seq=2, wish="user", connected=True)
    assert caller(h.GotEvent(3), wished).sends == (Send.CANCEL_USER,)
    assert caller(h.GotResult("failed", 2), known).next == "failed"
    # Without an event it was not even known there: such an end is of a tombstone.
    nothing = CallerFacts(state=f.UNKNOWN, connected=True)
    step = caller(h.GotResult("cancelled", 0), nothing)
    assert (step.next, step.writes, step.sends) == (f.UNKNOWN, (), ())


def test_a_result_is_taken_only_after_the_last_event() -> None:
    known = CallerFacts(state=f.ACCEPTED, last_seq=2)
    step = caller(h.GotResult("timed_out", 2), known)
    assert step == Step(
        row="C17",
        next="timed_out",
        writes=(Write("state", "timed_out"), Write("result")),
        sends=(Send.RESULT_ACK,),
    )
    for wrong in (h.GotResult("succeeded", 3), h.GotResult("running", 2)):
        with pytest.raises(RemoteProtocolError):
            caller(wrong, known)


def test_another_end_than_ones_own_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        caller(h.GotResult("failed", 2), CallerFacts(state="succeeded", last_seq=2))


def test_a_denied_task_still_takes_its_events_and_its_signed_result() -> None:
    known = CallerFacts(state="denied", last_seq=0)
    assert caller(h.GotEvent(1), known).writes == (Write("event"),)
    assert caller(h.GotWelcome(), known).sends == (Send.SUBSCRIBE,)
    step = caller(h.GotResult("denied", 0), known)
    assert (step.writes, step.sends) == ((Write("result"),), (Send.RESULT_ACK,))
    with pytest.raises(RemoteProtocolError):
        caller(h.GotEvent(1), CallerFacts(state="denied", last_seq=0, evidence=True))


# -- the worker ---------------------------------------------------------------------------------


def test_another_payload_under_a_known_id_is_a_conflict_and_changes_nothing() -> None:
    for state in WORKER_STATES[1:]:
        step = worker(h.GotSubmit("allow"), WorkerFacts(state=state, same_hash=False))
        assert step == Step(row="W4", next=str(state), sends=(Send.CONFLICT,))


def test_a_repeated_submit_gets_the_answer_that_is_on_file_whatever_policy_says_now() -> None:
    for decision in ("allow", "ask", "deny"):
        event = h.GotSubmit(decision)
        assert worker(event, WorkerFacts(state="denied")).sends == (Send.DENIED,)
        assert worker(event, WorkerFacts(state="cancelled")).sends == (Send.ACCEPTED,)
        assert worker(event, WorkerFacts(state=f.RUNNING)).writes == ()


def test_a_cancel_of_an_unknown_id_leaves_a_tombstone() -> None:
    step = worker(h.GotCancel("user"), WorkerFacts(state=None))
    assert step.next == "cancelled"
    assert step.writes == (Write("task"), Write("state", "cancelled"), Write("result"))
    late = worker(h.GotSubmit("allow"), WorkerFacts(state="cancelled"))
    assert (late.next, late.writes) == ("cancelled", ())


def test_an_expiry_does_not_end_what_has_started() -> None:
    for state in f.STARTED:
        for event in (h.GotCancel("expired"), h.Expired()):
            step = worker(event, WorkerFacts(state=state))
            assert (step.next, step.writes, step.acts) == (state, (), ())


def test_a_late_task_starts_only_after_a_yes_in_this_life() -> None:
    late = WorkerFacts(state=f.ACCEPTED, late=True)
    assert worker(h.Connected(), late).sends == (Send.STILL_WANTED,)
    assert worker(h.Slot(), late).next == f.ACCEPTED
    yes = WorkerFacts(state=f.ACCEPTED, late=True, wanted=True)
    assert worker(h.Slot(), yes).next == f.INTENT
    assert worker(h.Restarted(), WorkerFacts(state=f.ACCEPTED)).writes == (Write("fact", "late"),)


@pytest.mark.parametrize(
    ("look", "wish", "row", "end"),
    [
        (Looked(), False, "W14", f.INTENT),
        (Looked(child=True), False, "W28", f.INTENT),
        (Looked(), True, "W16", f.INTENT),
        (Looked(claim="burnt"), True, "W17", "cancelled"),
        (Looked(claim="shim", owner_alive=True), False, "W28", f.INTENT),
        (Looked(claim="shim", owner_alive=True), True, "W18", f.INTENT),
        (Looked(claim="shim", agent=True, owner_alive=True), False, "W15", f.RUNNING),
        (Looked(claim="shim", stored=False, result="succeeded"), False, "W19", f.INTENT),
        (Looked(claim="shim", result="succeeded"), True, "W20", "succeeded"),
        (Looked(claim="shim", result="timed_out"), False, "W20", "timed_out"),
        (Looked(claim="shim", processes=1), True, "W28", f.INTENT),
        (Looked(claim="shim"), True, "W21", "cancelled"),
        (Looked(claim="shim"), False, "W21", "interrupted"),
    ],
)
def test_what_a_look_concludes(look: Looked, wish: bool, row: str, end: str) -> None:
    step = worker(look, WorkerFacts(state=f.INTENT, cancel_wish=wish))
    assert (step.row, step.next) == (row, end)


def test_a_running_task_whose_directory_is_gone_is_interrupted_not_forgotten() -> None:
    step = worker(Looked(claim="none"), WorkerFacts(state=f.RUNNING))
    assert (step.row, step.next) == ("W21", "interrupted")


def test_an_owner_is_told_to_end_once_a_life() -> None:
    look = Looked(claim="shim", owner_alive=True)
    known = WorkerFacts(state=f.RUNNING, cancel_wish=True)
    assert worker(look, known).acts == (Act.END,)
    told = WorkerFacts(state=f.RUNNING, cancel_wish=True, ending=True)
    assert worker(look, told).acts == ()


@pytest.mark.parametrize(
    ("cursor", "pruned", "told", "sends"),
    [
        (None, 0, False, ()),
        (0, 0, False, (Send.EVENT,)),
        (0, 1, False, (Send.GAP,)),
        (1, 1, False, (Send.EVENT,)),
        (2, 2, False, (Send.END, Send.RESULT)),
        (2, 0, True, ()),
    ],
)
def test_a_subscription_sends_events_then_the_result_once(
    cursor: int | None, pruned: int, told: bool, sends: tuple[Send, ...]
) -> None:
    known = WorkerFacts(
        state="succeeded", last_seq=2, cursor=cursor, pruned_through=pruned, told=told
    )
    assert worker(h.Flow(), known).sends == sends


def test_a_directory_goes_only_after_the_receipt() -> None:
    assert worker(Looked(), WorkerFacts(state="failed")).acts == ()
    known = WorkerFacts(state="failed", acknowledged=True)
    assert worker(Looked(), known).acts == (Act.DISCARD,)
    assert worker(Looked(directory=False), known).acts == ()


def test_an_unknown_task_cannot_be_followed() -> None:
    assert worker(h.GotSubscribe(0), WorkerFacts(state=None)) == Step(
        row="W22", next="", sends=(Send.UNKNOWN,)
    )


def test_a_number_from_the_future_says_that_this_store_is_short_of_events() -> None:
    for state in WORKER_STATES[1:]:
        assert worker(h.GotSubscribe(3), WorkerFacts(state=state, last_seq=2)) == Step(
            row="W22", next=str(state), sends=(Send.FORGOTTEN,)
        )


# -- what people see ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        (CallerFacts(state=f.QUEUED), "submitting"),
        (CallerFacts(state=f.SENT), "submitting"),
        (CallerFacts(state=f.SENT, progress="running"), "submitting"),
        (CallerFacts(state=f.ACCEPTED), "queued"),
        (CallerFacts(state=f.ACCEPTED, progress="running"), "running"),
        (CallerFacts(state=f.ACCEPTED, progress="waiting_approval"), "waiting_approval"),
        (CallerFacts(state=f.ACCEPTED, progress="succeeded"), "queued"),
        (CallerFacts(state=f.ACCEPTED, wish="user", progress="running"), "cancelling"),
        (CallerFacts(state=f.ACCEPTED, wish="expired"), "queued"),
        (CallerFacts(state=f.ACCEPTED, wish="user", other_store=True), "unknown"),
        (CallerFacts(state="denied", wish="user", other_store=True), "denied"),
        (CallerFacts(state=f.UNKNOWN, wish="user", progress="running"), "unknown"),
    ],
)
def test_what_a_callers_task_is_shown_as(known: CallerFacts, shown: str) -> None:
    assert public("caller", str(known.state), known) == shown


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        (WorkerFacts(state=f.ACCEPTED), "queued"),
        (WorkerFacts(state=f.WAITING), "waiting_approval"),
        (WorkerFacts(state=f.INTENT), "queued"),
        (WorkerFacts(state=f.RUNNING), "running"),
        (WorkerFacts(state=f.INTENT, cancel_wish=True), "cancelling"),
        (WorkerFacts(state="interrupted", cancel_wish=True), "interrupted"),
    ],
)
def test_what_a_workers_task_is_shown_as(known: WorkerFacts, shown: str) -> None:
    assert public("worker", str(known.state), known) == shown


def test_every_state_has_its_mcp_state() -> None:
    by_mcp: dict[str, set[str]] = defaultdict(set)
    for state in TaskState:
        by_mcp[mcp_state(state)].add(state.value)
    assert by_mcp == {
        "working": {"submitting", "queued", "running", "cancelling", "unknown"},
        "input_required": {"waiting_approval", "waiting_input"},
        "completed": {"succeeded"},
        "cancelled": {"cancelled"},
        "failed": {"failed", "timed_out", "interrupted", "denied", "expired"},
    }


def test_the_drawing_has_a_line_for_each_row() -> None:
    lines = render_table().splitlines()
    ids = [line.split("|")[1].strip() for line in lines if re.match(r"\| [CW]\d", line)]
    assert ids == [row.id for row in (*CALLER, *WORKER)]
    assert "| C2 | queued | link up | - | state | submit, subscribe | sent |" in lines
    assert {line.count("|") for line in lines if line.startswith("|")} == {8}


def _order(row_id: str) -> int:
    return int(row_id[1:])


def _fits(
    row: Row, event: object, known: F, guards: Mapping[str, Callable[[object, F], bool]]
) -> bool:
    return (
        known.state in row.states
        and row.event is type(event)
        and all(guards[name](event, known) for name in row.guard)
    )
