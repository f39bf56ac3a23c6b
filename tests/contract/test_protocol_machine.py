"""The promises of the checked model, on the real tables: ONCE to RECEIPT, and SETTLES."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from typing_extensions import override

from cmesh.errors import LinkError
from cmesh.protocol import facts as f
from cmesh.protocol import happenings as h
from cmesh.protocol.facts import ACCEPTED, QUEUED, TERMINALS
from cmesh.protocol.state import Send, caller, worker
from tests.contract.protocol_world import World

FEWEST_STATES = 20_000
SETTLE_EVERY = 50  # letting a state settle costs as much as many steps; so every nth


def check_agreement(world: World) -> None:
    if world.restored:
        return
    c, w = world.c.state, world.w.state
    assert c != ACCEPTED or w is not None, "KEPT"
    assert w is None or c not in {None, QUEUED}, "W knows what C never sent"
    if c in TERMINALS and w in TERMINALS:
        assert c == w, "FINAL: two ends"


@cache
def check_bad_input(c: f.CallerFacts, w: f.WorkerFacts) -> None:
    """Nothing that a peer says wrongly changes a task, starts it or ends it."""
    assert _refused(lambda: caller(h.GotEvent(c.last_seq + 2), c))
    assert _refused(lambda: caller(h.GotResult("succeeded", c.last_seq + 1), c)) or c.evidence
    assert _refused(lambda: caller(h.GotResult("running", c.last_seq), c))
    for state in TERMINALS:
        if c.state in TERMINALS and state != c.state:
            assert _refused(lambda end=state: caller(h.GotResult(end, c.last_seq), c))
    if w.state is None:
        assert _refused(lambda: worker(h.GotResultAck(), w))
        return
    step = worker(h.GotSubscribe(w.last_seq + 1), w)
    assert (step.writes, step.sends, step.acts) == ((), (Send.FORGOTTEN,), ())
    step = worker(h.GotSubmit("allow"), replace(w, same_hash=False))
    assert (step.writes, step.sends, step.acts) == ((), (Send.CONFLICT,), ())
    for reason in ("user", "expired"):
        step = worker(h.GotCancel(reason), w)
        if w.state in TERMINALS:
            assert (step.next, step.writes, step.sends, step.acts) == (w.state, (), (), ())


def _refused(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except LinkError:
        return True
    return False


class Delegation(RuleBasedStateMachine):
    """Any order of sends, deliveries, looks, losses, kills, cancels, expiries and repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(strays=2)

    @rule(choice=st.integers(0, 2**16), again=st.booleans())
    def work_goes_on(self, choice: int, again: bool) -> None:
        self._one_of(self.world.routine(), choice)
        if again:  # two for each trouble, or most runs are all trouble
            self._one_of(self.world.routine(), choice >> 4)

    @rule(choice=st.integers(0, 2**16))
    def trouble_comes(self, choice: int) -> None:
        self._one_of(self.world.trouble(), choice)

    def _one_of(self, names: list[str], choice: int) -> None:
        if names:  # when all is over, nothing is left to happen
            name = names[choice % len(names)]
            note(name)
            self.world.apply(name)

    @invariant()
    def the_two_stores_agree(self) -> None:
        check_agreement(self.world)

    @invariant()
    def nothing_wrong_is_taken(self) -> None:
        check_bad_input(self.world.c, self.world.w)

    @override
    def teardown(self) -> None:
        self.world.settle()
        self.world.check_settled()


Delegation.TestCase.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, print_blob=True
)


class TestDelegation(Delegation.TestCase):
    pytestmark = pytest.mark.timeout(180)


class Restoration(Delegation):
    """The same, and W's store goes back to a backup once: ONCE, ZERO, LATE and FINAL still hold.

    The task may stay `unknown` at the caller; nobody starts it again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World(strays=1, restores=1)

    @override
    def teardown(self) -> None:
        if not self.world.restored:
            super().teardown()


Restoration.TestCase.settings = settings(Delegation.TestCase.settings, max_examples=100)


class TestRestoration(Restoration.TestCase):
    pytestmark = pytest.mark.timeout(180)


def test_a_restored_store_that_asks_gets_no_yes() -> None:
    """The shortest history in which a yes would start the task a second time."""
    world = World(restores=1, kills=1)
    for name in (
        "delegate", "link_up", "first_send", "deliver_w:allow", "deliver_w:allow", "back_up",
        "slot", "glance", "look", "shim:0", "shim:0", "shim:0", "end:0succeeded", "shim:0",
        "restore", "link_up",
    ):  # fmt: skip
        world.apply(name)
    assert world.w2c == (("still_wanted",),)
    world.apply("deliver_c")
    assert world.c2w == ()


def test_a_store_that_went_back_unnoticed_costs_no_link_and_no_end() -> None:
    """What the shim kept is read again, and then the end is taken."""
    world = World(restores=1, kills=1, events=2)
    for name in (
        "delegate", "link_up", "first_send", "deliver_w:allow", "deliver_w:allow", "deliver_c",
        "slot", "glance", "look", "shim:0", "shim:0", "shim:0", "glance", "look", "back_up",
        "emit:0", "glance", "look", "flow", "flow", "deliver_c", "deliver_c",
        "restore_unnoticed", "link_up", "deliver_w:allow", "deliver_c",
    ):  # fmt: skip
        world.apply(name)
    assert (world.c.state, world.c.last_seq, world.w.last_seq, world.up) == ("unknown", 2, 1, True)
    world.apply("user_cancels")
    assert (world.c.wish, world.c2w) == ("user", ())
    for name in ("emit:0", "glance", "look", "glance", "look", "lose", "link_up"):
        world.apply(name)
    world.settle()
    world.check_settled()
    assert (world.c.state in TERMINALS, world.starts) == (True, 1)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(World(kills=1, losses=0, events=0, cancels=0, expiries=0), id="a kill"),
        pytest.param(World(kills=0, losses=1, events=1, cancels=0, expiries=0), id="a loss"),
        pytest.param(World(kills=0, losses=0, events=1, cancels=1, expiries=0), id="a cancel"),
        pytest.param(
            World(kills=0, losses=1, events=0, cancels=0, expiries=0, strays=1), id="a stray frame"
        ),
    ],
)
def test_every_reachable_state_keeps_every_promise(first: World) -> None:
    """All interleavings within small bounds, not a sample of them."""
    first.verdicts = ("succeeded",)
    seen = {first.key()}
    todo = deque([first])
    while todo:
        world = todo.popleft()
        for name in (*world.routine(), *world.trouble()):
            after = world.copy()
            after.apply(name)
            if (key := after.key()) in seen:
                continue
            seen.add(key)
            check_agreement(after)
            todo.append(after)
            if len(seen) % SETTLE_EVERY == 0:
                settled = after.copy()
                settled.settle()
                settled.check_settled()
    assert len(seen) > FEWEST_STATES
