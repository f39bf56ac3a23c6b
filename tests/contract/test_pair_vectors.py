"""Recorded frames of a pairing: what this version writes, and what others may send it.

A vector is never changed to fit the code: a changed byte is a changed protocol.
"""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator

from cmesh.protocol.pair_exchange import Proved
from cmesh.protocol.pair_messages import PairMessage, decode_pair, encode_pair
from scripts.gen_schemas import SCHEMAS
from tests.unit.protocol.pair_builders import CODE, shower, typist

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors" / "pair.json").read_text("utf-8")
)


def test_an_exchange_is_written_as_recorded() -> None:
    shows, types = shower(), typist()
    frames = shows.initial()
    types.receive(frames[-1])
    frames += types.outgoing()
    shows.receive(frames[-1])
    frames.append(shows.stand("showing", 3))
    types.receive(frames[-1])
    frames.append(types.attempt(CODE))
    shows.receive(frames[-1])
    frames.append(shows.answer(CODE))
    types.receive(frames[-1])
    frames += types.outgoing()
    assert shows.receive(frames[-1]) == [Proved(True)]
    frames.append(shows.confirm())
    assert types.receive(frames[-1]) == [Proved(True)]
    assert frames == VECTORS["exchange"]


@pytest.mark.parametrize("frame", [*VECTORS["exchange"], *VECTORS["others"]])
def test_a_frame_is_read_and_written_as_recorded_and_fits_the_schema(frame: str) -> None:
    assert encode_pair(decode_pair(frame)) == frame
    validator: Any = Draft202012Validator(SCHEMAS["pair"]())
    assert validator.is_valid(json.loads(frame))
    newer = json.dumps(json.loads(frame) | {"later": [1]})
    assert decode_pair(newer) == decode_pair(frame)
    assert validator.is_valid(json.loads(newer))


def test_every_message_type_is_recorded() -> None:
    union = get_args(get_args(PairMessage)[0])
    types = {str(cls.model_fields["type"].default) for cls in union}
    frames = [*VECTORS["exchange"], *VECTORS["others"]]
    assert types == {json.loads(frame)["type"] for frame in frames}
