"""The choice among judged peers: order, words, and what is said when there is none."""

import pytest

from cmesh.daemon.choosing import Candidate, chosen_one, described
from cmesh.errors import NoPeerMatches
from cmesh.model import Identity, NodeId
from cmesh.node.whois import Peer


def candidate(name: str, why: str = "", *, away: bool = False, busy: int = 0) -> Candidate:
    identity = Identity(node_id=NodeId(f"n{name}"), name=f"{name}.example.ts.net")
    peer = Peer(identity=identity, online=not away, direct="", relay="", os="linux", last_seen=None)
    return Candidate(peer=peer, why=why, away=away, busy=busy)


def test_the_least_busy_is_taken_and_then_the_first_by_name() -> None:
    found = [candidate("c", busy=1), candidate("b"), candidate("a"), candidate("nas", "no docker")]
    choice = chosen_one(found, "`docker`", queue=False)
    assert choice.taken[0].name == "a"
    assert choice.words == "chose a of 3 that match: a, b, c; not: nas (no docker)"


def test_one_that_cannot_be_reached_is_not_taken_for_one_that_can() -> None:
    found = [candidate("a", away=True), candidate("b", busy=9)]
    choice = chosen_one(found, "`docker`", queue=True)
    assert choice.words == "chose b, the only one that matches; not: a (it cannot be reached now)"


def test_the_only_one_is_taken_although_away_when_its_task_may_wait() -> None:
    found = [candidate("a", away=True), candidate("nas", "no docker")]
    choice = chosen_one(found, "`docker`", queue=True)
    assert choice.taken[0].name == "a"
    assert "the only one that matches, which cannot be reached now" in choice.words
    with pytest.raises(NoPeerMatches) as refused:
        chosen_one(found, "`docker`", queue=False)
    assert refused.value.message == (
        "no peer matches `docker`: a: it cannot be reached now, nas: no docker"
    )
    assert "--if-offline queue" in (refused.value.hint or "")


def test_of_several_that_are_away_none_is_taken() -> None:
    found = [candidate("a", away=True), candidate("b", away=True)]
    with pytest.raises(NoPeerMatches) as refused:
        chosen_one(found, "`docker`", queue=True)
    assert refused.value.hint == "name the one that shall have it: a, b"


def test_a_word_that_is_old_is_said_to_be() -> None:
    old = Candidate(peer=candidate("a").peer, stale="30 h")
    assert "a (as it said 30 h ago)" in described([old], [old], [])


def test_a_long_list_is_cut_and_counted() -> None:
    found = [candidate(f"m{number:02}", "no docker") for number in range(40)]
    with pytest.raises(NoPeerMatches) as refused:
        chosen_one(found, "`docker`", queue=False)
    assert refused.value.message.endswith("m11: no docker and 28 more")
