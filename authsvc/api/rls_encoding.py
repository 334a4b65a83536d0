"""RateLimitResponse as bytes.

Owns: how an answer of Envoy's rate-limit service is encoded. May import: `core`, `api`. This is the hottest answer that
is different every time, and made of submessages in threes and fours: put together from bytes that are ready for each
rule it costs a quarter of what the message's own members cost. A test parses what is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from authsvc.api.envoy_messages import RateLimitResponse
from authsvc.api.ready import Remembered
from authsvc.core.consumption import LimitOutcome
from authsvc.core.errors import Reason
from authsvc.core.limits import LimitRule
from authsvc.usecases.rls import OVERRIDE

OK = RateLimitResponse.DESCRIPTOR.enum_types_by_name["Code"].values_by_name["OK"].number
OVER_LIMIT = RateLimitResponse.DESCRIPTOR.enum_types_by_name["Code"].values_by_name["OVER_LIMIT"].number

_DAY_US = 86_400_000_000
_UNITS = RateLimitResponse.RateLimit.DESCRIPTOR.enum_types_by_name["Unit"].values_by_name
UNIT_OF: Mapping[int, int] = MappingProxyType(
    {
        1_000_000: _UNITS["SECOND"].number,
        60_000_000: _UNITS["MINUTE"].number,
        3_600_000_000: _UNITS["HOUR"].number,
        _DAY_US: _UNITS["DAY"].number,
        7 * _DAY_US: _UNITS["WEEK"].number,
        30 * _DAY_US: _UNITS["MONTH"].number,
        365 * _DAY_US: _UNITS["YEAR"].number,
    }
)
"""Envoy's units by their length in microseconds; months and years have fixed lengths."""

_MAX_UINT32 = 2**32 - 1


def _tag(message: Any, field: str) -> bytes:
    """The first byte of a member: its number and how its value is written."""
    known = message.DESCRIPTOR.fields_by_name[field]
    wire = 2 if known.cpp_type in {known.CPPTYPE_MESSAGE, known.CPPTYPE_STRING} else 0
    return bytes([known.number << 3 | wire])


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


_LENGTHS = tuple(map(_varint, range(256)))


def _sized(content: bytes) -> bytes:
    length = len(content)
    return (_LENGTHS[length] if length < len(_LENGTHS) else _varint(length)) + content


_STATUS = RateLimitResponse.DescriptorStatus
_CODES = {code: _tag(RateLimitResponse, "overall_code") + _varint(code) for code in (OK, OVER_LIMIT)}
_STATUSES, _HEADERS, _BODY = (_tag(RateLimitResponse, f) for f in ("statuses", "response_headers_to_add", "raw_body"))
_STATUS_CODES = {code: _tag(_STATUS, "code") + _varint(code) for code in (OK, OVER_LIMIT)}
_REMAINING, _RESET = _tag(_STATUS, "limit_remaining"), _tag(_STATUS, "duration_until_reset")
_SECONDS, _NANOS = b"\x08", b"\x10"
_VALUE = b"\x12"
UNMATCHED = _STATUSES + _sized(_STATUS_CODES[OK])
"""The status of a descriptor that met no rule."""


def head(code: int) -> bytes:
    """The answer's own code."""
    return _CODES[code]


def status(outcome: LimitOutcome, wait_us: int) -> bytes:
    """The status of a descriptor; `wait_us` until it is at rest, or until its hits would pass."""
    seconds, rest_us = divmod(wait_us, 1_000_000)
    written = _STATUS_CODES[OK if outcome.allowed else OVER_LIMIT] + _current_limit(outcome.rule)
    if outcome.remaining:
        written += _REMAINING + _varint(min(_MAX_UINT32, outcome.remaining))
    duration = _SECONDS + _varint(seconds) + _NANOS + _varint(rest_us * 1_000)
    return _STATUSES + _sized(written + _RESET + _sized(duration))


def headers(fields: Iterable[tuple[str, str]]) -> bytes:
    """Headers for the client."""
    return b"".join([_HEADERS + _sized(_name(name) + _VALUE + _sized(value.encode())) for name, value in fields])


def body(content: bytes) -> bytes:
    """The body of a refusal."""
    return _BODY + _sized(content)


@lru_cache(1_024)
def metadata(reason: Reason, rule: str, decided_by: str, *, allowed: bool) -> bytes:
    """Dynamic metadata: the decision, and who made it about which rule."""
    message = RateLimitResponse()
    fields = message.dynamic_metadata.fields
    fields["decision"].string_value = "allow" if allowed else "deny"
    fields["reason"].string_value = reason.text
    if rule:
        fields["rule"].string_value = rule
        fields["decided_by"].string_value = decided_by
    written: bytes = message.SerializeToString()
    return written


@lru_cache(64)
def _name(name: str) -> bytes:
    return b"\x0a" + _sized(name.encode())


def _limit_of(rule: LimitRule) -> bytes:
    message = _STATUS()
    unit = UNIT_OF.get(rule.rate.window_us)
    if unit is not None:
        message.current_limit.unit = unit
        message.current_limit.requests_per_unit = min(_MAX_UINT32, rule.rate.count)
        if rule.name != OVERRIDE:
            message.current_limit.name = rule.name
    written: bytes = message.SerializeToString()
    return written


_current_limit = Remembered(_limit_of, 4_096)
