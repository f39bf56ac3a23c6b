"""The two sides of a pairing's exchange, and the frames between them, the same in every run."""

import hashlib
import itertools
from collections.abc import Callable

from cmesh.keys import SigningKey, verify
from cmesh.model import NodeId
from cmesh.protocol.pair_exchange import Asked, Knocked, Met, Proved, Shower, Signer, Typist
from tests.unit.protocol.builders import CALLER, CALLER_KEY, WORKER, WORKER_KEY

CODE, OTHER_CODE = "012345", "012346"
THIRD = NodeId("nTHIRD1CNTRL")
THIRD_KEY = SigningKey(b"t" * 32)


def chance(seed: str) -> Callable[[int], bytes]:
    """Return what looks like chance and is the same in every run."""
    count = itertools.count()

    def some(size: int) -> bytes:
        return hashlib.shake_256(f"{seed} {next(count)}".encode()).digest(size)

    return some


def signer(node_id: NodeId, key: SigningKey) -> Signer:
    return Signer(
        node_id=node_id, key=key.public, sign=key.sign, verify=verify, entropy=chance(node_id)
    )


def shower(me: NodeId = WORKER, key: SigningKey = WORKER_KEY, peer: NodeId = CALLER) -> Shower:
    return Shower(signer(me, key), peer, "s" * 22)


def typist(me: NodeId = CALLER, key: SigningKey = CALLER_KEY, peer: NodeId = WORKER) -> Typist:
    return Typist(signer(me, key), peer, "t" * 22, looking=False)


def met(shows: Shower, types: Typist) -> None:
    """Carry the frames until both keys are proved."""
    [challenge] = shows.initial()
    assert types.receive(challenge) == []
    [hello] = types.outgoing()
    [knocked] = shows.receive(hello)
    assert isinstance(knocked, Knocked)
    [standing] = types.receive(shows.stand("showing", 3))
    assert isinstance(standing, Met)
    assert (standing.here, standing.tries) == ("showing", 3)


def tried(shows: Shower, types: Typist, shown: str, typed: str) -> Proved:
    """Carry the frames of one try; return what the showing side has found."""
    assert shows.receive(types.attempt(typed)) == [Asked()]
    assert types.receive(shows.answer(shown)) == []
    [proof] = types.outgoing()
    [proved] = shows.receive(proof)
    assert isinstance(proved, Proved)
    return proved
