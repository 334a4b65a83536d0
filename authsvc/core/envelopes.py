"""Envelopes: secrets at rest, sealed under a key-encryption key.

Owns: the format of an envelope and what it is bound to (STANDARDS K6). May import: the standard library,
`cryptography`, `core`. An envelope is version (1 byte), id of the sealing key (8), nonce (12), AES-256-GCM
ciphertext with its tag (16). Its associated data are version, key id, purpose, name and algorithm, so that an
envelope opens only in the place it was made for. Randomness is given by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from authsvc.core.errors import Internal
from authsvc.core.framing import length_prefixed

PRIVATE_KEY = "private-key"
"""Purpose of a signing key's envelope: the name is the `kid`, the algorithm the key's."""

SECRET = "wrapped-secret"  # noqa: S105 - a purpose, not a secret
"""Purpose of the record's own secrets (hash keys, MAC keys): the name is the secret's."""

NONCE_BYTES = 12
KEY_BYTES = 32

_VERSION = b"\x01"
_KEY_ID_BYTES = 8
_HEADER_BYTES = 1 + _KEY_ID_BYTES + NONCE_BYTES
_TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class Kek:
    """A key-encryption key: 32 random bytes. Its id tells which key sealed an envelope and reveals nothing."""

    key_bytes: bytes = field(repr=False)
    id: bytes = field(init=False)
    _cipher: AESGCM = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.key_bytes) != KEY_BYTES:
            raise ValueError(f"a key-encryption key has {KEY_BYTES} bytes")
        digest = sha256(length_prefixed(b"authsvc key-encryption key id", self.key_bytes)).digest()
        object.__setattr__(self, "id", digest[:_KEY_ID_BYTES])
        object.__setattr__(self, "_cipher", AESGCM(self.key_bytes))

    def encrypt(self, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """AES-256-GCM; a nonce is never used twice under one key."""
        return self._cipher.encrypt(nonce, plaintext, associated)

    def decrypt(self, nonce: bytes, ciphertext: bytes, associated: bytes) -> bytes:
        """The inverse of `encrypt`; raises `cryptography.exceptions.InvalidTag`."""
        return self._cipher.decrypt(nonce, ciphertext, associated)


def seal(kek: Kek, plaintext: bytes, purpose: str, name: str, algorithm: str = "", *, nonce: bytes) -> bytes:
    """Seal a secret for one purpose, name and algorithm. `nonce` is 12 random bytes, never used again."""
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    header = _VERSION + kek.id + nonce
    return header + kek.encrypt(nonce, plaintext, _associated(kek, purpose, name, algorithm))


def open_envelope(kek: Kek, blob: bytes, purpose: str, name: str, algorithm: str = "") -> bytes:
    """The secret of an envelope; raises Internal where it was made for another place, by another key, or is broken."""
    if len(blob) < _HEADER_BYTES + _TAG_BYTES or blob[:1] != _VERSION:
        raise Internal("a stored envelope is not one")
    if sealed_by(blob) != kek.id:
        raise Internal("a stored envelope was sealed by another key-encryption key")
    nonce, ciphertext = blob[_HEADER_BYTES - NONCE_BYTES : _HEADER_BYTES], blob[_HEADER_BYTES:]
    try:
        return kek.decrypt(nonce, ciphertext, _associated(kek, purpose, name, algorithm))
    except InvalidTag:
        raise Internal("a stored envelope does not open in its place") from None


def sealed_by(blob: bytes) -> bytes:
    """The id of the key that sealed an envelope; meaningful only for what `seal` made."""
    return blob[1 : 1 + _KEY_ID_BYTES]


def _associated(kek: Kek, purpose: str, name: str, algorithm: str) -> bytes:
    return length_prefixed(b"authsvc envelope", _VERSION, kek.id, purpose.encode(), name.encode(), algorithm.encode())
