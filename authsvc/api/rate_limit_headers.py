"""Limits as HTTP header fields.

Owns: the fields RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10), Retry-After (RFC 9110
section 10.2.3), and the older X-RateLimit-*. May import: `core`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from authsvc.api.ready import Remembered
from authsvc.core.consumption import LimitOutcome
from authsvc.core.limits import LimitRule

_SECOND_US = 1_000_000


class _Texts(NamedTuple):
    """What a rule brings into fields, the same for every answer."""

    policy: str
    """Quota and, where it is whole seconds, window. A rule's name needs no escape in a structured field's string."""
    state: str
    """What stands before the rest that is left."""
    x_policy: str


def rate_limit_fields(outcomes: Sequence[LimitOutcome]) -> tuple[tuple[str, str], ...]:
    """Name and value of each field for the limits that a call met; nothing where it met none.

    A refused call shows only the limits that refused it, each with `t` when it admits again, so that Retry-After,
    the latest of them, is never earlier than any `t`. A limit that waiting does not help has no `t`.
    """
    refused = [outcome for outcome in outcomes if not outcome.allowed]
    shown = refused or outcomes
    if not shown:
        return ()
    fields = (
        ("ratelimit-policy", ", ".join([_texts(outcome.rule).policy for outcome in shown])),
        ("ratelimit", ", ".join([_state(outcome) for outcome in shown])),
    )
    waits = [outcome.retry_after_us for outcome in refused]
    if waits and None not in waits:
        return (*fields, ("retry-after", str(max(_seconds(wait) for wait in waits if wait is not None))))
    return fields


def x_rate_limit_fields(outcomes: Sequence[LimitOutcome]) -> tuple[tuple[str, str], ...]:
    """X-RateLimit-Limit, -Remaining and -Reset as Envoy itself writes them (draft 03), for who reads nothing newer.

    The limit with the least left speaks; all of them follow it as policies.
    """
    if not outcomes:
        return ()
    if len(outcomes) == 1:
        (nearest,) = outcomes
    else:
        nearest = min(outcomes, key=lambda outcome: (outcome.allowed, outcome.remaining))
    policies = "".join([_texts(outcome.rule).x_policy for outcome in outcomes])
    wait = nearest.reset_after_us if nearest.allowed else nearest.retry_after_us
    return (
        ("x-ratelimit-limit", f"{nearest.limit}{policies}"),
        ("x-ratelimit-remaining", str(nearest.remaining)),
        ("x-ratelimit-reset", str(_seconds(nearest.rule.rate.window_us if wait is None else wait))),
    )


def _texts_of(rule: LimitRule) -> _Texts:
    name, count, window_us = rule.name, rule.rate.count, rule.rate.window_us
    window = f";w={window_us // _SECOND_US}" if window_us % _SECOND_US == 0 else ""
    return _Texts(f'"{name}";q={count}{window}', f'"{name}";r=', f', {count}{window};name="{name}"')


_texts = Remembered(_texts_of, 4_096)


def _state(outcome: LimitOutcome) -> str:
    wait = outcome.reset_after_us if outcome.allowed else outcome.retry_after_us
    state = f"{_texts(outcome.rule).state}{outcome.remaining}"
    return state if wait is None else f"{state};t={_seconds(wait)}"


def _seconds(wait_us: int) -> int:
    """Rounded up: who waits that long is not refused for a fraction."""
    return -(-wait_us // _SECOND_US)
