"""The exchange of a pairing, frame by frame: what proves a code, and what proves nothing."""

import pytest

from cmesh.errors import LocalProtocolError, RemoteProtocolError
from cmesh.protocol.pair_exchange import (
    Asked,
    Proved,
    Refusal,
    Shower,
    Typist,
)
from cmesh.protocol.pair_messages import (
    PairChallenge,
    PairElement,
    PairHello,
    PairProof,
    PairStanding,
    PairTry,
    decode_pair,
    encode_pair,
)
from tests.unit.protocol.builders import CALLER, CALLER_KEY, WORKER, WORKER_KEY
from tests.unit.protocol.pair_builders import (
    CODE,
    OTHER_CODE,
    THIRD,
    THIRD_KEY,
    met,
    shower,
    signer,
    tried,
    typist,
)


def test_the_same_code_on_both_sides_proves_it_to_both() -> None:
    shows, types = shower(), typist()
    met(shows, types)
    assert tried(shows, types, CODE, CODE) == Proved(True)
    assert types.receive(shows.confirm()) == [Proved(True)]


def test_another_code_proves_nothing_to_either() -> None:
    shows, types = shower(), typist()
    met(shows, types)
    assert tried(shows, types, CODE, OTHER_CODE) == Proved(False)
    assert types.receive(shows.confirm()) == [Proved(False)]


def test_a_refusal_names_why_and_what_is_left() -> None:
    shows, types = shower(), typist()
    met(shows, types)
    tried(shows, types, CODE, OTHER_CODE)
    assert types.receive(shows.refuse("wrong_code", 2)) == [Refusal("wrong_code", 2)]


def test_the_code_is_in_no_frame() -> None:
    shows, types = shower(), typist()
    frames = [*shows.initial()]
    types.receive(frames[0])
    frames += types.outgoing()
    shows.receive(frames[-1])
    frames.append(shows.stand("showing", 3))
    types.receive(frames[-1])
    frames.append(types.attempt("918273"))
    shows.receive(frames[-1])
    frames.append(shows.answer("918273"))
    types.receive(frames[-1])
    frames += types.outgoing()
    shows.receive(frames[-1])
    frames.append(shows.confirm())
    assert not any("918273" in frame for frame in frames)


@pytest.mark.parametrize("who", ["shows", "types"])
def test_who_passes_frames_on_between_two_nodes_has_proved_no_key(who: str) -> None:
    # Both owners mean the third node; it hands each side's frames to the other.
    shows, types = shower(peer=THIRD), typist(peer=THIRD)
    [challenge] = shows.initial()
    if who == "types":
        with pytest.raises(RemoteProtocolError, match="the tailnet says"):
            types.receive(challenge)
        return
    own = PairChallenge.model_validate_json(challenge).model_copy(update={"node": THIRD})
    types.receive(encode_pair(own))
    [hello] = types.outgoing()
    with pytest.raises(RemoteProtocolError, match="the tailnet says"):
        shows.receive(hello)
    lied = PairHello.model_validate_json(hello).model_copy(update={"node": THIRD})
    shows = shower(peer=THIRD)
    shows.initial()
    with pytest.raises(RemoteProtocolError, match="could not prove its cmesh key"):
        shows.receive(encode_pair(lied))


def test_who_stands_between_with_a_key_of_its_own_cannot_use_the_right_code_of_others() -> None:
    # It has honest keys to both sides, and hands on only what is about the code.
    shows, types = shower(peer=THIRD), typist(peer=THIRD)
    to_shower = Typist(signer(THIRD, THIRD_KEY), WORKER, "u" * 22, looking=False)
    to_typist = Shower(signer(THIRD, THIRD_KEY), CALLER, "v" * 22)
    met(shows, to_shower)
    met(to_typist, types)
    attempt = types.attempt(CODE)
    assert shows.receive(attempt) == [Asked()]
    types.receive(shows.answer(CODE))
    [proof] = types.outgoing()
    assert shows.receive(proof) == [Proved(False)]
    assert types.receive(shows.confirm()) == [Proved(False)]


def test_a_frame_of_an_earlier_exchange_proves_nothing_in_a_later_one() -> None:
    shows, types = shower(), typist()
    met(shows, types)
    attempt = types.attempt(CODE)
    shows.receive(attempt)
    types.receive(shows.answer(CODE))
    [proof] = types.outgoing()
    later = Shower(signer(WORKER, WORKER_KEY), CALLER, "z" * 22)
    met(later, Typist(signer(CALLER, CALLER_KEY), WORKER, "t" * 22, looking=False))
    later.receive(attempt)
    later.answer(CODE)
    assert later.receive(proof) == [Proved(False)]


@pytest.mark.parametrize(
    "element", ["00" * 33, "41" + "00" * 32, "42" + "01" + "00" * 31, "41" + "ff" * 32]
)
def test_what_is_no_element_of_the_group_ends_it(element: str) -> None:
    shows, types = shower(), typist()
    met(shows, types)
    shows.receive(encode_pair(PairTry(element=element)))
    with pytest.raises(RemoteProtocolError, match="no element"):
        shows.answer(CODE)


def test_an_element_sent_back_ends_it() -> None:
    shows, types = shower(), typist()
    met(shows, types)
    attempt = PairTry.model_validate_json(types.attempt(CODE))
    with pytest.raises(RemoteProtocolError, match="no element"):
        types.receive(encode_pair(PairElement(element=attempt.element)))


def test_nothing_comes_out_of_turn() -> None:
    shows, types = shower(), typist()
    with pytest.raises(LocalProtocolError):
        types.attempt(CODE)
    with pytest.raises(LocalProtocolError):
        shows.answer(CODE)
    with pytest.raises(LocalProtocolError):
        shows.confirm()
    met(shows, types)
    with pytest.raises(RemoteProtocolError, match="where none may come"):
        shows.receive(encode_pair(PairProof(proof="0" * 64)))
    shows, types = shower(), typist()
    met(shows, types)
    types.attempt(CODE)
    with pytest.raises(LocalProtocolError, match="once"):
        types.attempt(CODE)


def test_without_a_code_that_is_shown_none_can_be_tried() -> None:
    shows, types = shower(), typist()
    types.receive(shows.initial()[0])
    shows.receive(types.outgoing()[0])
    shows.stand("none", 0)
    with pytest.raises(RemoteProtocolError, match="where none may come"):
        shows.receive(encode_pair(PairTry(element="42" * 33)))


@pytest.mark.parametrize(
    "frame",
    [
        b"{}",
        "{}",
        "not JSON",
        '{"type":"pair_try","element":"no hex"}',
        '{"type":"hello"}',
        '{"type":"pair_proof","proof":"' + "0" * 5000 + '"}',
    ],
)
def test_what_is_no_message_of_a_pairing_is_refused(frame: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_pair(frame)


def test_fields_of_a_later_version_are_left_out() -> None:
    frame = encode_pair(PairStanding(key="k" * 43, signature="", here="none"))
    assert decode_pair(frame[:-1] + ',"later":1}') == decode_pair(frame)
