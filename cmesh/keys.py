"""This node's Ed25519 key (RFC 8032): what peers pin, what signs hellos and receipts.

Keys and signatures travel as unpadded base64url (RFC 4648, section 5). Nothing
here decides whom to trust.
"""

import base64
import binascii
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cmesh.errors import ConfigError
from cmesh.paths import require_private_file

__all__ = ["SigningKey", "fingerprint", "verify"]

_SEED_BYTES = 32


class SigningKey:
    """A private key in memory.

    Attributes:
        public: the public key, 43 characters of base64url.
    """

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = _encode(self._key.public_key().public_bytes_raw())

    @classmethod
    def load_or_make(cls, path: Path) -> "SigningKey":
        """Read the key at `path`; make one, mode 0600, when there is none. Blocks on disk.

        Raises:
            UnsafePermissions: others can read the file.
            ConfigError: the file is not a key.
        """
        if not path.exists():
            _write_new(path, os.urandom(_SEED_BYTES))
        require_private_file(path, secret=True)
        seed = path.read_bytes()
        if len(seed) != _SEED_BYTES:
            raise ConfigError(f"`{path}` is not a cmesh key", hint="restore it from a backup")
        return cls(seed)

    def sign(self, message: bytes) -> str:
        """Return the signature over `message`."""
        return _encode(self._key.sign(message))


def verify(public: str, message: bytes, signature: str) -> bool:
    """Say whether `signature` is `public`'s over `message`; malformed text is no signature."""
    try:
        key = Ed25519PublicKey.from_public_bytes(_decode(public))
        key.verify(_decode(signature), message)
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def fingerprint(public: str) -> str:
    """Return what people compare: 20 hex digits of the key's SHA-256, in groups of four."""
    digest = hashlib.sha256(public.encode()).hexdigest()[:20]
    return " ".join(digest[at : at + 4] for at in range(0, 20, 4))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _write_new(path: Path, seed: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, seed)
        os.fsync(fd)
    finally:
        os.close(fd)
    fresh.rename(path)
