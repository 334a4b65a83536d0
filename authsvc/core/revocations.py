"""What a revocation names, and the digest that stands for it.

Owns: `RevocationKind`, `revocation_digest`, and `refuses`, which tokens they refuse. May import: the standard library's
pure part. Record, snapshot and whoever watches compute the same digest, so that no identifier is kept or spread for
what is revoked, and decide by the same rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authsvc.core.claims import VerifiedToken

Since = Mapping[bytes, tuple[tuple[int, int], int]]
"""Digest -> (tokens minted below this epoch and number are refused, when it may be forgotten, in whichever unit)."""


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


def refuses(token: VerifiedToken, tokens: Collection[bytes], subjects: Since, clients: Since, issuers: Since) -> bool:
    """Whether the token is revoked (STANDARDS J21): by itself, or minted below what refuses those of its kind.

    No leeway and no clock: an entry counts for as long as it is there. A token that does not say when it was minted is
    refused: nothing could ever revoke it.
    """
    minted_at = token.minted_at
    if minted_at is None:
        return True
    # Looked at before hashing: most deployments have no such revocation alive, and this is on every call's path.
    if not (tokens or subjects or clients or issuers):
        return False
    return (
        (bool(tokens) and revocation_digest(RevocationKind.TOKEN, token.token_id) in tokens)
        or _refuses(subjects, RevocationKind.SUBJECT, token.subject, minted_at)
        or _refuses(clients, RevocationKind.CLIENT, token.client_id, minted_at)
        or _refuses(issuers, RevocationKind.ISSUER, token.issuer, minted_at)
    )


def _refuses(since: Since, kind: RevocationKind, value: str, minted_at: tuple[int, int]) -> bool:
    if not since:
        return False
    found = since.get(revocation_digest(kind, value))
    return found is not None and minted_at < found[0]
