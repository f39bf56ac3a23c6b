"""How much may come how fast, with a time that a test chooses."""

from hypothesis import given
from hypothesis import strategies as st

from cmesh.rate import Bucket, Meter


def meter(per_minute: int = 60, bytes_per_minute: int = 6_000) -> Meter:
    return Meter(per_minute=per_minute, bytes_per_minute=bytes_per_minute, now=0)


@given(st.lists(st.floats(0, 5), max_size=50))
def test_no_more_is_given_than_the_burst_and_what_the_time_has_brought(pauses: list[float]) -> None:
    bucket, now, given_out = Bucket(per_s=2, burst=3, now=0), 0.0, 0
    for pause in pauses:
        now += pause
        given_out += bucket.take(1, now)
    assert given_out <= 3 + 2 * now + 1e-6


def test_a_refused_request_takes_nothing() -> None:
    bucket = Bucket(per_s=1, burst=2, now=0)
    assert not bucket.take(3, 0) or bucket.wait_s(1, 0) > 0
    other = Bucket(per_s=1, burst=2, now=0)
    assert other.take(1, 0)
    assert not other.take(2, 0)
    assert other.take(1, 0)


def test_a_debt_is_paid_by_time_alone() -> None:
    bucket = Bucket(per_s=2, burst=1, now=0)
    assert bucket.spend(1, 0) == 0
    assert bucket.spend(4, 0) == 2
    assert bucket.spend(0, 2) == 0


def test_a_clock_that_went_back_gives_and_takes_nothing() -> None:
    bucket = Bucket(per_s=1, burst=1, now=100)
    assert bucket.take(1, 100)
    assert not bucket.take(1, 0)
    assert bucket.take(1, 1)


def test_who_goes_beyond_the_rate_is_told_when_to_come_back_one_after_another() -> None:
    asked = meter()
    assert [asked.charge(1, 0) for _ in range(60)] == [0] * 60
    assert [asked.charge(1, 0) for _ in range(3)] == [1, 2, 3]
    assert asked.over == 3
    assert asked.charge(1, 1) == 0


def test_who_waits_as_told_is_not_counted_as_flooding() -> None:
    asked = meter()
    for _ in range(70):
        asked.charge(1, 0)
    asked.charge(1, 60)
    assert asked.over == 0


def test_bytes_are_counted_beside_requests() -> None:
    asked = meter()
    assert asked.charge(6_000, 0) == 0
    assert asked.charge(100, 0) == 1
    assert asked.charge(100, 1) == 0


def test_a_fine_comes_out_of_later_requests() -> None:
    asked = meter()
    asked.fine(59, 0)
    assert asked.charge(1, 0) == 0
    assert asked.charge(1, 0) == 1


def test_an_unused_meter_may_be_thrown_away() -> None:
    asked = meter()
    asked.charge(1, 0)
    assert not asked.idle(0)
    assert asked.idle(60)
