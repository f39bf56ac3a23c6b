"""Whose turn it is, and who is due."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cmesh.daemon.deadlines import SLACK, Deadlines
from cmesh.daemon.places import Places, Room
from cmesh.model import NodeId, TaskId

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
A, B, C = NodeId("nA"), NodeId("nB"), NodeId("nC")
NONE = Room(total=0, per_peer=1)


def room(total: int, per_peer: int = 64) -> Room:
    return Room(total=total, per_peer=per_peer)


def waiting(*queues: tuple[NodeId, int]) -> Places:
    """Return places that nobody has, with so many tasks of each peer waiting."""
    places = Places()
    for peer_id, count in queues:
        for number in range(count):
            assert not places.take(TaskId(f"{peer_id}-{number}"), peer_id, NONE)
    return places


def turns(places: Places, one: Room, count: int) -> list[str]:
    """Return which tasks get the place as one after another runs and leaves."""
    order: list[str] = []
    for _ in range(count):
        [task_id] = places.next(one)
        assert places.take(task_id, NodeId(task_id.partition("-")[0]), one)
        places.leave(task_id)
        order.append(task_id)
    return order


def test_a_thousand_tasks_of_one_peer_do_not_hold_up_the_one_of_another() -> None:
    places = waiting((A, 1_000), (B, 1))
    assert turns(places, room(1), 3) == ["nA-0", "nB-0", "nA-1"]


def test_peers_take_turns_and_a_peers_own_tasks_keep_their_order() -> None:
    places = waiting((A, 3), (B, 2), (C, 1))
    assert turns(places, room(1), 6) == ["nA-0", "nB-0", "nC-0", "nA-1", "nB-1", "nA-2"]


def test_free_places_go_to_different_peers_first() -> None:
    assert waiting((A, 5), (B, 1)).next(room(3)) == ["nA-0", "nB-0", "nA-1"]


def test_a_peer_at_its_own_limit_leaves_its_turn_to_the_others() -> None:
    places = waiting((A, 5), (B, 2))
    both = room(3, per_peer=1)
    assert places.next(both) == ["nA-0", "nB-0"]
    assert places.take(TaskId("nA-0"), A, both)
    assert places.next(both) == ["nB-0"]
    assert not places.take(TaskId("nA-1"), A, both)
    places.leave(TaskId("nA-0"))
    assert "nA-1" in places.next(both)


def test_who_leaves_the_queue_leaves_nothing_behind() -> None:
    places = waiting((A, 1))
    assert places.leave(TaskId("nA-0"))
    assert not places.leave(TaskId("nA-0"))
    assert (places.running, places.waiting, places.next(room(9))) == (0, 0, [])


def test_what_runs_already_is_counted_beyond_the_room() -> None:
    places = Places()
    for number in range(3):
        places.adopt(TaskId(f"nA-{number}"), A)
    assert (places.running, places.running_of(A)) == (3, 3)
    assert not places.take(TaskId("nB-0"), B, room(2))


@given(
    st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from(["take", "leave"]))),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_no_order_of_steps_gives_more_places_than_there_are(
    steps: list[tuple[str, str]], total: int, per_peer: int
) -> None:
    places, limit = Places(), Room(total=total, per_peer=per_peer)
    held: list[TaskId] = []
    for number, (peer, step) in enumerate(steps):
        peer_id = NodeId(peer)
        if step == "take":
            held.append(TaskId(f"{peer}-{number}"))
            places.take(held[-1], peer_id, limit)
        elif held:
            places.leave(held.pop(0))
        for task_id in places.next(limit):
            assert places.take(task_id, NodeId(task_id.partition("-")[0]), limit)
        assert places.running <= total
        assert all(places.running_of(NodeId(name)) <= per_peer for name in "ABC")
        assert places.running + places.waiting == len(held)
        idle = places.running < total and places.waiting
        assert not idle or places.next(limit) == []


def test_only_what_is_due_and_alive_is_looked_at() -> None:
    alive = {"a", "b", "c"}
    deadlines: Deadlines[datetime] = Deadlines(lambda task_id: task_id in alive)
    for name, seconds in (("b", 2), ("a", 1), ("c", 9), ("gone", 1)):
        deadlines.add(TaskId(name), NOON + timedelta(seconds=seconds))
    assert deadlines.due(NOON + timedelta(seconds=2)) == ["a", "b"]
    assert deadlines.due(NOON + timedelta(seconds=2)) == []


def test_what_has_ended_does_not_wait_for_the_last_day_of_time() -> None:
    deadlines: Deadlines[datetime] = Deadlines(lambda _: False)
    for number in range(3 * SLACK):
        deadlines.add(TaskId(str(number)), datetime.max.replace(tzinfo=UTC))
    assert len(deadlines._heap) <= SLACK  # pyright: ignore[reportPrivateUsage]  # its size is the point
