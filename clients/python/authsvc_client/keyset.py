"""Local verification against the service's published keys.

Owns: the cached key set, when it is fetched again, and verification with it. May import: `core`,
`authsvc.v1` and the modules of this package that do no I/O. It sees no revocation of a token, subject or
client, and a withdrawn key only after the set's max-age: it serves where `AUTHSVC_WATCH` is off; else `knowledge` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from authsvc.core import claims, jose
from authsvc.core.claims import VerifiedToken
from authsvc.core.errors import Internal, InvalidRequest, Reason, TokenRefused
from authsvc.v1 import key_pb2
from authsvc_client import methods
from authsvc_client.answers import BearerToken
from authsvc_client.flow import Flow, Send
from authsvc_client.refreshed import Lease, Refreshed
from authsvc_client.settings import Settings
from authsvc_client.tokens import Fetch

REFETCH_INTERVAL = 10.0
"""Seconds between fetches that unknown kids may cause."""

LEEWAY = 10
"""Seconds of clock difference granted at `exp`, `nbf` and `iat`."""

_RENEW_AT = 0.8
_MAX_CACHED = 4096


class KeySet:
    """One published key set, and what it verified; a newer set begins with an empty cache."""

    def __init__(self, issuer: str, jwks: str, revoked_kids: frozenset[str] = frozenset()) -> None:
        """Read the set; raises InvalidRequest where it is none or holds no key that can be used."""
        keys = jose.verification_keys(jwks, minimum_rsa_bits=jose.OWN_RSA_BITS)
        if not keys:
            raise InvalidRequest.of("keys", "holds no usable key")
        self._issuers = {issuer: claims.Issuer(issuer, keys, jose.SIGNING, revoked_kids=revoked_kids)}
        self._verified: dict[bytes, VerifiedToken] = {}

    def verify(self, token: str) -> VerifiedToken:
        """The half of verification that does not change; raises TokenRefused."""
        digest = sha256(token.encode("utf-8", "replace")).digest()
        known = self._verified.get(digest)
        if known is not None:
            return known
        verified = claims.verify_signature_and_claims(token, self._issuers)
        if len(self._verified) >= _MAX_CACHED:
            self._verified.clear()
        self._verified[digest] = verified
        return verified


class KeyCache:
    """The key set of the service, renewed ahead of its max-age, and never used beyond that.

    Also not while the service is out of reach: RevokeKey's `offline_until` promises that caches have forgotten the key.
    """

    def __init__(self, settings: Settings, fetch: Fetch, monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._fetched = fetch
        self._sets = Refreshed(self._fetch, monotonic)

    def obtain(self) -> Flow[KeySet]:
        """The key set; waits only where there is none, or max-age has passed."""
        return self._sets.obtain()

    def verify(self, token: str, audience: Sequence[str], required_scope: Sequence[str], now: int) -> Flow[BearerToken]:
        """Verify; an unknown kid causes a fetch, at most one each `REFETCH_INTERVAL`."""
        expected = self._settings.local_audience(audience)
        key_set = yield from self._sets.obtain()
        try:
            verified = key_set.verify(token)
        except TokenRefused as refused:
            if refused.reason is not Reason.TOKEN_KEY_UNKNOWN:
                raise
            newer = yield from self._sets.newer(key_set, REFETCH_INTERVAL)
            if newer is key_set:
                raise
            verified = newer.verify(token)
        claims.check_now(verified, now=now, leeway=LEEWAY, audience=expected, required_scope=frozenset(required_scope))
        return bearer_token(verified)

    def _fetch(self) -> Lease[KeySet]:
        response = self._fetched(Send(methods.GET_JWKS, key_pb2.GetJwksRequest()))
        try:
            key_set = KeySet(self._settings.issuer, response.jwks)
        except InvalidRequest as fault:
            raise Internal(f"GetJwks: {fault.message}") from fault
        max_age = float(max(0, response.max_age))
        return Lease(key_set, max_age * _RENEW_AT, max_age, max_age)


def bearer_token(verified: VerifiedToken) -> BearerToken:
    """What is told of a verified token."""
    return BearerToken(
        verified.issuer,
        verified.subject,
        verified.audience,
        verified.client_id,
        verified.scope,
        verified.groups,
        verified.roles,
        verified.tenant,
        verified.token_id,
        verified.key_id,
        verified.issue_time,
        verified.expire_time,
    )
