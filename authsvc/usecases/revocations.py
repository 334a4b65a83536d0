"""Revoke tokens: one, or everything minted so far for a subject, a client or the issuer.

Owns: what a revocation request becomes in the record. May import: `core`, `state`, `ports`, `usecases`.
"""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from authsvc.core import claims
from authsvc.core.errors import InvalidRequest, TokenRefused
from authsvc.core.revocations import RevocationKind
from authsvc.ports.record import Revocation
from authsvc.usecases.writes import Act, Writer

if TYPE_CHECKING:
    from authsvc.core.values import Revision
    from authsvc.state.snapshot import Snapshot
    from authsvc.usecases.keyring import Keyring


class Target(StrEnum):
    """What a request names."""

    TOKEN = "token"  # noqa: S105 a kind, not a credential
    TOKEN_ID = "token_id"  # noqa: S105 a kind, not a credential
    SUBJECT = "subject"
    CLIENT = "client_id"
    ISSUER = "issuer"


class Revocations:
    """The administrator's verb on tokens."""

    def __init__(self, writer: Writer, keyring: Keyring, *, issuer: str, longest_life: int) -> None:
        self._writer = writer
        self._keyring = keyring
        self._issuer = issuer
        self._longest_life = longest_life

    async def revoke(
        self, snapshot: Snapshot, target: Target, value: str, *, actor: str, now: int, deadline: float
    ) -> Revision:
        """Refuse what is named; the first revision that refuses it (STANDARDS J21).

        Raises InvalidRequest where a token is not one of ours, or the issuer is another.
        """
        revocation = self._revocation(snapshot, target, value, now)
        subject = value if target is Target.SUBJECT else ""
        subject = f"client:{value}" if target is Target.CLIENT else subject
        detail = {"target": target.value}
        if revocation.kind is RevocationKind.TOKEN:
            detail["token_id"] = revocation.value
        act = Act("authsvc.tokens:revoke", actor, now, subject=subject, detail=detail)
        verb = partial(self._writer.record.revoke, (revocation,))
        return (await self._writer.write(verb, act, deadline)).revision

    def _revocation(self, snapshot: Snapshot, target: Target, value: str, now: int) -> Revocation:
        forget = now + self._longest_life
        match target:
            case Target.TOKEN:
                try:
                    issuers = self._keyring.issuers(snapshot, self._issuer)
                    verified = claims.verify_signature_and_claims(value, issuers)
                except TokenRefused:
                    raise InvalidRequest.of("token", "is not a token of this service") from None
                return Revocation(RevocationKind.TOKEN, verified.token_id, max(forget, verified.expire_time))
            case Target.TOKEN_ID:
                return Revocation(RevocationKind.TOKEN, value, forget)
            case Target.SUBJECT:
                return Revocation(RevocationKind.SUBJECT, value, forget)
            case Target.CLIENT:
                return Revocation(RevocationKind.CLIENT, value, forget)
            case Target.ISSUER:
                if value != self._issuer:
                    raise InvalidRequest.of("issuer", "is not the issuer of this service")
                return Revocation(RevocationKind.ISSUER, value, forget)
