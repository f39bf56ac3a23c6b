"""How long a pairing lasts, who may try how often, and how it ends."""

import pytest

from cmesh.daemon.pair_attempt import ATTEMPT_S, LOCKED_S, PROOFS_MOST, TRIES, Attempt, Locks
from cmesh.model import NodeId

PEER = NodeId("nPEER")
KEY, OTHER = "k" * 43, "o" * 43


def attempt(began: float = 0.0) -> Attempt:
    return Attempt(peer_id=PEER, peer="box", user="", owner=1, began=began)


def test_a_code_that_is_shown_may_be_tried_by_whoever_has_proved_a_key() -> None:
    one = attempt()
    assert not one.takes(KEY, 0)
    one.show("123456")
    assert one.takes(KEY, 0)
    assert one.takes(OTHER, 0)


def test_three_wrong_codes_end_it() -> None:
    one = attempt()
    one.show("123456")
    for left in (2, 1, 0):
        assert one.takes(KEY, 0)
        one.wrong()
        assert one.tries == left
    assert (one.phase, one.why, one.code) == ("ended", "wrong_codes", "")
    assert not one.takes(KEY, 0)


@pytest.mark.parametrize("phase", ["looking", "showing", "typing"])
def test_it_expires_in_every_phase_but_once_confirmed(phase: str) -> None:
    one = attempt(began=5)
    if phase == "showing":
        one.show("123456")
    elif phase == "typing":
        one.type()
    assert one.look(4 + ATTEMPT_S) == phase
    assert one.look(5 + ATTEMPT_S) == "ended"
    assert one.why == "expired"
    kept = attempt()
    kept.confirm(KEY)
    assert kept.look(ATTEMPT_S * 2) == "confirmed"


def test_a_code_is_spent_for_all_but_the_key_it_has_confirmed() -> None:
    one = attempt()
    one.show("123456")
    one.confirm(KEY)
    assert one.takes(KEY, 0)
    assert not one.takes(OTHER, 0)
    assert not one.takes(KEY, ATTEMPT_S)
    one.wrong()
    assert not one.takes(KEY, 0)
    assert one.phase == "confirmed"


def test_the_typing_side_proves_a_code_only_so_often_whatever_it_is_told() -> None:
    one = attempt()
    one.type()
    assert [one.may_prove(0) for _ in range(PROOFS_MOST + 1)] == [True] * PROOFS_MOST + [False]
    assert (one.phase, one.why) == ("ended", "wrong_codes")
    assert PROOFS_MOST >= TRIES


def test_an_end_stands() -> None:
    one = attempt()
    one.end("stopped")
    one.show("123456")
    one.type()
    one.end("expired")
    assert (one.phase, one.why, one.code) == ("ended", "stopped", "")
    kept = attempt()
    kept.confirm(KEY)
    kept.end("stopped")
    assert kept.phase == "confirmed"


def test_a_code_that_is_shown_stays_until_it_is_to_be_typed_here() -> None:
    one = attempt()
    one.show("123456")
    one.show("654321")
    assert one.code == "123456"
    one.type()
    assert (one.phase, one.code) == ("typing", "")


def test_a_lock_ends_by_itself() -> None:
    locks = Locks()
    assert locks.left_s(PEER, 0) == 0
    locks.add(PEER, 10)
    assert locks.left_s(PEER, 10) == LOCKED_S
    assert locks.left_s(NodeId("nOTHER"), 10) == 0
    assert locks.left_s(PEER, 10 + LOCKED_S) == 0
