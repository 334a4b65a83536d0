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
from collections.abc import Coroutine, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from authsvc.api import convert
from authsvc.api.envoy_authz import QUOTA_EXCEEDED
from authsvc.api.envoy_messages import RateLimitResponse
from authsvc.api.rate_limit_headers import rate_limit_fields, x_rate_limit_fields
from authsvc.core.consumption import MAX_DESCRIPTORS, MAX_ENTRIES, LimitOutcome
from authsvc.core.errors import InvalidRequest, PermissionDenied, Reason
from authsvc.core.rates import Rate
from authsvc.usecases.limits import refusal_reason
from authsvc.usecases.rls import OVERRIDE, ProxyDescriptor, ProxyLimits

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

MAX_HITS = 2**36
"""Hits of a descriptor are cut here: above what any rule admits, and exact in every store."""

_DAY_US = 86_400_000_000
_OK = RateLimitResponse.DESCRIPTOR.enum_types_by_name["Code"].values_by_name["OK"].number
_OVER_LIMIT = RateLimitResponse.DESCRIPTOR.enum_types_by_name["Code"].values_by_name["OVER_LIMIT"].number
_UNITS = {
    name: value.number
    for name, value in RateLimitResponse.RateLimit.DESCRIPTOR.enum_types_by_name["Unit"].values_by_name.items()
}
_WINDOWS: Mapping[str, int] = MappingProxyType(
    {
        "SECOND": 1_000_000,
        "MINUTE": 60_000_000,
        "HOUR": 3_600_000_000,
        "DAY": _DAY_US,
        "WEEK": 7 * _DAY_US,
        "MONTH": 30 * _DAY_US,
        "YEAR": 365 * _DAY_US,
    }
)
"""Envoy's units in microseconds; months and years have fixed lengths."""
_UNIT_OF: Mapping[int, int] = MappingProxyType({window: _UNITS[name] for name, window in _WINDOWS.items()})
_OVERRIDE_WINDOWS: Mapping[int, int] = MappingProxyType(
    # envoy.type.v3.RateLimitUnit agrees with the answer's unit, but knows no week.
    {_UNITS[name]: window for name, window in _WINDOWS.items() if name != "WEEK"}
)
_MAX_UINT32 = 2**32 - 1


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
        message = RateLimitResponse(overall_code=_OVER_LIMIT)
        fields = message.dynamic_metadata.fields
        fields["decision"].string_value = "deny"
        fields["reason"].string_value = reason.text
        serialized: bytes = message.SerializeToString()
        return serialized

    @staticmethod
    async def _awaited(answer: Coroutine[Any, Any, ProxyLimits], context: Context) -> Any:
        return _message(await answer, context)


def _descriptors(request: Any) -> tuple[ProxyDescriptor, ...]:
    """The request, validated as far as the proxy's configuration makes it.

    Values are taken as they are, whatever they hold: they are clients' words, and no word may switch a limit off.
    """
    if not request.domain:
        raise InvalidRequest.of("domain", "is required")
    if not 1 <= len(request.descriptors) <= MAX_DESCRIPTORS:
        raise InvalidRequest.of("descriptors", f"holds not 1 to {MAX_DESCRIPTORS} descriptors")
    default = request.hits_addend or 1
    return tuple(
        _descriptor(descriptor, default, f"descriptors[{place}]")
        for place, descriptor in enumerate(request.descriptors)
    )


def _descriptor(given: Any, default: int, path: str) -> ProxyDescriptor:
    entries = tuple((entry.key, entry.value) for entry in given.entries)
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise InvalidRequest.of(f"{path}.entries", f"holds not 1 to {MAX_ENTRIES} entries")
    if not all(key for key, _ in entries):
        raise InvalidRequest.of(f"{path}.entries", "has a key that is empty")
    hits = min(MAX_HITS, given.hits_addend.value if given.HasField("hits_addend") else default)
    return ProxyDescriptor(
        entries=entries,
        hits=-hits if given.is_negative_hits else hits,
        override=_override(given.limit, path) if given.HasField("limit") else None,
    )


def _override(limit: Any, path: str) -> Rate:
    window_us = _OVERRIDE_WINDOWS.get(limit.unit)
    if window_us is None:
        raise InvalidRequest.of(f"{path}.limit.unit", "is none of SECOND, MINUTE, HOUR, DAY, MONTH, YEAR")
    return Rate(limit.requests_per_unit, window_us)


def _message(answer: ProxyLimits, context: Context) -> Any:
    outcomes = answer.outcomes
    allowed = answer.allowed
    reason = Reason.ALLOWED if allowed else refusal_reason(outcomes)
    context.decided(reason, allowed=allowed)
    message = RateLimitResponse(overall_code=_OK if allowed else _OVER_LIMIT)
    for met in answer.descriptors:
        _put_status(message.statuses.add(), met)
    if not outcomes:
        return message
    headers = message.response_headers_to_add
    for name, value in (*rate_limit_fields(outcomes), *x_rate_limit_fields(outcomes)):
        headers.add(key=name, value=value)
    if not allowed:
        headers.add(key="content-type", value="application/problem+json")
        message.raw_body = _problem(outcomes)
    nearest = _nearest(outcomes)
    fields = message.dynamic_metadata.fields
    fields["decision"].string_value = "allow" if allowed else "deny"
    fields["reason"].string_value = reason.text
    fields["rule"].string_value = nearest.rule.name
    fields["remaining"].number_value = nearest.remaining
    fields["decided_by"].string_value = nearest.decided_by
    return message


def _put_status(status: Any, met: Sequence[LimitOutcome]) -> None:
    """One status: of the rules that a descriptor met the one that matters most."""
    if not met:
        status.code = _OK
        return
    outcome = _nearest(met)
    rule = outcome.rule
    status.code = _OK if outcome.allowed else _OVER_LIMIT
    status.limit_remaining = min(_MAX_UINT32, outcome.remaining)
    wait_us = outcome.reset_after_us if outcome.allowed else outcome.retry_after_us
    # Hits beyond the limit never pass: the whole window is what a client can be told.
    convert.put_microseconds(status.duration_until_reset, rule.rate.window_us if wait_us is None else wait_us)
    unit = _UNIT_OF.get(rule.rate.window_us)
    if unit is not None:
        status.current_limit.unit = unit
        status.current_limit.requests_per_unit = min(_MAX_UINT32, rule.rate.count)
        if rule.name != OVERRIDE:
            status.current_limit.name = rule.name


def _problem(outcomes: Sequence[LimitOutcome]) -> bytes:
    """The body of a refusal (RFC 9457)."""
    refused = [outcome.rule.name for outcome in outcomes if not outcome.allowed]
    status = HTTPStatus.TOO_MANY_REQUESTS
    described = {"type": QUOTA_EXCEEDED, "title": status.phrase, "status": status, "violated-policies": refused}
    return json.dumps(described, separators=(",", ":")).encode()


def _nearest(outcomes: Sequence[LimitOutcome]) -> LimitOutcome:
    """The one that refuses longest, else the one with the least left."""
    return min(outcomes, key=lambda o: (o.allowed, -(o.retry_after_us or 0), o.remaining))
