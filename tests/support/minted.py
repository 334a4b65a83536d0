"""A token that verified, for tests of what is revoked."""

from __future__ import annotations

import json

from authsvc.core.claims import ACCESS_TOKEN_TYPE, ACCESS_TOKEN_TYPES, Issuer, TokenDraft, VerifiedToken, sign_token
from authsvc.core.claims import verify_signature_and_claims as verify
from authsvc.core.jose import Algorithm, PrivateKey, VerificationKey
from authsvc.core.revocations import RevocationKind
from tests.support.record_values import NOW

ISSUER = "https://auth.example"
KEY = PrivateKey.generate(Algorithm.EDDSA)
OF_TOKEN = {
    RevocationKind.TOKEN: "jti-1",
    RevocationKind.SUBJECT: "user:ann",
    RevocationKind.CLIENT: "billing",
    RevocationKind.ISSUER: ISSUER,
}


def token(minted_at: tuple[int, int] | None) -> VerifiedToken:
    """A token that verified, minted at a revision, or without saying so."""
    public = VerificationKey.from_jwk(KEY.public_jwk(), minimum_rsa_bits=3072)
    trusted = Issuer(ISSUER, {KEY.kid: public}, frozenset({Algorithm.EDDSA}), ACCESS_TOKEN_TYPES, frozenset())
    draft = TokenDraft(
        issuer=ISSUER,
        subject="user:ann",
        audience=("orders",),
        client_id="billing",
        token_id="jti-1",
        issue_time=NOW,
        expire_time=NOW + 60,
        minted_at=minted_at or (1, 1),
    )
    if minted_at is not None:
        return verify(sign_token(KEY, draft), {ISSUER: trusted})
    claims = {name: value for name, value in json.loads(draft.payload()).items() if name != "authsvc_rev"}
    return verify(KEY.sign_compact(ACCESS_TOKEN_TYPE, json.dumps(claims).encode()), {ISSUER: trusted})
