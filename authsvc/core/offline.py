"""Verification of any JWT against a JWKS file, without a service.

Owns: the rules of `authsvc token verify --jwks FILE --stdin`. May import: the standard library, `core`. Syntax, key,
signature and `exp` are always checked as the service checks them; issuer, audience, type and algorithm only where an
expectation is given, because only the caller knows what they should be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from authsvc.core import claims, jose
from authsvc.core.claims import IGNORE, Ignore
from authsvc.core.errors import Reason, TokenRefused

NOT_A_JWT = "signature good, not a JWT"
"""The reason for a JWS that verifies and whose payload is no claims set."""


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a token must be; `IGNORE` leaves a side unchecked. Without `algorithm` the key fixes it (STANDARDS J3)."""

    issuer: str | Ignore = IGNORE
    audience: str | Ignore = IGNORE
    typ: str | Ignore = IGNORE
    algorithm: jose.Algorithm | Ignore = IGNORE
    leeway: int = 0


def verify_lines(
    jwks_text: str | bytes, expectations: Expectations, now: Callable[[], int]
) -> Callable[[str], dict[str, Any]]:
    """A function from a line with a token to `{"valid": bool, "reason": text}`; the reason of a valid one is empty.

    Reasons are `Reason.text` or `NOT_A_JWT`. RSA keys have 2,048 bits at least. Raises InvalidRequest where the text is
    no JWKS; keys that cannot be used are left out, a private part that stands in one is not looked at.
    """
    algorithm = None if expectations.algorithm is IGNORE else expectations.algorithm
    keys = jose.verification_keys(jwks_text, algorithm=algorithm, ignore_private=True)

    def answer(line: str) -> dict[str, Any]:
        try:
            parsed = jose.parse_compact(line.strip())
            _verify_signature(parsed, keys, expectations)
        except TokenRefused as refused:
            return {"valid": False, "reason": refused.reason.text}
        try:
            claim_set = claims.read_claims(parsed)
        except TokenRefused:
            return {"valid": False, "reason": NOT_A_JWT}
        try:
            _verify_claims(parsed.header, claim_set, expectations, now())
        except TokenRefused as refused:
            return {"valid": False, "reason": refused.reason.text}
        return {"valid": True, "reason": ""}

    return answer


def _verify_signature(
    parsed: jose.ParsedToken, keys: Mapping[str, jose.VerificationKey], expectations: Expectations
) -> None:
    claims.check_algorithm(parsed.header)
    key = _key(parsed.header, keys)
    if expectations.algorithm is not IGNORE and key.algorithm is not expectations.algorithm:
        raise TokenRefused("the key is of another algorithm", Reason.TOKEN_ALGORITHM_REFUSED)
    jose.verify_signature(parsed, key)


def _key(header: jose.Header, keys: Mapping[str, jose.VerificationKey]) -> jose.VerificationKey:
    """The key that `kid` names; without `kid` the only one there is, since a set of one needs no name."""
    if "kid" not in header.members and len(keys) == 1:
        return next(iter(keys.values()))
    key = None if header.kid is None else keys.get(header.kid)
    if key is None:
        raise TokenRefused("the key set has no such key", Reason.TOKEN_KEY_UNKNOWN)
    return key


def _verify_claims(header: jose.Header, claim_set: Mapping[str, Any], expectations: Expectations, now: int) -> None:
    if expectations.typ is not IGNORE:
        claims.check_type(header, frozenset({expectations.typ.lower()}))
    registered = claims.registered_claims(claim_set)
    if expectations.issuer is not IGNORE and registered.issuer != expectations.issuer:
        raise TokenRefused("`iss` is another", Reason.TOKEN_ISSUER_UNKNOWN)
    audience: frozenset[str] | Ignore = (
        IGNORE if expectations.audience is IGNORE else frozenset({expectations.audience})
    )
    claims.check_now(registered, now=now, leeway=expectations.leeway, audience=audience)
