"""Access tokens: what they claim, and when a claim holds.

Owns: the claims of an access token (RFC 9068), the rules of verification (RFC 8725, RFC 7519 section 7.2), and
`VerifiedToken`, which only this module makes. May import: the standard library, `core`. The clock is an argument.

Verification has two halves, so that a cache can hold the first (STANDARDS U13): `verify_signature_and_claims` reads
what never changes while the key is published, `check_now` what depends on the clock and the caller. Revocation of a
token, subject, client or issuer is looked up by the caller in its snapshot, by `minted_at` (STANDARDS J21).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from enum import Enum
from functools import lru_cache
from math import ceil, floor
from typing import Any, Final

from authsvc.core import jose, strict_json
from authsvc.core.errors import Reason, TokenRefused
from authsvc.core.values import has_control

ACCESS_TOKEN_TYPE = "at+jwt"  # noqa: S105 - a media type
ACCESS_TOKEN_TYPES = frozenset({ACCESS_TOKEN_TYPE, "application/at+jwt"})
"""`typ` of an access token (RFC 9068 section 2.1), compared without regard to case (RFC 7515 section 4.1.9)."""

MAX_LEEWAY = 60
"""Seconds of clock difference that a leeway may grant at most (STANDARDS J15)."""

MAX_TIME = 253_402_300_799
"""The last second of the year 9999, the last that a protobuf Timestamp can hold."""

_NO_SCOPE: Final = frozenset[str]()
_SCOPE = re.compile(r"(?:[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*)?")
_MINTED_AT = re.compile(r"([1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,17})")
_MAX_TEXT = 1024
_MINT: Final = object()


class Ignore(Enum):
    """The one value that says: this is deliberately not checked. Nothing is ignored by omission."""

    IGNORE = "ignore"


IGNORE: Final = Ignore.IGNORE


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer that is trusted, with keys, algorithms and types of its own (STANDARDS J1, J5, J13).

    `keys` by `kid`; `types` are the values of `typ` that it may use, lower case; `revoked_kids` are refused by name.
    """

    issuer: str
    keys: Mapping[str, jose.VerificationKey]
    algorithms: frozenset[jose.Algorithm]
    types: frozenset[str] = ACCESS_TOKEN_TYPES
    revoked_kids: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.issuer or not self.algorithms or not self.types:
            raise ValueError("an issuer has a name, an allowlist of algorithms, and types")


@dataclass(frozen=True, slots=True)
class RegisteredClaims:
    """The claims of RFC 7519 section 4.1 that verification needs, typed; times in unix seconds."""

    issuer: str | None
    audience: tuple[str, ...]
    expire_time: int
    not_before: int | None
    issue_time: int | None


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """An access token whose signature and claims held. Only verification makes one.

    Times are unix seconds. `minted_at` is the order (epoch, number) of the revision it was minted at, None where
    the token does not say. Holding one does not mean that it is valid now: that is `check_now`, and revocation.
    """

    issuer: str
    subject: str
    audience: tuple[str, ...]
    client_id: str
    scope: tuple[str, ...]
    groups: tuple[str, ...]
    roles: tuple[str, ...]
    tenant: str
    token_id: str
    key_id: str
    issue_time: int
    expire_time: int
    not_before: int | None
    minted_at: tuple[int, int] | None
    scopes: frozenset[str] = field(init=False, repr=False, compare=False)
    """`scope` as a set: decisions ask for it at every use of the token."""
    mint: InitVar[object] = None

    def __post_init__(self, mint: object) -> None:
        if mint is not _MINT:
            raise TypeError("only verification makes a VerifiedToken")
        object.__setattr__(self, "scopes", frozenset(self.scope))


@dataclass(frozen=True, slots=True)
class TokenDraft:
    """An access token to be signed (RFC 9068 section 2.2). Times are unix seconds.

    `audience` is never empty (STANDARDS J12); the default audience of a client is the use case's. It holds no
    personal data beyond the subject (STANDARDS A6).
    """

    issuer: str
    subject: str
    audience: tuple[str, ...]
    client_id: str
    token_id: str
    issue_time: int
    expire_time: int
    minted_at: tuple[int, int]
    scope: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    tenant: str = ""

    def __post_init__(self) -> None:
        required = (self.issuer, self.subject, self.client_id, self.token_id)
        if not all(required) or not self.audience or not all(self.audience):
            raise ValueError("a token has an issuer, a subject, an audience, a client and an id")
        if self.expire_time <= self.issue_time:
            raise ValueError("a token lives at least a second")

    def payload(self) -> bytes:
        """The claims set as JSON; optional claims stand in it only where they say something."""
        lasting = _lasting_claims(
            self.issuer, self.subject, self.audience, self.client_id, self.scope, self.groups, self.roles, self.tenant
        )
        epoch, number = self.minted_at
        passing = (
            f',"iat":{self.issue_time},"exp":{self.expire_time},"jti":{_ENCODER.encode(self.token_id)}'
            f',"authsvc_rev":"{epoch}.{number}"}}'
        )
        return (lasting + passing).encode("utf-8")


def sign_token(private_key: jose.PrivateKey, draft: TokenDraft) -> str:
    """The draft as a signed access token in compact form."""
    return private_key.sign_compact(ACCESS_TOKEN_TYPE, draft.payload())


@lru_cache(4_096)
def _lasting_claims(
    issuer: str,
    subject: str,
    audience: tuple[str, ...],
    client_id: str,
    scope: tuple[str, ...],
    groups: tuple[str, ...],
    roles: tuple[str, ...],
    tenant: str,
) -> str:
    """What is the same in every token that a client asks for in the same way, as JSON without its closing brace."""
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": subject,
        "aud": audience[0] if len(audience) == 1 else audience,
        "client_id": client_id,
    }
    if scope:
        claims["scope"] = " ".join(scope)
    if groups:
        claims["groups"] = groups
    if roles:
        claims["roles"] = roles
    if tenant:
        claims["tenant"] = tenant
    return _ENCODER.encode(claims)[:-1]


def verify(
    token: str | bytes,
    issuers: Mapping[str, Issuer],
    *,
    now: int,
    leeway: int,
    audience: frozenset[str] | Ignore,
    required_scope: frozenset[str] = _NO_SCOPE,
) -> VerifiedToken:
    """Both halves of verification at once; raises TokenRefused with the reason."""
    verified = verify_signature_and_claims(token, issuers)
    check_now(verified, now=now, leeway=leeway, audience=audience, required_scope=required_scope)
    return verified


def verify_signature_and_claims(token: str | bytes, issuers: Mapping[str, Issuer]) -> VerifiedToken:
    """The half of verification that does not change: syntax, type, issuer, key, signature, claims.

    `issuers` by `iss`, compared exactly. Key and algorithms are the issuer's own, the key is found by `kid` and
    fixes the algorithm; `jku`, `jwk`, `x5u`, `x5c` are never looked at. Raises TokenRefused.
    """
    parsed = jose.parse_compact(token)
    check_algorithm(parsed.header)
    claims = read_claims(parsed)
    name = claims.get("iss")
    issuer = issuers.get(name) if isinstance(name, str) else None
    if issuer is None:
        raise TokenRefused("`iss` is not a trusted issuer", Reason.TOKEN_ISSUER_UNKNOWN)
    check_type(parsed.header, issuer.types)
    key = _key(parsed.header, issuer)
    jose.verify_signature(parsed, key)
    return _verified(claims, key.kid)


def check_now(
    verified: VerifiedToken | RegisteredClaims,
    *,
    now: int,
    leeway: int,
    audience: frozenset[str] | Ignore,
    required_scope: frozenset[str] = _NO_SCOPE,
) -> None:
    """The half of verification that depends on the clock and the caller; raises TokenRefused.

    At `expire_time` a token has expired (RFC 7519 section 4.1.4). `leeway` seconds, at most `MAX_LEEWAY`, are granted
    at `exp`, `nbf` and `iat`, never to a revocation. The token must be for one of `audience` and hold all of
    `required_scope`. Allocates nothing where the token is valid and no scope is required.
    """
    if not 0 <= leeway <= MAX_LEEWAY:
        raise ValueError(f"the leeway is 0 to {MAX_LEEWAY} seconds")
    if now >= verified.expire_time + leeway:
        raise TokenRefused("the token has expired", Reason.TOKEN_EXPIRED)
    latest = now + leeway
    if (verified.issue_time is not None and verified.issue_time > latest) or (
        verified.not_before is not None and verified.not_before > latest
    ):
        raise TokenRefused("the token is not valid yet", Reason.TOKEN_NOT_YET_VALID)
    if audience is not IGNORE and audience.isdisjoint(verified.audience):
        raise TokenRefused("the token is not for this audience", Reason.TOKEN_AUDIENCE_MISMATCH)
    if required_scope and not (isinstance(verified, VerifiedToken) and required_scope <= verified.scopes):
        raise TokenRefused("the token lacks a required scope", Reason.TOKEN_SCOPE_INSUFFICIENT)


def check_algorithm(header: jose.Header) -> None:
    """Raise TokenRefused unless `alg` names an algorithm that is served at all (STANDARDS J2)."""
    if header.algorithm is None:
        raise TokenRefused("`alg` is not an algorithm served here", Reason.TOKEN_ALGORITHM_REFUSED)


def check_type(header: jose.Header, types: frozenset[str]) -> None:
    """Raise TokenRefused unless `typ` is one of `types`, which are lower case (STANDARDS J13)."""
    if header.typ not in types:
        raise TokenRefused("`typ` is not the type that is expected", Reason.TOKEN_TYPE_REFUSED)


def read_claims(parsed: jose.ParsedToken) -> dict[str, Any]:
    """The claims set of a payload, or raise TokenRefused where it is not one JSON object (STANDARDS J14)."""
    try:
        return strict_json.parse_object(parsed.payload)
    except ValueError:
        raise TokenRefused("the payload is not a claims set", Reason.TOKEN_MALFORMED) from None


def registered_claims(claims: Mapping[str, Any]) -> RegisteredClaims:
    """The registered claims, typed; raises TokenRefused where one has the wrong type or `exp` is missing."""
    return RegisteredClaims(
        issuer=_text(claims, "iss") if "iss" in claims else None,
        audience=_audience(claims),
        expire_time=_time(claims, "exp", up=False),
        not_before=_time(claims, "nbf", up=True) if "nbf" in claims else None,
        issue_time=_time(claims, "iat", up=True) if "iat" in claims else None,
    )


def _key(header: jose.Header, issuer: Issuer) -> jose.VerificationKey:
    kid = header.kid
    if kid is None:
        raise TokenRefused("`kid` is missing or not a key id", Reason.TOKEN_KEY_UNKNOWN)
    if kid in issuer.revoked_kids:
        raise TokenRefused("the key was revoked", Reason.TOKEN_KEY_REVOKED)
    key = issuer.keys.get(kid)
    if key is None:
        raise TokenRefused("the issuer has no such key", Reason.TOKEN_KEY_UNKNOWN)
    if key.algorithm not in issuer.algorithms:
        raise TokenRefused("`alg` is not on the issuer's allowlist", Reason.TOKEN_ALGORITHM_REFUSED)
    return key


def _verified(claims: Mapping[str, Any], kid: str) -> VerifiedToken:
    audience = _audience(claims)
    if not audience:
        raise TokenRefused("`aud` is missing", Reason.TOKEN_AUDIENCE_MISMATCH)
    return VerifiedToken(
        issuer=claims["iss"],
        subject=_text(claims, "sub"),
        audience=audience,
        client_id=_text(claims, "client_id"),
        scope=_scope(claims["scope"]) if "scope" in claims else (),
        groups=_texts(claims["groups"], "groups") if "groups" in claims else (),
        roles=_texts(claims["roles"], "roles") if "roles" in claims else (),
        tenant=_text(claims, "tenant") if "tenant" in claims else "",
        token_id=_text(claims, "jti"),
        key_id=kid,
        issue_time=_time(claims, "iat", up=True),
        expire_time=_time(claims, "exp", up=False),
        not_before=_time(claims, "nbf", up=True) if "nbf" in claims else None,
        minted_at=_minted_at(claims["authsvc_rev"]) if "authsvc_rev" in claims else None,
        mint=_MINT,
    )


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and (value.isprintable() or not has_control(value)):
        return value
    raise _invalid(name, "is required, a text without control characters")


def _texts(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _invalid(name, "is not a list of texts")
    return tuple(value)


def _audience(claims: Mapping[str, Any]) -> tuple[str, ...]:
    value = claims.get("aud", ())
    if isinstance(value, str) and value:
        return (value,)
    return _texts(value, "aud") if value != () else ()


def _scope(value: object) -> tuple[str, ...]:
    if not isinstance(value, str) or _SCOPE.fullmatch(value) is None:
        raise _invalid("scope", "is not a list of scopes (RFC 6749 section 3.3)")
    return tuple(value.split())


def _minted_at(value: object) -> tuple[int, int]:
    match = _MINTED_AT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _invalid("authsvc_rev", "is not a revision's order")
    return (int(match[1]), int(match[2]))


def _time(claims: Mapping[str, Any], name: str, *, up: bool) -> int:
    """A NumericDate in whole seconds; a fraction is rounded to the side that refuses. A boolean is no number."""
    value = claims.get(name)
    if type(value) is int and 0 <= value <= MAX_TIME:
        return value
    if type(value) is float and 0 <= value <= MAX_TIME:
        return ceil(value) if up else floor(value)
    raise _invalid(name, "is required, a number of seconds up to the year 9999")


def _invalid(name: str, what: str) -> TokenRefused:
    return TokenRefused(f"`{name}` {what}", Reason.TOKEN_CLAIM_INVALID, metadata={"claim": name})


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
