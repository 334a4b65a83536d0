"""envoy.service.ratelimit.v3.RateLimitService: Envoy's question in, a status a descriptor out.

Owns: the conversion of RLS messages and their validation (STANDARDS R1 to R3, R12). May import: `core`, `usecases`,
`api`.

Envoy takes any answer but OVER_LIMIT for an allow, and decides by its own `failure_mode_deny` about an RPC error. So
`overall_code` is never UNKNOWN; whoever is no proxy, or asks for a domain that is not its own, is told OVER_LIMIT; and
what a request may bring about (undecodable or too long, a fault of ours) is OVER_LIMIT too, or else a client could
switch its limits off. Only `FAULTS`, our being out of order and a proxy's wrong configuration, are RPC errors.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from authsvc.api import rls_encoding
from authsvc.api.envoy_authz import QUOTA_EXCEEDED
from authsvc.api.rls_encoding import OK, OVER_LIMIT
from authsvc.core.consumption import MAX_DESCRIPTORS, MAX_ENTRIES, LimitOutcome
from authsvc.core.errors import InvalidRequest, PermissionDenied, Reason
from authsvc.core.rates import Rate
from authsvc.usecases.limits import refusal_reason
from authsvc.usecases.rls import ProxyDescriptor, ProxyLimits

if TYPE_CHECKING:
    from authsvc.api.calls import Context
    from authsvc.usecases.rls import ProxyQuotas

FAULTS = frozenset(
    {
        Reason.REQUEST_INVALID,
        Reason.RECORD_UNAVAILABLE,
        Reason.OVERLOADED,
        Reason.SHUTTING_DOWN,
        Reason.DEADLINE_EXCEEDED,
    }
)
"""What a proxy of ours is told by an RPC error."""

_PROBLEM_TYPE = (("content-type", "application/problem+json"),)

MAX_HITS = 2**36
"""Hits of a descriptor are cut here: above what any rule admits, and exact in every store."""

_WEEK_US = 7 * 86_400_000_000
_OVERRIDE_WINDOWS = {
    # envoy.type.v3.RateLimitUnit agrees with the answer's unit, but knows no week.
    unit: window_us
    for window_us, unit in rls_encoding.UNIT_OF.items()
    if window_us != _WEEK_US
}


class EnvoyRateLimits:
    """The handlers of the service."""

    def __init__(self, quotas: ProxyQuotas) -> None:
        self._quotas = quotas

    def should_rate_limit(self, request: Any, context: Context) -> Any:
        """Answer one RateLimitRequest: a message, or a coroutine that gives it where a store must be asked."""
        descriptors = _descriptors(request)
        if context.proxy is None or not context.proxy.may_count_in(request.domain):
            raise PermissionDenied("the domain is none of the peer's")
        answer = self._quotas.decide(context.snapshot, request.domain, descriptors)
        if isinstance(answer, ProxyLimits):
            return _message(answer, context)
        return self._awaited(answer, context)

    @staticmethod
    def deny(reason: Reason, _http_status: int) -> bytes:
        """The explicit denial for what went wrong around the row, ready made."""
        return rls_encoding.head(OVER_LIMIT) + rls_encoding.metadata(reason, "", "", allowed=False)

    @staticmethod
    async def _awaited(answer: Coroutine[Any, Any, ProxyLimits], context: Context) -> Any:
        return _message(await answer, context)


def _descriptors(request: Any) -> tuple[ProxyDescriptor, ...]:
    """The request, validated as far as the proxy's configuration makes it.

    Values are taken as they are, whatever they hold: they are clients' words, and no word may switch a limit off.
    """
    if not request.domain:
        raise InvalidRequest.of("domain", "is required")
    given = request.descriptors
    if not 1 <= len(given) <= MAX_DESCRIPTORS:
        raise InvalidRequest.of("descriptors", f"holds not 1 to {MAX_DESCRIPTORS} descriptors")
    default = request.hits_addend or 1
    return tuple([_descriptor(descriptor, default, place) for place, descriptor in enumerate(given)])


def _descriptor(given: Any, default: int, place: int) -> ProxyDescriptor:
    entries = tuple([(entry.key, entry.value) for entry in given.entries])
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise InvalidRequest.of(f"descriptors[{place}].entries", f"holds not 1 to {MAX_ENTRIES} entries")
    for key, _ in entries:
        if not key:
            raise InvalidRequest.of(f"descriptors[{place}].entries", "has a key that is empty")
    hits = min(MAX_HITS, given.hits_addend.value) if given.HasField("hits_addend") else default
    override = _override(given.limit, place) if given.HasField("limit") else None
    return ProxyDescriptor(entries, -hits if given.is_negative_hits else hits, override)


def _override(limit: Any, place: int) -> Rate:
    window_us = _OVERRIDE_WINDOWS.get(limit.unit)
    if window_us is None:
        raise InvalidRequest.of(f"descriptors[{place}].limit.unit", "is none of SECOND, MINUTE, HOUR, DAY, MONTH, YEAR")
    return Rate(limit.requests_per_unit, window_us)


def _message(answer: ProxyLimits, context: Context) -> bytes:
    outcomes = answer.outcomes
    allowed = False not in [outcome.allowed for outcome in outcomes]
    reason = Reason.ALLOWED if allowed else refusal_reason(outcomes)
    context.decided(reason, allowed=allowed)
    written = rls_encoding.head(OK if allowed else OVER_LIMIT)
    for met in answer.descriptors:
        written += _status(met)
    if outcomes:
        written += rls_encoding.limit_headers(outcomes)
        if not allowed:
            written += rls_encoding.headers(_PROBLEM_TYPE) + rls_encoding.body(_problem(outcomes))
        nearest = _nearest(outcomes)
        written += rls_encoding.metadata(reason, nearest.rule.name, nearest.decided_by, allowed=allowed)
    return written


def _status(met: Sequence[LimitOutcome]) -> bytes:
    """One status: of the rules that a descriptor met the one that matters most."""
    if not met:
        return rls_encoding.UNMATCHED
    outcome = _nearest(met)
    wait_us = outcome.reset_after_us if outcome.allowed else outcome.retry_after_us
    # Hits beyond the limit never pass: the whole window is what a client can be told.
    return rls_encoding.status(outcome, outcome.rule.rate.window_us if wait_us is None else wait_us)


def _problem(outcomes: Sequence[LimitOutcome]) -> bytes:
    """The body of a refusal (RFC 9457)."""
    refused = [outcome.rule.name for outcome in outcomes if not outcome.allowed]
    status = HTTPStatus.TOO_MANY_REQUESTS
    described = {"type": QUOTA_EXCEEDED, "title": status.phrase, "status": status, "violated-policies": refused}
    return json.dumps(described, separators=(",", ":")).encode()


def _nearest(outcomes: Sequence[LimitOutcome]) -> LimitOutcome:
    """The one that refuses longest, else the one with the least left."""
    if len(outcomes) == 1:
        return outcomes[0]
    return min(outcomes, key=lambda o: (o.allowed, -(o.retry_after_us or 0), o.remaining))
