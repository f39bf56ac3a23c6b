"""Frames of link protocol `cmesh.v1`: JSON text for messages, a fixed binary form for chunks.

Pure: bytes and values. When a message may come is `cmesh.protocol.session`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pydantic import TypeAdapter, ValidationError

from cmesh.errors import LocalProtocolError, RemoteProtocolError
from cmesh.model import TaskId
from cmesh.protocol.messages import FRAME_BYTES, Message
from cmesh.text import one_line

__all__ = ["CHUNK_BYTES", "Chunk", "decode", "decode_chunk", "encode", "encode_chunk"]

CHUNK_BYTES = 256 * 1024
"""Data in one chunk that we send: small enough to let other tasks' messages through."""

ECHO_CHARACTERS = 60
"""How much of a peer's garbage an error repeats."""

_ID_BYTES, _HASH_BYTES, _OFFSET_BYTES = 16, 32, 8
_HEAD_BYTES = _ID_BYTES + _HASH_BYTES + _OFFSET_BYTES + 1
_OFFSET_LIMIT = 2**63
_MESSAGE: Final[TypeAdapter[Message]] = TypeAdapter(Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a kept output.

    Attributes:
        sha256: hex digest of the whole output, not of this piece.
        offset: bytes of the output before this piece.
        final: no piece follows.
    """

    task_id: TaskId
    sha256: str
    offset: int
    data: bytes
    final: bool


def encode(message: Message) -> str:
    """Return the text frame of `message`.

    Raises:
        LocalProtocolError: the frame would be larger than `FRAME_BYTES`.
    """
    text = message.model_dump_json()
    if _too_large(text):
        raise LocalProtocolError(f"a `{message.type}` would be larger than {FRAME_BYTES} bytes")
    return text


def decode(text: str) -> Message:
    """Return the message in a text frame; unknown fields are left out.

    Raises:
        RemoteProtocolError: too large, not JSON, of an unknown type, or a field is wrong.
    """
    if _too_large(text):
        raise RemoteProtocolError(f"the peer sent a frame larger than {FRAME_BYTES} bytes")
    try:
        return _MESSAGE.validate_json(text)
    except ValidationError as error:
        raise RemoteProtocolError(_explain(error, text)) from None


def encode_chunk(task_id: TaskId, sha256: str, offset: int, data: bytes, *, final: bool) -> bytes:
    """Return the binary frame: task UUID, SHA-256, big-endian offset, flag byte, data.

    Raises:
        LocalProtocolError: the frame would be larger than `FRAME_BYTES`.
    """
    if _HEAD_BYTES + len(data) > FRAME_BYTES:
        raise LocalProtocolError(f"a chunk would be larger than {FRAME_BYTES} bytes")
    head = bytes.fromhex(task_id.replace("-", "")) + bytes.fromhex(sha256)
    return head + offset.to_bytes(_OFFSET_BYTES, "big") + bytes([final]) + data


def decode_chunk(frame: bytes) -> Chunk:
    """Return the chunk in a binary frame.

    Raises:
        RemoteProtocolError: too short, too large, not a UUIDv7, or an unknown flag.
    """
    if not _HEAD_BYTES <= len(frame) <= FRAME_BYTES:
        raise RemoteProtocolError(f"the peer sent a binary frame of {len(frame)} bytes")
    at_offset = _ID_BYTES + _HASH_BYTES
    offset = int.from_bytes(frame[at_offset : at_offset + _OFFSET_BYTES], "big")
    flag = frame[_HEAD_BYTES - 1]
    if flag > 1 or offset >= _OFFSET_LIMIT or frame[6] >> 4 != 7:
        raise RemoteProtocolError(f"the peer sent a chunk with a wrong head (flag {flag})")
    return Chunk(
        task_id=_task_id(frame[:_ID_BYTES].hex()),
        sha256=frame[_ID_BYTES:at_offset].hex(),
        offset=offset,
        data=frame[_HEAD_BYTES:],
        final=flag == 1,
    )


def _task_id(digits: str) -> TaskId:
    bounds = (0, 8, 12, 16, 20, 32)
    return TaskId("-".join(digits[a:b] for a, b in pairwise(bounds)))


def _too_large(text: str) -> bool:
    """Say whether `text` has too many bytes as UTF-8, encoding it only when in doubt."""
    if len(text) > FRAME_BYTES:
        return True
    return len(text) * 4 > FRAME_BYTES and len(text.encode("utf-8", "replace")) > FRAME_BYTES


def _explain(error: ValidationError, text: str) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    kind = first["type"]
    if kind == "union_tag_invalid":
        tag = one_line(str(first.get("ctx", {}).get("tag", "")), ECHO_CHARACTERS)
        return f"the peer sent a message of unknown type `{tag}`"
    if kind == "json_invalid":
        return f"the peer sent a frame that is not JSON: `{one_line(text[:200], ECHO_CHARACTERS)}`"
    if kind in {"union_tag_not_found", "model_attributes_type"} or not first["loc"]:
        return f"the peer sent a frame without a type: `{one_line(text[:200], ECHO_CHARACTERS)}`"
    where = one_line(".".join(str(part) for part in first["loc"][1:]), ECHO_CHARACTERS)
    name = first["loc"][0]
    return f"the peer sent a `{name}` with a wrong `{where}`: {one_line(first['msg'], 120).lower()}"
