"""Each named point at which the chaos suite kills is one that the product passes by."""

from typing import get_args

from pydantic import BaseModel

from cmesh.model import Direction
from cmesh.protocol import messages, table
from cmesh.runner.shim_task import Shim
from cmesh.runner.supervise import Supervisor
from cmesh.store import journal
from cmesh.store.head import HeadFile
from tests.chaos.crashing_shim import STEPS
from tests.chaos.points import CALLER_POINTS, SHIM_POINTS, WORKER_POINTS, passer

ROWS = {Direction.OUT: table.CALLER, Direction.IN: table.WORKER}
KINDS: tuple[type[BaseModel], ...] = get_args(get_args(messages.Message)[0])
SENDS = {kind.model_fields["type"].default for kind in KINDS}


def commits(direction: Direction) -> set[str]:
    """Return what the commits of one side are called, as the table has them."""
    names: set[str] = set()
    for row in ROWS[direction]:
        for write in row.write:
            states = (row.next, *row.states) if write.kind == "state" else (write.name,)
            names |= {f"{direction.value} {write.kind} {name}".strip() for name in states}
    return names


def exists(step: str, direction: Direction) -> bool:
    """Return whether the product has a step of this name on this side."""
    kind, _, name = step.partition(" ")
    if kind == "commit":
        return name in commits(direction)
    if kind == "send":
        return name in SENDS
    if kind in {"journal", "head"}:
        return hasattr(journal.Journal, "append") and hasattr(HeadFile, "write")
    return direction is Direction.IN and hasattr(Supervisor, step)


def test_every_point_of_a_daemon_is_a_step_of_its_side() -> None:
    for direction, points in ((Direction.IN, WORKER_POINTS), (Direction.OUT, CALLER_POINTS)):
        steps = {point.partition(" ")[2] for point in points}
        assert [step for step in sorted(steps) if not exists(step, direction)] == []


def test_the_points_of_a_shim_are_its_methods() -> None:
    assert all(hasattr(Shim, method) for method in STEPS)
    assert {point.partition(" ")[2] for point in SHIM_POINTS} == set(STEPS.values())


def test_a_name_that_is_no_step_is_not_found() -> None:
    assert not exists("commit in state submitted", Direction.IN)
    assert not exists("commit in fact forgotten", Direction.IN)
    assert not exists("send parcel", Direction.OUT)
    assert not exists("spawn", Direction.OUT)


def test_a_point_of_a_cancel_gets_a_task_that_is_cancelled() -> None:
    for point in ("before send cancel", "after commit in fact cancel_wish", "before end"):
        assert passer(point).cancel_after_s is not None
    assert passer("after burn").unclaimed
    assert passer("before send end").cancel_after_s is None
