"""The messages of a pairing, `cmesh.pair.v1`: two nodes prove their keys, then one and the same code.

A connection of its own and no link: nothing here says anything of tasks, and a node whose key
nobody trusts yet may open one. Pure; when a message may come is `cmesh.protocol.pair_exchange`.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from cmesh.errors import RemoteProtocolError
from cmesh.protocol.fields import Hex256, Key, Name, Nonce, Signature, WireMessage
from cmesh.text import one_line

__all__ = [
    "PAIR_FRAME_BYTES",
    "PAIR_SUBPROTOCOL",
    "Here",
    "PairChallenge",
    "PairElement",
    "PairHello",
    "PairMessage",
    "PairProof",
    "PairRefused",
    "PairStanding",
    "PairTry",
    "decode_pair",
    "encode_pair",
]

PAIR_SUBPROTOCOL = "cmesh.pair.v1"
"""The websocket subprotocol; a version that cannot pair does not know it."""

PAIR_FRAME_BYTES = 4096
"""The largest frame that is read: the longest message has some 600 bytes."""

Here = Literal["none", "looking", "showing", "confirmed"]
"""How a pairing stands at its sender for the receiver: `none` = it has none with it; `looking` =
it is asking the receiver the same; `showing` = it shows a code; `confirmed` = the receiver's key
was proved with that code already."""

_Element = Annotated[str, Field(pattern=r"^[0-9a-f]{66}$")]


class PairChallenge(WireMessage):
    """The accepting side's first frame: who it says it is, and what is to be signed."""

    type: Literal["pair_challenge"] = "pair_challenge"
    node: Name
    nonce: Nonce


class PairHello(WireMessage):
    """The dialling side proves its key: signature over `pair_exchange.context_bytes`.

    Attributes:
        looking: its own pairing with the receiver is `looking` too: one of both shows a code.
    """

    type: Literal["pair_hello"] = "pair_hello"
    node: Name
    key: Key
    nonce: Nonce
    signature: Signature
    looking: bool = False


class PairStanding(WireMessage):
    """The accepting side proves its key, and says whether it shows a code for the receiver.

    Attributes:
        tries: wrong codes that it still takes.
        gives_nothing: both keys are confirmed, and its owner has said that the receiver may ask
            for nothing there; left out = that is not so, or was not said yet.
    """

    type: Literal["pair_standing"] = "pair_standing"
    key: Key
    signature: Signature
    here: Here
    tries: Annotated[int, Field(ge=0, le=9)] = 0
    gives_nothing: bool | None = None


class PairTry(WireMessage):
    """The dialling side's half of the exchange over the code that a person has typed."""

    type: Literal["pair_try"] = "pair_try"
    element: _Element


class PairElement(WireMessage):
    """The accepting side's half; says nothing of the code."""

    type: Literal["pair_element"] = "pair_element"
    element: _Element


class PairProof(WireMessage):
    """That the sender has the same code, keys and nodes: first the dialling side's, then the other's.

    The second one says that the accepting side has committed that the keys are confirmed.
    """

    type: Literal["pair_proof"] = "pair_proof"
    proof: Hex256


class PairRefused(WireMessage):
    """The accepting side does not confirm.

    Attributes:
        why: `wrong_code`, `over` (no pairing any more), or a word of a later version.
        tries: wrong codes that it still takes.
    """

    type: Literal["pair_refused"] = "pair_refused"
    why: Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,31}$")]
    tries: Annotated[int, Field(ge=0, le=9)] = 0


PairMessage = Annotated[
    PairChallenge | PairHello | PairStanding | PairTry | PairElement | PairProof | PairRefused,
    Field(discriminator="type"),
]

_MESSAGE: Final[TypeAdapter[PairMessage]] = TypeAdapter(PairMessage)


def encode_pair(message: PairMessage) -> str:
    """Return the text frame of a message."""
    return message.model_dump_json(exclude_none=True)


def decode_pair(frame: str | bytes) -> PairMessage:
    """Return the message in a frame; unknown fields are left out.

    Raises:
        RemoteProtocolError: binary, too large, not JSON, of an unknown type, or a field is wrong.
    """
    if isinstance(frame, bytes) or len(frame) > PAIR_FRAME_BYTES:
        raise RemoteProtocolError("the peer sent what is no message of a pairing")
    try:
        return _MESSAGE.validate_json(frame)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = one_line(".".join(str(part) for part in first["loc"]), 60)
        raise RemoteProtocolError(
            f"the peer sent a wrong message of a pairing ({where or first['type']})"
        ) from None
