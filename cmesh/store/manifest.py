"""What an export says of itself: its files by digest, the log's head, the keys, one signature.

Pure. The signature is over everything else in the file, so that whoever changed a file of the
export must also forge it. It does not say whose the key is: peers' keys, each with how it came
to be trusted, are in the manifests of the nodes that trust it.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cmesh.errors import StoreDamaged
from cmesh.keys import SigningKey, verify
from cmesh.model import NodeId
from cmesh.protocol.receipts import canonical, head_bytes

__all__ = [
    "CONFIRMED",
    "FORMAT",
    "MANIFEST",
    "MOST_BYTES",
    "ExportedFile",
    "Manifest",
    "Origin",
    "TrustedPeer",
    "how_trusted",
    "read_manifest",
    "seal",
]

FORMAT = "cmesh-export/1"
MANIFEST = "manifest.json"
MOST_BYTES = 64 * 1024 * 1024
"""No manifest is longer: some hundred bytes a file, some ten files a day."""

CONFIRMED = {"pair": "person", "owner": "person", "delegate": "first_use"}
"""From what decided about a key to how it was trusted; see `peers.decided_by`."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*(/[A-Za-z0-9_][A-Za-z0-9_.=-]*)*", re.ASCII)
_SHA256 = "^[0-9a-f]{64}$"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ExportedFile(_Part):
    """One Parquet file.

    Attributes:
        path: below the manifest's directory, with slashes.
        kind: `rows` = the chain and what it covers, `views` = as people ask it.
        name: the table or view; `day` is in UTC, empty where rows have no moment.
        rows: how many; `first_seq` and `last_seq` are the least and greatest number in it.
    """

    path: str
    kind: Literal["rows", "views"]
    name: str
    day: str
    rows: int
    first_seq: int | None
    last_seq: int | None
    size: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)

    @field_validator("path")
    @classmethod
    def _below(cls, path: str) -> str:
        # No `..`, nothing absolute: the file may be hostile, and paths are opened.
        if not _NAME.fullmatch(path) or not path.endswith(".parquet"):
            raise ValueError("not a path of an export")
        return path


class TrustedPeer(_Part):
    """A peer's public key as this node knew it: `how` is `person`, `first_use` or `unknown`."""

    peer_id: str
    peer: str
    key: str
    trusted: bool
    decided_by: str
    how: str


class Origin(_Part):
    """The store's own name, as its first row has it: microseconds since 1970 in `created_us`."""

    incarnation: str
    node: str
    created_us: int


class Manifest(_Part):
    """One export: everything of one node's log from row 1 to row `last_seq`.

    Attributes:
        node_id: of the node when it last came up; empty = it never did.
        key: its public key, 43 characters of base64url; it signed `head_signature`, over the
            bytes by which peers hold heads, and `signature`.
        incarnation: the store's; a restored one gets another.
        schema_version: of the rows; `schema` is a word of pydantic's.
    """

    format: Literal["cmesh-export/1"]
    node: str
    node_id: str
    key: str
    incarnation: str
    origin: Origin
    schema_version: int
    cmesh: str
    exported_at: str
    first_seq: int
    last_seq: int = Field(ge=1)
    head_hash: str = Field(pattern=_SHA256)
    head_signature: str
    files: tuple[ExportedFile, ...]
    peers: tuple[TrustedPeer, ...]
    signature: str = ""

    def rows(self) -> dict[str, list[ExportedFile]]:
        """Return the files of the chain by table."""
        found: dict[str, list[ExportedFile]] = {}
        for file in self.files:
            if file.kind == "rows":
                found.setdefault(file.name, []).append(file)
        return found


def how_trusted(decided_by: str) -> str:
    """Return whether a person compared the key, or it was pinned on first use."""
    return CONFIRMED.get(decided_by, "unknown")


def seal(manifest: Manifest, key: SigningKey) -> bytes:
    """Return a manifest as its file holds it, signed."""
    head = head_bytes(NodeId(manifest.node_id), manifest.last_seq, manifest.head_hash)
    fields = manifest.model_copy(update={"head_signature": key.sign(head)}).model_dump(mode="json")
    del fields["signature"]
    signature = key.sign(canonical("export", fields))
    return json.dumps({**fields, "signature": signature}, indent=1, sort_keys=True).encode() + b"\n"


def read_manifest(data: bytes, where: str) -> Manifest:
    """Return the manifest in a file, whose signatures are its own key's.

    Raises:
        StoreDamaged: it is none, or what it says was not signed so; `where` names it.
    """
    try:
        fields = cast("dict[str, Any]", json.loads(data))
        manifest = Manifest.model_validate(fields)
    except (ValueError, ValidationError, RecursionError) as error:
        raise StoreDamaged(f"`{where}` is no manifest of an export") from error
    signature = fields.pop("signature", "")
    head = head_bytes(NodeId(manifest.node_id), manifest.last_seq, manifest.head_hash)
    if not verify(manifest.key, _signed(fields, where), str(signature)) or not verify(
        manifest.key, head, manifest.head_signature
    ):
        raise StoreDamaged(f"`{where}` is not what its key signed")
    return manifest


def trusted_peers(rows: Sequence[tuple[str, str, str, bool, str]]) -> tuple[TrustedPeer, ...]:
    """Return peers from rows (peer_id, peer, key, trusted, decided_by)."""
    return tuple(
        TrustedPeer(peer_id=i, peer=p, key=k, trusted=t, decided_by=by, how=how_trusted(by))
        for i, p, k, t, by in rows
    )


def _signed(fields: dict[str, Any], where: str) -> bytes:
    try:
        return canonical("export", fields)
    except (ValueError, RecursionError) as error:
        raise StoreDamaged(f"`{where}` is no manifest of an export") from error
