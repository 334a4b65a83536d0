"""Issue and verify access tokens.

Owns: the token cache, client authentication by secret, and what a grant gives. May import: `core`, `state`,
`config`, `usecases.keyring`. Everything here reads one snapshot and never waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from authsvc.core import claims, values
from authsvc.core.client_secrets import keyed_hash, proves
from authsvc.core.errors import FieldViolation, InvalidRequest, Reason, TokenRefused, Unauthenticated, Unavailable
from authsvc.core.keys import SIGNER_LAG

if TYPE_CHECKING:
    from authsvc import config
    from authsvc.core.clients import Client
    from authsvc.state.snapshot import Snapshot
    from authsvc.usecases.keyring import Keyring

_CACHE_GENERATION = 32_768
_MAX_ROLES = 32


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a client asks for; empty means unset. `ttl` in seconds, 0 unset."""

    client_id: str
    client_secret: str
    audience: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    tenant: str = ""
    ttl: int = 0


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token on its way to its client; its text is never in a repr."""

    access_token: str
    expire_time: int
    scope: tuple[str, ...]
    subject: str
    token_id: str

    def __repr__(self) -> str:
        return f"IssuedToken(subject={self.subject!r}, token_id={self.token_id!r})"


class TokenCache:
    """Signature and claims of tokens seen, by SHA-256 of the text, bounded.

    It holds only what never changes: expiry, audience and revocation are checked at every use (STANDARDS
    U13), and an entry counts only while its key is published. Two generations instead of a lock and a list:
    a full one becomes the old one.
    """

    __slots__ = ("_new", "_old")

    def __init__(self) -> None:
        self._new: dict[bytes, claims.VerifiedToken] = {}
        self._old: dict[bytes, claims.VerifiedToken] = {}

    def get(self, digest: bytes) -> claims.VerifiedToken | None:
        """The token of this digest, if it was seen lately."""
        found = self._new.get(digest)
        if found is None:
            found = self._old.get(digest)
            if found is not None:
                self.put(digest, found)
        return found

    def put(self, digest: bytes, verified: claims.VerifiedToken) -> None:
        """Remember a token whose signature and claims held."""
        if len(self._new) >= _CACHE_GENERATION:
            self._old, self._new = self._new, {}
        self._new[digest] = verified


class Tokens:
    """Issues and verifies tokens of one issuer."""

    def __init__(
        self,
        *,
        issuer: str,
        settings: config.Tokens,
        keyring: Keyring,
        secret_hash_key: bytes,
        random_id: Callable[[], str],
        state_age: Callable[[], float],
    ) -> None:
        self.issuer = issuer
        self._settings = settings
        self._keyring = keyring
        self._secret_hash_key = secret_hash_key
        self._random_id = random_id
        self._state_age = state_age
        self._cache = TokenCache()

    def verify(
        self,
        snapshot: Snapshot,
        token: str,
        *,
        audience: frozenset[str],
        required_scope: frozenset[str] = frozenset(),
        now: int,
    ) -> claims.VerifiedToken:
        """Verify a token now, for one of the audiences; raises TokenRefused with the reason."""
        if len(token) > values.MAX_TOKEN:
            raise TokenRefused("the token is too long", Reason.TOKEN_TOO_LARGE)
        issuers = self._keyring.issuers(snapshot, self.issuer)
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        verified = self._cache.get(digest)
        if verified is None or verified.key_id not in issuers[self.issuer].keys:
            verified = claims.verify_signature_and_claims(token, issuers)
            self._cache.put(digest, verified)
        claims.check_now(
            verified,
            now=now,
            leeway=self._settings.leeway,
            audience=audience,
            required_scope=required_scope,
        )
        if now >= verified.issue_time + self._settings.max_ttl + self._settings.leeway:
            # Minted under a longer `tokens.max_ttl`: its revocations and its key are remembered no longer.
            raise TokenRefused("the token is older than any token may be", Reason.TOKEN_EXPIRED)
        if snapshot.is_revoked(verified):
            raise TokenRefused("the token is revoked", Reason.TOKEN_REVOKED)
        return verified

    def issue(self, snapshot: Snapshot, request: TokenRequest, *, now: int) -> IssuedToken:
        """Issue a token by client credentials (RFC 6749 section 4.4, RFC 9068 section 3).

        Raises Unauthenticated (CLIENT_AUTHENTICATION_FAILED), InvalidRequest (scope, audience, tenant, ttl), and
        Unavailable where this replica has not seen the record for so long that the key may have been rotated
        away: a token must not outlive its key's visibility (STANDARDS K3).
        """
        if self._state_age() > SIGNER_LAG:
            raise Unavailable(f"the record was not reached for {SIGNER_LAG} s; no tokens are issued until it is")
        client = self._authenticate(snapshot, request, now)
        scope = _granted_scope(client, request.scope)
        audience = _granted_audience(client, request.audience)
        tenant = _granted_tenant(client, request.tenant)
        ttl = self._granted_ttl(client, request.ttl)
        key = self._keyring.signer(snapshot)
        token_id = self._random_id()
        draft = claims.TokenDraft(
            issuer=self.issuer,
            subject=client.subject,
            audience=audience,
            client_id=client.client_id,
            scope=scope,
            roles=_roles(snapshot, client.subject, tenant, now),
            tenant=tenant,
            token_id=token_id,
            issue_time=now,
            expire_time=now + ttl,
            minted_at=snapshot.revision.order,
        )
        return IssuedToken(claims.sign_token(key, draft), now + ttl, scope, client.subject, token_id)

    def _authenticate(self, snapshot: Snapshot, request: TokenRequest, now: int) -> Client:
        """Unknown client and wrong secret do the same work and get the same answer (STANDARDS S9)."""
        presented = keyed_hash(self._secret_hash_key, request.client_id, request.client_secret)
        client = snapshot.clients.get(request.client_id)
        secrets = client.secrets if client is not None and client.live(now) else ()
        proved = proves(presented, secrets, now=now)
        if client is None or not proved:
            raise Unauthenticated("client authentication failed", Reason.CLIENT_AUTHENTICATION_FAILED)
        return client

    def _granted_ttl(self, client: Client, asked: int) -> int:
        if asked > self._settings.max_ttl:
            raise InvalidRequest.of("ttl", f"is above tokens.max_ttl, {self._settings.max_ttl} s")
        # The record may hold a client of a time when the maximum was higher; revocations and retiring keys are
        # remembered for the maximum of today (STANDARDS K3).
        return asked or min(client.token_ttl or self._settings.ttl, self._settings.max_ttl)


def _granted_scope(client: Client, asked: Sequence[str]) -> tuple[str, ...]:
    if not asked:
        return client.scope
    faults = [
        FieldViolation(f"scope[{i}]", "is not a scope of this client")
        for i, scope in enumerate(asked)
        if scope not in client.scope
    ]
    if faults:
        raise InvalidRequest(faults, Reason.SCOPE_REFUSED)
    return tuple(dict.fromkeys(asked))


def _granted_audience(client: Client, asked: Sequence[str]) -> tuple[str, ...]:
    if not asked:
        return client.audience[:1] or (values.SERVICE_AUDIENCE,)
    faults = [
        FieldViolation(f"audience[{i}]", "is not an audience of this client")
        for i, audience in enumerate(asked)
        if audience not in client.audience and audience != values.SERVICE_AUDIENCE
    ]
    if values.SERVICE_AUDIENCE in asked and len(set(asked)) > 1:
        # The other audience could use the token here, as this client.
        faults.append(FieldViolation("audience", f"`{values.SERVICE_AUDIENCE}` is asked for alone"))
    if faults:
        raise InvalidRequest(faults, Reason.AUDIENCE_REFUSED)
    return tuple(dict.fromkeys(asked))


def _granted_tenant(client: Client, asked: str) -> str:
    if not asked:
        return client.tenants[0] if len(client.tenants) == 1 and client.tenants[0] != values.ANY else ""
    if asked not in client.tenants and values.ANY not in client.tenants:
        raise InvalidRequest.of("tenant", "is not a tenant of this client")
    return asked


def _roles(snapshot: Snapshot, subject: str, tenant: str, now: int) -> tuple[str, ...]:
    """The roles the subject holds without a condition, for the `roles` claim, which only informs."""
    held = {
        kind.role
        for kind, _, expire_time in snapshot.bindings.entries(subject)
        if not kind.condition
        and (not kind.tenant or kind.tenant == tenant)
        and (expire_time is None or now < expire_time)
    }
    return tuple(sorted(held)[:_MAX_ROLES])
