"""The promises of the checked model, on the real tables: ONCE to RECEIPT, and SETTLES."""

from collections import deque

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from typing_extensions import override

from cmesh.protocol.facts import ACCEPTED, QUEUED, TERMINALS
from tests.contract.protocol_world import World

FEWEST_STATES = 20_000
SETTLE_EVERY = 50  # letting a state settle costs as much as many steps; so every nth


def check_agreement(world: World) -> None:
    c, w = world.c.state, world.w.state
    assert c != ACCEPTED or w is not None, "KEPT"
    assert w is None or c not in {None, QUEUED}, "W knows what C never sent"
    if c in TERMINALS and w in TERMINALS:
        assert c == w, "FINAL: two ends"


class Delegation(RuleBasedStateMachine):
    """Any order of sends, deliveries, looks, losses, kills, cancels and expiries."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

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

    @override
    def teardown(self) -> None:
        self.world.settle()
        self.world.check_settled()


Delegation.TestCase.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, print_blob=True
)


class TestDelegation(Delegation.TestCase):
    pytestmark = pytest.mark.timeout(180)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(World(kills=1, losses=0, events=0, cancels=0, expiries=0), id="a kill"),
        pytest.param(World(kills=0, losses=1, events=1, cancels=0, expiries=0), id="a loss"),
        pytest.param(World(kills=0, losses=0, events=1, cancels=1, expiries=0), id="a cancel"),
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
