"""Limits as HTTP header fields.

Owns: the fields RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10), Retry-After (RFC 9110
section 10.2.3), and the older X-RateLimit-*. May import: `core`.
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


def x_rate_limit_fields(outcomes: Sequence[LimitOutcome]) -> tuple[tuple[str, str], ...]:
    """X-RateLimit-Limit, -Remaining and -Reset as Envoy itself writes them (draft 03), for who reads nothing newer.

    The limit with the least left speaks; all of them follow it as policies.
    """
    if not outcomes:
        return ()
    nearest = min(outcomes, key=lambda outcome: (outcome.allowed, outcome.remaining))
    policies = "".join(f', {o.rule.rate.count}{_window(o)};name="{o.rule.name}"' for o in outcomes)
    wait = nearest.reset_after_us if nearest.allowed else nearest.retry_after_us
    return (
        ("x-ratelimit-limit", f"{nearest.limit}{policies}"),
        ("x-ratelimit-remaining", str(nearest.remaining)),
        ("x-ratelimit-reset", str(_seconds(nearest.rule.rate.window_us if wait is None else wait))),
    )


def _policy(outcome: LimitOutcome) -> str:
    """Quota and, where it is whole seconds, window. A rule's name needs no escape in a structured field's string."""
    return f'"{outcome.rule.name}";q={outcome.rule.rate.count}{_window(outcome)}'


def _window(outcome: LimitOutcome) -> str:
    window_us = outcome.rule.rate.window_us
    return f";w={window_us // _SECOND_US}" if window_us % _SECOND_US == 0 else ""


def _state(outcome: LimitOutcome) -> str:
    wait = outcome.reset_after_us if outcome.allowed else outcome.retry_after_us
    return f'"{outcome.rule.name}";r={outcome.remaining}' + ("" if wait is None else f";t={_seconds(wait)}")


def _seconds(wait_us: int) -> int:
    """Rounded up: who waits that long is not refused for a fraction."""
    return -(-wait_us // _SECOND_US)
