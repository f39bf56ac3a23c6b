"""Pairings of nodes over wires in memory: two owners, wrong codes, breaks, and who stands between."""

# pyright: reportPrivateUsage=false
import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from cmesh.daemon import pairings as pairings_module
from cmesh.daemon.pair_attempt import ATTEMPT_S, LOCKED_S, TRIES
from cmesh.daemon.trust import BY_CODE, BY_USE, Trust
from cmesh.errors import (
    PairingBusy,
    PairingEnded,
    PairingRefused,
    StoreError,
    UsageError,
    VersionMismatch,
    WrongMachine,
)
from cmesh.keys import SigningKey
from cmesh.model import Identity
from cmesh.store.store import Store
from tests.fakes.pair_town import GONE, LIVING, Place, Town, shown, wrong

pytestmark = pytest.mark.anyio


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    made = Town()
    yield made
    await made.close()


@pytest.fixture
def box(town: Town) -> Place:
    return town.place("box")


@pytest.fixture
def mac(town: Town) -> Place:
    return town.place("mac")


async def test_a_code_typed_on_the_other_machine_confirms_both_keys(box: Place, mac: Place) -> None:
    code = await shown(box, mac)
    assert (await mac.code("box", f"{code[:3]} {code[3:]}")).phase == "confirmed"
    view = await box.step("mac", "look", known_phase="showing", wait_s=5)
    assert (view.phase, view.code) == ("confirmed", "")
    for one, other in ((box, mac), (mac, box)):
        [pin] = await one.store.trust()
        assert (pin.peer_id, pin.key, pin.by) == (other.id, other.key.public, BY_CODE)
        assert one.trust.standing(other.id) == "trusted"
        assert one.wanted == [other.id]
        assert one.store.said() == ["confirmed"]


@pytest.mark.parametrize("ends", ["time is over", "a wrong code", "another pairing"])
async def test_a_right_code_whose_key_is_being_stored_is_ended_by_nothing(
    town: Town, box: Place, mac: Place, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    town.place("other")
    code = await shown(box, mac)
    real, others = box.trust.confirm, list[asyncio.Task[object]]()

    async def slowly(identity: Identity, key: str) -> None:
        attempt = box.pairings._board.attempt
        assert attempt is not None
        if ends == "time is over":
            town.clock.passed_s += ATTEMPT_S
            await box.step("mac", "look")
        elif ends == "a wrong code":
            for _ in range(TRIES):
                attempt.wrong()
        else:
            others.append(asyncio.create_task(box.step("other")))
            for _ in range(20):  # until it waits for the end of this one
                await asyncio.sleep(0)
        assert attempt.phase == "showing"
        await real(identity, key)

    monkeypatch.setattr(box.trust, "confirm", slowly)
    attempt = box.pairings._board.attempt
    assert attempt is not None
    view = await mac.code("box", code)
    assert (view.phase == "confirmed") is (ends != "time is over")  # it is over there as well
    assert (attempt.phase, attempt.why) == ("confirmed", "")
    assert box.trust.is_by_code(mac.id, mac.key.public)
    await asyncio.gather(*others, return_exceptions=True)
    assert box.store.said() == ["confirmed"]


async def test_a_key_that_could_not_be_stored_leaves_the_code_as_it_was(
    town: Town, box: Place, mac: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = await shown(box, mac)
    board, other = box.pairings._board, SigningKey(b"o" * 32).public
    attempt = board.attempt
    assert attempt is not None

    async def fails(_identity: Identity, key: str) -> None:
        now = town.clock.monotonic()
        assert (attempt.takes(key, now), attempt.takes(other, now)) == (True, False)
        attempt.wrong()
        raise StoreError("no room")

    with monkeypatch.context() as full:
        full.setattr(box.trust, "confirm", fails)
        with pytest.raises(StoreError):
            await board.confirmed(attempt, mac.key.public)
    assert (attempt.phase, attempt.code) == ("showing", code)  # an empty one would be no secret
    assert (await mac.code("box", wrong(code))).tries_left == TRIES - 1
    assert (await mac.code("box", code)).phase == "confirmed"


async def test_it_tells_a_confirmed_key_from_one_of_first_use(box: Place, mac: Place) -> None:
    await box.trust.check(mac.identity, mac.key.public, first_contact=True)
    assert box.trust.confirmed_by(mac.id) == BY_USE
    await mac.code("box", await shown(box, mac))
    assert box.trust.confirmed_by(mac.id) == BY_CODE
    again = Trust(cast("Store", box.store))
    await again.load()
    assert again.confirmed_by(mac.id) == BY_CODE


async def test_three_wrong_codes_end_it_and_both_refuse_for_ten_minutes(
    town: Town, box: Place, mac: Place
) -> None:
    code = await shown(box, mac)
    for left in (2, 1):
        view = await mac.code("box", wrong(code))
        assert (view.phase, view.tries_left) == ("typing", left)
    assert (await mac.code("box", wrong(code))).phase == "ended"
    view = await box.step("mac", "look")
    assert (view.phase, view.reason) == ("ended", "too many codes were wrong")
    assert await box.store.trust() == await mac.store.trust() == []
    for one, other in ((box, "mac"), (mac, "box")):
        assert one.store.said() == ["wrong_code"] * 3 + ["refused"]
        with pytest.raises(PairingRefused) as caught:
            await one.step(other)
        assert caught.value.retry_after_s == LOCKED_S + 1
    with pytest.raises(PairingEnded):
        await mac.step("nobody", "code", code=code)
    assert (await mac.code("box", code)).phase == "ended"


async def test_who_shows_the_code_hears_of_a_wrong_one_at_once(box: Place, mac: Place) -> None:
    code = await shown(box, mac)
    looks = asyncio.create_task(box.step("mac", "look", known_phase="showing", wait_s=45))
    await mac.code("box", wrong(code))
    async with asyncio.timeout(5):
        view = await looks
    assert (view.phase, view.tries_left) == ("showing", 2)
    await mac.code("box", wrong(code))  # between two looks
    async with asyncio.timeout(5):
        view = await box.step("mac", "look", known_phase="showing", known_tries=2, wait_s=45)
    assert (view.phase, view.tries_left) == ("showing", 1)


async def test_after_the_time_it_can_be_tried_anew_with_another_code(
    town: Town, box: Place, mac: Place
) -> None:
    code = await shown(box, mac)
    for _ in range(3):
        await mac.code("box", wrong(code))
    town.clock.passed_s += LOCKED_S
    assert (await mac.code("box", await shown(box, mac))).phase == "confirmed"


async def test_a_code_of_another_form_counts_for_nothing(box: Place, mac: Place) -> None:
    code = await shown(box, mac)
    for text in ("", "12345", "1234567", "abcdef", "\uff11" * 6):
        with pytest.raises(UsageError):
            await mac.code("box", text)
    assert (await mac.code("box", code)).tries_left == 3


async def test_nobody_confirms_within_ten_minutes(town: Town, box: Place, mac: Place) -> None:
    code = await shown(box, mac)
    town.clock.passed_s += ATTEMPT_S
    assert (await box.step("mac", "look", known_phase="showing", wait_s=5)).phase == "ended"
    assert (await mac.code("box", code)).reason == "nobody confirmed it in time"
    assert await box.store.trust() == []


async def test_both_at_the_same_time_one_shows_and_one_types(box: Place, mac: Place) -> None:
    views = await asyncio.gather(box.step("mac"), mac.step("box"))
    phases = {view.phase: view for view in views}
    assert set(phases) == {"showing", "typing"}
    types, peer = (mac, "box") if phases["typing"] is views[1] else (box, "mac")
    assert (await types.code(peer, phases["showing"].code)).phase == "confirmed"


async def test_two_that_could_not_reach_each_other_do_not_both_show_for_ever(
    town: Town, box: Place, mac: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairings_module, "ASK_AGAIN_S", 0.0)
    town.away.add(box.id)
    views = [await box.step("mac"), await mac.step("box")]
    assert [view.phase for view in views] == ["showing", "showing"]
    assert all("does not answer" in view.note for view in views)
    town.away.clear()
    view = await mac.step("box", "look", known_phase="showing", wait_s=5)
    assert view.phase == "typing"
    code = (await box.step("mac", "look")).code
    assert (await mac.code("box", code)).phase == "confirmed"


async def test_one_pairing_at_a_time_and_the_other_process_is_told(
    town: Town, box: Place, mac: Place
) -> None:
    town.place("third")
    first = await box.step("mac", pid=LIVING)
    for peer in ("mac", "third"):
        with pytest.raises(PairingBusy, match="`mac` is under way, by process 1"):
            await box.step(peer, pid=GONE)
    for step in ("look", "stop", "code"):
        with pytest.raises(PairingBusy):
            await box.step("mac", step, pid=GONE, code="000000")
    assert (await box.step("mac", "look", pid=LIVING)).code == first.code


async def test_a_command_that_died_is_followed_by_the_next_one(
    town: Town, box: Place, mac: Place
) -> None:
    town.place("third")
    first = await box.step("mac", pid=GONE)
    assert (await box.step("mac", pid=LIVING)).code == first.code
    await box.step("mac", "stop")
    await box.step("mac", pid=GONE)
    assert (await box.step("third", pid=LIVING)).phase == "showing"
    # And the one that was left is told there: nothing is shown for it any more.
    assert (await mac.step("box")).phase == "showing"


async def test_what_is_ended_on_one_side_is_over_on_the_other(box: Place, mac: Place) -> None:
    code = await shown(box, mac)
    assert (await box.step("mac", "stop")).reason == "it was ended on this machine"
    assert "no pairing with this one" in (await mac.code("box", code)).reason
    assert await mac.store.trust() == []


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("side", ["types", "shows"])
async def test_a_connection_that_breaks_at_any_frame_costs_nothing(
    town: Town, box: Place, mac: Place, monkeypatch: pytest.MonkeyPatch, side: str, after: int
) -> None:
    monkeypatch.setattr(pairings_module, "BROKEN_PAUSE_S", 0.0)
    code = await shown(box, mac)
    town.breaks.append((after, 99) if side == "types" else (99, after))
    view = await mac.code("box", code)
    assert (view.phase, view.tries_left) == ("confirmed", 3)
    assert (await box.step("mac", "look")).phase == "confirmed"
    assert [pin.by for pin in await box.store.trust()] == [BY_CODE]


@pytest.mark.parametrize("who", ["box", "mac"])
async def test_a_daemon_that_restarts_in_between_begins_anew(
    box: Place, mac: Place, who: str
) -> None:
    code = await shown(box, mac)
    (box if who == "box" else mac).begin()
    if who == "box":
        assert (await mac.code("box", code)).phase == "ended"
        code = await shown(box, mac)
    else:
        with pytest.raises(PairingEnded):
            await mac.code("box", code)
        assert (await mac.step("box")).phase == "typing"
    assert (await mac.code("box", code)).phase == "confirmed"


async def test_after_the_pin_a_restart_on_either_side_is_mended_by_the_command(
    box: Place, mac: Place
) -> None:
    code = await shown(box, mac)
    await mac.code("box", code)
    assert (await box.step("mac")).phase == "confirmed"
    mac.begin()  # it had not stored its part, say
    view = await mac.step("box")
    assert view.phase == "showing"
    assert (await box.step("mac")).phase == "typing"
    assert (await box.code("mac", view.code)).phase == "confirmed"
    assert (await mac.step("box")).phase == "confirmed"


async def test_a_trust_that_was_taken_back_is_not_given_by_an_old_confirmation(
    box: Place, mac: Place
) -> None:
    await mac.code("box", await shown(box, mac))
    await box.trust.take_back("mac")
    assert (await box.step("mac")).phase == "showing"


async def test_who_waits_for_an_answer_hears_that_there_is_nothing_to_ask(
    town: Town, box: Place, mac: Place
) -> None:
    await mac.code("box", await shown(box, mac))
    for place, peer, other in ((box, "mac", mac), (mac, "box", box)):
        assert not (await place.step(peer, "offer")).gives_nothing
        other.pairings.answered(place.id, gives=False)
        assert (await place.step(peer, "offer")).gives_nothing
        await other.step("", "begin")  # its owner is asked anew, and gives a directory
        assert not (await place.step(peer, "offer")).gives_nothing
        other.pairings.answered(place.id, gives=True)
        assert not (await place.step(peer, "offer")).gives_nothing
    box.pairings.answered(mac.id, gives=False)
    third = town.place("third")
    await third.step("box")
    assert not (await third.step("box", "offer")).gives_nothing
    town.away.add(box.id)
    assert not (await mac.step("box", "offer")).gives_nothing


async def test_without_a_name_it_goes_on_where_nobody_has_said_what_may_be_asked(
    town: Town, box: Place, mac: Place
) -> None:
    await mac.code("box", await shown(box, mac))
    await town.place("third").step("box")
    assert (await box.step("")).peer == "mac"
    mac.pairings.answered(box.id, gives=False)
    assert (await mac.step("")).peer == "box"
    box.pairings.answered(mac.id, gives=False)
    assert (await box.step("")).peer == "third"
    town.clock.passed_s += ATTEMPT_S
    with pytest.raises(UsageError, match="no machine has asked"):
        await mac.step("")


async def test_who_asks_unasked_learns_nothing_and_is_remembered(
    town: Town, box: Place, mac: Place
) -> None:
    third = town.place("third")
    with pytest.raises(UsageError, match="no machine has asked"):
        await box.step("")
    await box.step("mac")
    assert (await third.step("box")).phase == "showing"
    assert (await third.step("box", "look")).code
    await box.step("mac", "stop")
    view = await box.step("")
    assert (view.peer, view.phase) == ("third", "typing")


async def test_an_older_cmesh_is_named_and_leaves_nothing(
    town: Town, box: Place, mac: Place
) -> None:
    town.old.add(mac.id)
    with pytest.raises(VersionMismatch, match="cannot pair"):
        await box.step("mac")
    assert (await box.step("mac", "look")).phase == "ended"


async def test_a_name_that_means_another_node_now_is_refused(
    town: Town, box: Place, mac: Place
) -> None:
    await mac.code("box", await shown(box, mac))
    other = town.place("mac2")
    other.identity = Identity(node_id=other.id, name=mac.identity.name)
    town.names["mac"] = other.id
    with pytest.raises(WrongMachine):
        await box.step("mac")


async def test_many_tries_at_once_are_three_and_no_more(town: Town, box: Place, mac: Place) -> None:
    code = await shown(box, mac)
    await asyncio.gather(*(mac.code("box", wrong(code)) for _ in range(8)))
    assert (await box.step("mac", "look")).phase == "ended"
    assert box.store.said() == ["wrong_code"] * 3 + ["refused"]
    assert (await mac.code("box", code)).phase == "ended"
