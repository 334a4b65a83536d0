"""What a revocation names, and the digest that stands for it.

Owns: `RevocationKind`, `revocation_digest`. May import: the standard library's pure part. Record, snapshot and whoever
watches compute the same digest, so that no identifier is kept or spread for what is revoked.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum


class RevocationKind(StrEnum):
    """What a revocation names."""

    TOKEN = "token"  # noqa: S105 - a kind, not a credential
    SUBJECT = "subject"
    CLIENT = "client"
    ISSUER = "issuer"


def revocation_digest(kind: RevocationKind, value: str) -> bytes:
    """The 16 bytes that stand for a revoked `jti`, `sub`, `client_id` or `iss` (protos, `Revocation.digest`)."""
    digest = hashlib.blake2b(value.encode(), digest_size=16, person=kind.value.encode())
    return digest.digest()
