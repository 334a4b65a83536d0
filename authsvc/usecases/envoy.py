"""Decide what a proxy may do with an HTTP request: the meaning of ext_authz, without its messages.

Owns: the order peer, path, route, credential, token, check, limits (STANDARDS E5, E10). May import: `core`, `state`,
`ports`, `usecases`. There is no anonymous route: whatever is let through has a token that verified.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from authsvc.core.consumption import Hit, LimitOutcome
from authsvc.core.errors import Reason, TokenRefused, Unauthenticated
from authsvc.core.policy import Decision, decide
from authsvc.core.routes import RequestLine, RouteMatch, RouteRefused, clean_path, match
from authsvc.usecases.authz import question_of
from authsvc.usecases.limits import refusal_reason

if TYPE_CHECKING:
    from authsvc.core.claims import VerifiedToken
    from authsvc.state.snapshot import Snapshot
    from authsvc.usecases.limits import Limits
    from authsvc.usecases.principals import ProxyGrant
    from authsvc.usecases.tokens import Tokens


class HttpRequest(NamedTuple):
    """A request as the proxy tells it. Made once a call, as is a `ProxyAnswer`: named tuples are made the fastest.

    Of its line the host is the client's word, the destination the proxy's. `authorization` holds every value of that
    header. `details` is asked only where a condition or a limit looks.
    """

    line: RequestLine
    authorization: tuple[str, ...]
    details: Callable[[], RequestDetails]


class RequestDetails(NamedTuple):
    """What few decisions look at.

    `remote_address` is the proxy's word. `extensions` is the proxy's own configuration of the route
    (`context_extensions`): no key of it means anything here, conditions may read them (STANDARDS E6).
    """

    scheme: str
    remote_address: str
    extensions: Mapping[str, str]


class ProxyAnswer(NamedTuple):
    """What the proxy is told. `token` is None unless it verified; `limits` are those that were asked, in order."""

    allowed: bool
    reason: Reason
    route: str = ""
    token: VerifiedToken | None = None
    decision: Decision | None = None
    limits: tuple[LimitOutcome, ...] = ()


def bearer(authorization: Sequence[str]) -> str:
    """The token of the Authorization header (RFC 6750 section 2.1).

    Raises Unauthenticated where there is no bearer credential, TokenRefused where there are several, or one that
    two readers could read differently: a comma joins headers, other than ASCII is not a token.
    """
    if not authorization:
        raise Unauthenticated("the request has no credential")
    value = authorization[0]
    if len(authorization) > 1 or "," in value or not value.isascii():
        raise TokenRefused("the request has not exactly one credential", Reason.TOKEN_MALFORMED)
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("the request has no bearer credential")
    if not token:
        raise TokenRefused("the credential is empty", Reason.TOKEN_MALFORMED)
    return token


class Gate:
    """Decides for proxies."""

    def __init__(self, tokens: Tokens, limits: Limits) -> None:
        self._tokens = tokens
        self._limits = limits

    def decide(
        self, snapshot: Snapshot, proxy: ProxyGrant, request: HttpRequest, *, now: int
    ) -> ProxyAnswer | Coroutine[Any, Any, ProxyAnswer]:
        """Let a request through, or say why not: an answer, or a coroutine that gives it.

        Only limits may have to wait for a store. They are debited only where all else allows.
        """
        try:
            found = match(snapshot.policy.routes, request.line)
        except RouteRefused:
            return ProxyAnswer(allowed=False, reason=Reason.REQUEST_INVALID)
        if found is None:
            return ProxyAnswer(allowed=False, reason=Reason.NO_ROUTE)
        answer = self._decided(snapshot, proxy, request, found, now)
        if not answer.allowed or answer.token is None or not found.route.limits:
            return answer
        return self._debited(snapshot, request, found, answer, answer.token)

    def _decided(
        self, snapshot: Snapshot, proxy: ProxyGrant, request: HttpRequest, found: RouteMatch, now: int
    ) -> ProxyAnswer:
        """Everything but the limits."""
        route = found.route
        audiences = proxy.audiences(route.name, route.audience)
        if audiences is None:
            return ProxyAnswer(allowed=False, reason=Reason.CALLER_NOT_PERMITTED, route=route.name)
        if not audiences:
            # Unset never means any: a token for one service would be good at another (STANDARDS J12).
            return ProxyAnswer(allowed=False, reason=Reason.AUDIENCE_REFUSED, route=route.name)
        try:
            token = self._tokens.verify(snapshot, bearer(request.authorization), audience=audiences, now=now)
        except (TokenRefused, Unauthenticated) as refused:
            return ProxyAnswer(allowed=False, reason=refused.reason, route=route.name)
        question = question_of(token, route.permission, found.resource, request=_Told(request, found))
        decision = decide(snapshot.policy, snapshot.bindings, question, now=now)
        return ProxyAnswer(decision.allowed, decision.reason, route.name, token, decision)

    async def _debited(
        self,
        snapshot: Snapshot,
        request: HttpRequest,
        found: RouteMatch,
        answer: ProxyAnswer,
        token: VerifiedToken,
    ) -> ProxyAnswer:
        """The answer after the route's limits were asked, all or nothing.

        By what a route's limits may count: the verified identity, the path's template and never the path itself, and
        the address that the proxy names (STANDARDS R15).
        """
        parts = {
            "subject": token.subject,
            "client_id": token.client_id,
            "tenant": token.tenant,
            "route": found.route.name,
            "method": request.line.method,
            "path": found.route.path,
            "remote_address": request.details().remote_address,
        }
        matched = snapshot.policy.limits.match_route(found.route.limits, parts)
        consumed = await self._limits.take([Hit(rule, key) for rule, key in matched])
        return ProxyAnswer(
            allowed=consumed.allowed,
            reason=answer.reason if consumed.allowed else refusal_reason(consumed.outcomes),
            route=answer.route,
            token=token,
            decision=answer.decision,
            limits=consumed.outcomes,
        )


class _Told(Mapping[str, Any]):
    """What conditions read as `context.request`, put together when one does.

    Headers are not among it: they are the client's word.
    """

    __slots__ = ("_found", "_request", "_told")

    def __init__(self, request: HttpRequest, found: RouteMatch) -> None:
        self._request = request
        self._found = found
        self._told: Mapping[str, Any] | None = None

    def __getitem__(self, member: str) -> Any:
        return self._all()[member]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> Mapping[str, Any]:
        if self._told is None:
            request, found = self._request, self._found
            line, details = request.line, request.details()
            self._told = {
                "method": line.method,
                "path": clean_path(line.path),
                "host": line.host,
                "scheme": details.scheme,
                "destination": line.destination,
                "remote_address": details.remote_address,
                "route": found.route.name,
                "params": dict(found.params),
                "extensions": dict(details.extensions),
            }
        return self._told
