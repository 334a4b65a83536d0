"""Tokens for tests: signed as ours are, and forged in every way an attacker may."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from authsvc.core.claims import Issuer, TokenDraft
from authsvc.core.errors import Reason, TokenRefused
from authsvc.core.jose import Algorithm, PrivateKey, VerificationKey

ISSUER = "https://auth.example"
NOW = 1_800_000_000
AUDIENCE = frozenset({"orders"})

DRAFT = TokenDraft(
    issuer=ISSUER,
    subject="client:billing",
    audience=("orders",),
    client_id="billing",
    token_id="q2Vzb21lLTEyOC1iaXRzLg",
    issue_time=NOW,
    expire_time=NOW + 900,
    minted_at=(3, 41),
    scope=("orders.read",),
    roles=("editor",),
    tenant="acme",
)

ES256 = PrivateKey.generate(Algorithm.ES256)
OTHER = PrivateKey.generate(Algorithm.ES256)
EDDSA = PrivateKey.generate(Algorithm.EDDSA)
RS256 = PrivateKey.generate(Algorithm.RS256)


def b64(data: bytes | str) -> str:
    """Base64url without padding."""
    raw = data.encode() if isinstance(data, str) else data
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(
    header: Mapping[str, Any] | str | bytes,
    payload: Mapping[str, Any] | str | bytes,
    sign: PrivateKey | Callable[[bytes], bytes] = ES256,
) -> str:
    """A compact JWS of exactly this header and payload; texts and bytes are taken as they are."""
    parts = [b64(part if isinstance(part, str | bytes) else json.dumps(part)) for part in (header, payload)]
    signing_input = ".".join(parts)
    signer = sign.sign if isinstance(sign, PrivateKey) else sign
    return f"{signing_input}.{b64(signer(signing_input.encode()))}"


def header(key: PrivateKey = ES256, /, **changes: Any) -> dict[str, Any]:
    """The header of our access tokens, changed; None removes a member."""
    members = {"alg": key.algorithm.value, "kid": key.kid, "typ": "at+jwt", **changes}
    return {name: value for name, value in members.items() if value is not None}


def payload(**changes: Any) -> dict[str, Any]:
    """The claims of `DRAFT`, changed; None removes a claim."""
    return {name: value for name, value in (json.loads(DRAFT.payload()) | changes).items() if value is not None}


def draft(**changes: Any) -> TokenDraft:
    """`DRAFT`, changed."""
    return replace(DRAFT, **changes)


def public(key: PrivateKey) -> VerificationKey:
    """The public half."""
    return VerificationKey.from_jwk(key.public_jwk())


def trust(*keys: PrivateKey, name: str = ISSUER, **changes: Any) -> dict[str, Issuer]:
    """One trusted issuer with these keys."""
    values: dict[str, Any] = {
        "issuer": name,
        "keys": {key.kid: public(key) for key in keys},
        "algorithms": frozenset(key.algorithm for key in keys),
        **changes,
    }
    return {name: Issuer(**values)}


def reason_of(verify: Callable[[], object]) -> Reason | None:
    """Why a token is refused; None where it is not."""
    try:
        verify()
    except TokenRefused as refused:
        return refused.reason
    return None


def refused(reason: Reason, verify: Callable[[], object]) -> None:
    """Assert that a token is refused for this reason."""
    with pytest.raises(TokenRefused) as caught:
        verify()
    assert caught.value.reason is reason
