"""One link as a state machine: handshake, versions, which messages may come when.

Sans-IO: frames in, events and frames out; no clock, no randomness (the nonce is given).
It never decides whom to trust: after the peer's key is proven it stops (`Introduced`)
until the daemon calls `welcome`, `grants` or `refuse`.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto

from cmesh.errors import LinkError, LocalProtocolError, RemoteProtocolError
from cmesh.model import NodeId
from cmesh.protocol.codec import decode, decode_chunk, encode
from cmesh.protocol.handshake import Local, Side, Transcript, common_minor, hello_bytes
from cmesh.protocol.link_messages import Challenge, Failure, Grants, Hello, May, Ping, Pong, Welcome
from cmesh.protocol.messages import Message
from cmesh.protocol.session_events import Got, GotChunk, Introduced, Opened, SessionEvent
from cmesh.text import cut, one_line

__all__ = ["Session"]

Sign = Callable[[bytes], str]
Verify = Callable[[str, bytes, str], bool]

_REASON_CHARACTERS = 2_000
_OWN_WAY = (Challenge, Hello, Welcome, Grants)  # sent by methods of their own, never by `send`


class _State(Enum):
    CONNECTED = auto()  # dialler waits for `challenge`, acceptor for `hello`
    GREETED = auto()  # dialler waits for `welcome`
    INTRODUCED = auto()  # the daemon decides
    WELCOMED = auto()  # acceptor waits for `grants`
    OPEN = auto()
    CLOSED = auto()


class Session:
    """One side of one link.

    After each call send `outgoing()`. When a call raises `LinkError`, send `outgoing()`
    too (it tells the peer why), then close the connection.

    Attributes:
        opened: set once the link is open; for the dialler by `grants`.
        closed: nothing more is heard or may be said.
    """

    def __init__(
        self,
        side: Side,
        local: Local,
        peer_node_id: NodeId,
        *,
        nonce: str,
        sign: Sign,
        verify: Verify,
    ) -> None:
        """Make the session; `nonce` is fresh (22 to 64 characters), `peer_node_id` from whois."""
        self.side: Side = side
        self.opened: Opened | None = None
        self._local = local
        self._peer_id = peer_node_id
        self._nonce = nonce
        self._sign = sign
        self._verify = verify
        self._state = _State.CONNECTED
        self._out: list[str] = []
        self._introduced: Introduced | None = None
        self._transcript: Transcript | None = None
        self._offered: Welcome | None = None

    @property
    def closed(self) -> bool:
        """Say whether the link has ended for this side."""
        return self._state is _State.CLOSED

    def initial(self) -> list[str]:
        """Return the frames to send as soon as the connection is there."""
        if self.side == "dialler":
            return []
        challenge = Challenge(
            minor=self._local.minor,
            minor_minimum=self._local.minor_minimum,
            node=self._local.node_id,
            nonce=self._nonce,
        )
        return [encode(challenge)]

    def outgoing(self) -> list[str]:
        """Return, once, the frames that what was received calls for."""
        frames, self._out = self._out, []
        return frames

    def receive_text(self, text: str) -> list[SessionEvent]:
        """Take a text frame; after the end nothing is heard.

        Raises:
            RemoteProtocolError: the peer broke the protocol; the reason names how.
            VersionMismatch: the two sides share no minor version.
        """
        if self.closed:
            return []
        try:
            return self._receive(decode(text))
        except LinkError as error:
            self._fail(error.code, error.message)
            raise

    def receive_binary(self, frame: bytes) -> list[SessionEvent]:
        """Take a binary frame; raises as `receive_text` does."""
        if self.closed:
            return []
        try:
            if self._state is not _State.OPEN:
                raise RemoteProtocolError("the peer sent a binary frame before the link was open")
            return [GotChunk(decode_chunk(frame))]
        except LinkError as error:
            self._fail(error.code, error.message)
            raise

    def welcome(self, may: May, unacknowledged: Sequence[str]) -> str:
        """Return the acceptor's frame for a trusted peer; the peer's `grants` opens the link.

        Raises:
            LocalProtocolError: not an acceptor that has been introduced.
        """
        if self.side != "acceptor" or self._state is not _State.INTRODUCED:
            raise LocalProtocolError("`welcome` is only the acceptor's answer to a proven `hello`")
        assert self._introduced is not None
        assert self._transcript is not None
        frame = encode(
            Welcome(
                minor=self._introduced.minor,
                software=self._local.software,
                incarnation=self._local.incarnation,
                key=self._local.key,
                signature=self._signature(self._transcript),
                may=may,
                unacknowledged=tuple(unacknowledged),
                seen=self._local.seen,
                takes=self._local.takes,
            )
        )
        self._state = _State.WELCOMED
        return frame

    def grants(
        self, may: May, unacknowledged: Sequence[str] = (), released: Sequence[str] = ()
    ) -> str:
        """Return the frame that says what the peer may ask; opens the dialler's link.

        Later, on either side, it tells a change, or what was `released`.

        Raises:
            LocalProtocolError: before the peer was introduced, or after the end.
        """
        deciding = self.side == "dialler" and self._state is _State.INTRODUCED
        if not deciding and self._state is not _State.OPEN:
            raise LocalProtocolError("`grants` comes after the introduction")
        grants = Grants(may=may, unacknowledged=tuple(unacknowledged), released=tuple(released))
        frame = encode(grants)
        if deciding:
            assert self._offered is not None
            self._open(self._offered.may, self._offered.unacknowledged)
        return frame

    def refuse(self, code: str, reason: str) -> str:
        """Return the frame that ends the link with a reason the peer may know."""
        self._state = _State.CLOSED
        return encode(Failure(code=code, reason=cut(reason, _REASON_CHARACTERS)))

    def send(self, message: Message) -> str:
        """Return the frame of `message`.

        Raises:
            LocalProtocolError: the link is not open, the frame is too large, or the message
                belongs to the handshake.
        """
        if isinstance(message, _OWN_WAY):
            raise LocalProtocolError(f"a `{message.type}` is not sent like that")
        if self._state is not _State.OPEN:
            raise LocalProtocolError(f"a `{message.type}` needs an open link")
        return encode(message)

    def _receive(self, message: Message) -> list[SessionEvent]:
        if isinstance(message, Failure):
            if not message.about:
                self._state = _State.CLOSED
            return [Got(message)]
        match self._state, message:
            case _State.OPEN, _ if not isinstance(message, (Challenge, Hello, Welcome)):
                return self._heard(message)
            case _State.CONNECTED, Challenge() if self.side == "dialler":
                return self._challenged(message)
            case _State.CONNECTED, Hello() if self.side == "acceptor":
                return self._greeted(message)
            case _State.GREETED, Welcome():
                return self._welcomed(message)
            case _State.WELCOMED, Grants():
                return [self._open(message.may, message.unacknowledged)]
            case _:
                raise RemoteProtocolError(
                    f"the peer sent a `{message.type}` where none may come"
                    f" ({self.side}, {self._state.name.lower()})"
                )

    def _heard(self, message: Message) -> list[SessionEvent]:
        if isinstance(message, Ping):
            self._out.append(encode(Pong(nonce=message.nonce)))
            return []
        return [Got(message)]

    def _challenged(self, challenge: Challenge) -> list[SessionEvent]:
        self._check_node(challenge.node)
        minors = (challenge.minor, challenge.minor_minimum)
        common_minor(self._local, *minors)
        self._transcript = Transcript(
            dialler=self._local.node_id,
            acceptor=self._peer_id,
            dialler_nonce=self._nonce,
            acceptor_nonce=challenge.nonce,
            dialler_minors=(self._local.minor, self._local.minor_minimum),
            acceptor_minors=minors,
        )
        hello = Hello(
            minor=self._local.minor,
            minor_minimum=self._local.minor_minimum,
            software=self._local.software,
            node=self._local.node_id,
            incarnation=self._local.incarnation,
            key=self._local.key,
            nonce=self._nonce,
            signature=self._signature(self._transcript),
            seen=self._local.seen,
            takes=self._local.takes,
        )
        self._out.append(encode(hello))
        self._state = _State.GREETED
        return []

    def _greeted(self, hello: Hello) -> list[SessionEvent]:
        self._check_node(hello.node)
        minors = (hello.minor, hello.minor_minimum)
        self._transcript = Transcript(
            dialler=self._peer_id,
            acceptor=self._local.node_id,
            dialler_nonce=hello.nonce,
            acceptor_nonce=self._nonce,
            dialler_minors=minors,
            acceptor_minors=(self._local.minor, self._local.minor_minimum),
        )
        return self._introduce(hello, common_minor(self._local, *minors))

    def _welcomed(self, welcome: Welcome) -> list[SessionEvent]:
        assert self._transcript is not None
        minor = common_minor(self._local, *self._transcript.acceptor_minors)
        if welcome.minor != minor:
            raise RemoteProtocolError(
                f"the peer chose minor version {welcome.minor}, both speak {minor}"
            )
        self._offered = welcome
        return self._introduce(welcome, minor)

    def _introduce(self, proof: Hello | Welcome, minor: int) -> list[SessionEvent]:
        assert self._transcript is not None
        peer_side: Side = "dialler" if self.side == "acceptor" else "acceptor"
        signed = hello_bytes(peer_side, self._transcript, proof.key, proof.incarnation)
        if not self._verify(proof.key, signed, proof.signature):
            raise RemoteProtocolError("the peer could not prove its cmesh key")
        self._introduced = Introduced(
            key=proof.key,
            incarnation=proof.incarnation,
            minor=minor,
            software=one_line(proof.software, 64),
            seen=proof.seen,
            takes=frozenset(proof.takes),
        )
        self._state = _State.INTRODUCED
        return [self._introduced]

    def _open(self, may: May, unacknowledged: tuple[str, ...]) -> Opened:
        assert self._introduced is not None
        self.opened = Opened(
            key=self._introduced.key,
            incarnation=self._introduced.incarnation,
            minor=self._introduced.minor,
            software=self._introduced.software,
            takes=self._introduced.takes,
            may=may,
            unacknowledged=unacknowledged,
        )
        self._state = _State.OPEN
        return self.opened

    def _check_node(self, claimed: str) -> None:
        if claimed != self._peer_id:
            raise RemoteProtocolError(
                f"the peer says it is node `{one_line(claimed, 60)}`, the tailnet says"
                f" `{self._peer_id}`"
            )

    def _signature(self, transcript: Transcript) -> str:
        return self._sign(
            hello_bytes(self.side, transcript, self._local.key, self._local.incarnation)
        )

    def _fail(self, code: str, reason: str) -> None:
        self._state = _State.CLOSED
        self._out.append(encode(Failure(code=code, reason=cut(reason, _REASON_CHARACTERS))))
