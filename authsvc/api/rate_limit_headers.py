"""Limits as HTTP header fields.

Owns: the fields RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10) and Retry-After (RFC 9110
section 10.2.3). May import: `core`.
"""

from __future__ import annotations

from collections.abc import Sequence

from authsvc.core.consumption import LimitOutcome

_SECOND_US = 1_000_000


def rate_limit_fields(outcomes: Sequence[LimitOutcome]) -> tuple[tuple[str, str], ...]:
    """Name and value of each field for the limits that a call met; nothing where it met none.

    A refused call shows only the limits that refused it, each with `t` when it admits again, so that Retry-After,
    the latest of them, is never earlier than any `t`. A limit that waiting does not help has no `t`.
    """
    refused = [outcome for outcome in outcomes if not outcome.allowed]
    shown = refused or outcomes
    if not shown:
        return ()
    fields = [
        ("ratelimit-policy", ", ".join(_policy(outcome) for outcome in shown)),
        ("ratelimit", ", ".join(_state(outcome) for outcome in shown)),
    ]
    waits = [outcome.retry_after_us for outcome in refused]
    if waits and None not in waits:
        fields.append(("retry-after", str(max(_seconds(wait) for wait in waits if wait is not None))))
    return tuple(fields)


def _policy(outcome: LimitOutcome) -> str:
    """Quota and, where it is whole seconds, window. A rule's name needs no escape in a structured field's string."""
    rate = outcome.rule.rate
    window = f";w={rate.window_us // _SECOND_US}" if rate.window_us % _SECOND_US == 0 else ""
    return f'"{outcome.rule.name}";q={rate.count}{window}'


def _state(outcome: LimitOutcome) -> str:
    wait = outcome.reset_after_us if outcome.allowed else outcome.retry_after_us
    return f'"{outcome.rule.name}";r={outcome.remaining}' + ("" if wait is None else f";t={_seconds(wait)}")


def _seconds(wait_us: int) -> int:
    """Rounded up: who waits that long is not refused for a fraction."""
    return -(-wait_us // _SECOND_US)
