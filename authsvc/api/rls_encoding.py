"""RateLimitResponse as bytes.

Owns: how an answer of Envoy's rate-limit service is encoded. May import: `core`, `api`. This is the hottest answer that
is different every time, and made of submessages in threes and fours: put together from bytes that are ready for each
rule it costs a quarter of what the message's own members cost. A test parses what is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from authsvc.api.envoy_messages import RateLimitResponse
from authsvc.api.rate_limit_headers import rate_limit_fields, x_rate_limit_fields
from authsvc.api.ready import Remembered
from authsvc.core.consumption import DecidedBy, LimitOutcome
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


_READY = 1_024
_SMALL = tuple(map(_varint, range(_READY)))


def _number(number: int) -> bytes:
    if number < _READY:
        return _SMALL[number]
    if number < 1 << 21:
        # What rests and waits nearly always are: a third of the loop's time.
        low, high = number & 127 | 128, number >> 7
        return bytes((low, high)) if high < 128 else bytes((low, high & 127 | 128, high >> 7))
    return _varint(number)


def _sized(content: bytes) -> bytes:
    return _number(len(content)) + content


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
        written += _REMAINING + _number(min(_MAX_UINT32, outcome.remaining))
    duration = _SECONDS + _number(seconds) + _NANOS + _number(rest_us * 1_000)
    return _STATUSES + _sized(written + _RESET + _sized(duration))


def limit_headers(outcomes: Sequence[LimitOutcome]) -> bytes:
    """What the limits that a call met say in headers: the fields of `rate_limit_headers`, in any order.

    One limit, which is what most calls meet, is written by what is ready for its rule.
    """
    if len(outcomes) == 1:
        rule, allowed, limit, remaining, reset_after_us, retry_after_us, _ = outcomes[0]
        wait_us = reset_after_us if allowed else retry_after_us
        if wait_us is not None and limit == rule.meter.limit:
            fixed, state = _alone(rule)
            left, wait = b"%d" % remaining, b"%d" % -(-wait_us // 1_000_000)
            state += left + b";t=" + wait
            written = fixed + _RATE_LIMIT[len(state)] + state + _X_REMAINING[len(left)] + left
            written += _X_RESET[len(wait)] + wait
            return written if allowed else written + _RETRY_AFTER[len(wait)] + wait
    return headers(rate_limit_fields(outcomes)) + headers(x_rate_limit_fields(outcomes))


def headers(fields: Iterable[tuple[str, str]]) -> bytes:
    """Headers for the client."""
    written = b""
    for name, value in fields:
        text = value.encode()
        written += _HEADERS + _sized(_name(name) + _number(len(text)) + text)
    return written


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
    return b"\x0a" + _sized(name.encode()) + _VALUE


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


def _before(name: str, most: int) -> tuple[bytes, ...]:
    """What stands before a header's value of each length."""
    head = _name(name)
    return tuple(
        _HEADERS + _number(len(head) + len(_number(length)) + length) + head + _number(length)
        for length in range(most + 1)
    )


_LONGEST_NUMBER = 20
_RATE_LIMIT = _before("ratelimit", 256)
_X_REMAINING, _X_RESET, _RETRY_AFTER = (
    _before(name, _LONGEST_NUMBER) for name in ("x-ratelimit-remaining", "x-ratelimit-reset", "retry-after")
)


def _alone_of(rule: LimitRule) -> tuple[bytes, bytes]:
    """The headers of a rule that is the only one met which never change, and how the one that does begins."""
    resting = LimitOutcome(rule, True, rule.meter.limit, 0, 0, None, DecidedBy.STORE)
    fields = dict(rate_limit_fields([resting])) | dict(x_rate_limit_fields([resting]))
    fixed = headers((name, fields[name]) for name in ("ratelimit-policy", "x-ratelimit-limit"))
    return fixed, fields["ratelimit"].encode().removesuffix(b"0;t=0")


_alone = Remembered(_alone_of, 4_096)
