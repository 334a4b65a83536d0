"""Who calls: from credentials of a call to a principal with its permissions and bounds.

Owns: caller authentication and the bounds of a principal (its audiences, tenants, domains).
May import: `core`, `state`, `config`, `usecases.tokens`. A bearer token wins over a client certificate, so
that a bad token is never excused by the connection it came through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from authsvc.config import LOOPBACK
from authsvc.core import values
from authsvc.core.addresses import is_loopback_address
from authsvc.core.errors import AuthsvcError, PermissionDenied, Unauthenticated
from authsvc.core.patterns import resource_matcher
from authsvc.core.policy import service_permissions
from authsvc.core.roles_builtin import CROSS_BOUNDARY

if TYPE_CHECKING:
    from authsvc.config import PeerPrincipal, Proxy
    from authsvc.core.clients import Client
    from authsvc.state.snapshot import Snapshot
    from authsvc.usecases.tokens import Tokens

_OWN_AUDIENCE = frozenset({values.SERVICE_AUDIENCE})
_MOST_KNOWN = 8_192
_ONE_ANSWER = "the caller is not authenticated"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, what it may do on this service, and for whom it may speak."""

    subject: str
    client: Client
    permissions: frozenset[str]
    own_audience: frozenset[str] = field(init=False, repr=False)
    """The audiences that it verifies for; the client's, as a set."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "own_audience", frozenset(self.client.own_audience))

    def require(self, permission: str) -> None:
        """Raise PermissionDenied unless the principal holds the permission."""
        if permission not in self.permissions:
            raise PermissionDenied(f"the caller lacks `{permission}`", metadata={"permission": permission})

    def may_speak_of(self, tenant: str) -> bool:
        """Whether the tenant is one of its own; none is everybody's."""
        own = self.client.tenants
        return not tenant or tenant in own or values.ANY in own or self.crosses_boundaries

    @property
    def crosses_boundaries(self) -> bool:
        """Whether it may speak of audiences, tenants and domains that are not its own."""
        return CROSS_BOUNDARY in self.permissions

    def require_tenant(self, tenant: str) -> None:
        """Raise PermissionDenied where the tenant is not the caller's to name."""
        if tenant and tenant not in self.client.tenants and not self.may_speak_of(tenant):
            self.require(CROSS_BOUNDARY)

    def require_domain(self, domain: str) -> None:
        """Raise PermissionDenied where the limit domain is not the caller's to consume from."""
        own = self.client.domains
        if domain not in own and values.ANY not in own:
            self.require(CROSS_BOUNDARY)

    def audiences(self, asked: Sequence[str]) -> frozenset[str]:
        """The audiences to verify for: those asked for, else the caller's own.

        Raises PermissionDenied where one asked for is not the caller's.
        """
        if not asked:
            return self.own_audience
        wanted = frozenset(asked)
        if not wanted <= self.own_audience:
            self.require(CROSS_BOUNDARY)
        return wanted


@dataclass(frozen=True, slots=True)
class ProxyGrant:
    """What an Envoy peer may ask for; several entries of `server.proxies` add up."""

    entries: tuple[Proxy, ...]
    _domains: frozenset[str] = field(init=False, repr=False, compare=False)
    _known: dict[tuple[str, str], frozenset[str] | None] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "_domains", frozenset(name for entry in self.entries for name in entry.domains))

    def audiences(self, route: str, audience: str) -> frozenset[str] | None:
        """The audiences that a token may be for at this route; None where no entry covers it (STANDARDS E10).

        A route without audience takes those that the peer is bound to by name: unset never means any.
        """
        asked = (route, audience)
        if asked not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[asked] = self._audiences(route, audience)
        return self._known[asked]

    def _audiences(self, route: str, audience: str) -> frozenset[str] | None:
        covering = [e for e in self.entries if any(_covers(pattern, route) for pattern in e.routes)]
        if audience:
            bound = any(values.ANY in e.audiences or audience in e.audiences for e in covering)
            return frozenset({audience}) if bound else None
        if not covering:
            return None
        return frozenset(name for e in covering for name in e.audiences if name != values.ANY)

    def may_count_in(self, domain: str) -> bool:
        """Whether the limit domain is one of the peer's."""
        return domain in self._domains or values.ANY in self._domains


@dataclass(frozen=True, slots=True)
class _Known:
    """Who was found to call, by credentials, in one snapshot and one second."""

    snapshot: Snapshot | None
    now: int
    principals: dict[tuple[tuple[str, ...], tuple[str, ...]], Principal]


def _covers(pattern: str, route: str) -> bool:
    return pattern == values.ANY or resource_matcher(pattern)(route)


class Authenticator:
    """Turns the credentials of a call into a principal.

    Who calls is a function of credentials, snapshot and second, so what was found stands until one of them changes:
    expiry and revocation are looked at anew in each second and in each snapshot (STANDARDS U13). Only callers that
    were found are remembered, and only so many.
    """

    def __init__(self, tokens: Tokens, peers: Sequence[PeerPrincipal], proxies: Sequence[Proxy]) -> None:
        self._tokens = tokens
        self._known = _Known(None, 0, {})
        self._peers = tuple(peers)
        self._client_of = lru_cache(_MOST_KNOWN)(self._client)
        self._proxies = tuple(proxies)
        self._grant_of = lru_cache(_MOST_KNOWN)(self._grant)

    def principal(
        self, authorization: tuple[str, ...], identities: tuple[str, ...], snapshot: Snapshot, now: int
    ) -> Principal:
        """The principal of a bearer token of ours for audience `authsvc`, else of a mapped TLS peer.

        `authorization` holds every value of that metadata key: two are refused (RFC 6750 section 2).
        Raises Unauthenticated, one sentence for every cause.
        """
        known = self._known
        if known.snapshot is not snapshot or known.now != now:
            known = self._known = _Known(snapshot, now, {})
        found = known.principals.get((authorization, identities))
        if found is None:
            found = self._found(authorization, identities, snapshot, now)
            if len(known.principals) < _MOST_KNOWN:
                known.principals[authorization, identities] = found
        return found

    def _found(
        self, authorization: tuple[str, ...], identities: tuple[str, ...], snapshot: Snapshot, now: int
    ) -> Principal:
        if authorization:
            return self._bearer(authorization, snapshot, now)
        client_id = self._client_of(identities)
        if not client_id:
            raise Unauthenticated(_ONE_ANSWER)
        return self._of(client_id, snapshot, now)

    def _client(self, identities: tuple[str, ...]) -> str:
        """The client of the first identity that is mapped, empty where none is: by its name, else by a pattern."""
        for identity in identities:
            named = (peer.client_id for peer in self._peers if peer.peer == identity)
            alike = (peer.client_id for peer in self._peers if resource_matcher(peer.peer)(identity))
            client_id = next(named, None) or next(alike, "")
            if client_id:
                return client_id
        return ""

    def _bearer(self, authorization: Sequence[str], snapshot: Snapshot, now: int) -> Principal:
        scheme, _, token = authorization[0].partition(" ")
        if len(authorization) != 1 or scheme.lower() != "bearer" or not token:
            raise Unauthenticated(_ONE_ANSWER)
        try:
            verified = self._tokens.verify(snapshot, token, audience=_OWN_AUDIENCE, now=now)
        except AuthsvcError:
            raise Unauthenticated(_ONE_ANSWER) from None
        return self._of(verified.client_id, snapshot, now)

    def _of(self, client_id: str, snapshot: Snapshot, now: int) -> Principal:
        client = snapshot.clients.get(client_id)
        if client is None or not client.live(now):
            raise Unauthenticated(_ONE_ANSWER)
        held = service_permissions(snapshot.policy, snapshot.bindings, client.subject, now=now)
        return Principal(client.subject, client, held)

    def proxy(self, address: str, identities: tuple[str, ...]) -> ProxyGrant | None:
        """What the peer may ask of Envoy's services, None where it is no proxy of ours."""
        return self._grant_of(address, identities)

    def _grant(self, address: str, identities: tuple[str, ...]) -> ProxyGrant | None:
        entries = tuple(p for p in self._proxies if self._is_peer(p.peer, address, identities))
        return ProxyGrant(entries) if entries else None

    @staticmethod
    def _is_peer(pattern: str, address: str, identities: Sequence[str]) -> bool:
        if pattern == LOOPBACK:
            return is_loopback_address(address)
        return any(resource_matcher(pattern)(identity) for identity in identities)
