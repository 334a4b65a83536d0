"""A policy's limits, tried on data without a server: `limits simulate --stdin`.

Owns: one JSON object in, one out. May import: the standard library and `core`. The arithmetic and the
all-or-nothing rule are the service's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from authsvc.core.consumption import Descriptor, LimitOutcome, check_descriptors, consume_all, hits_of
from authsvc.core.errors import InvalidRequest
from authsvc.core.limits import LimitRules
from authsvc.core.rates import MAX_UNITS, CounterState

MICROSECONDS = 1_000_000

Line = Mapping[str, Any]
"""A JSON object; `at` may be an int, a float or a Decimal."""


def simulate_lines(rules: LimitRules) -> Callable[[Line], dict[str, Any]]:
    """A simulation that begins with every counter at rest: call it with one line after another.

    A line is `{"at": seconds, "domain", "descriptors": [{"entries": [{"key", "value"}], "hits"}]}`; `at` may
    have a fraction, of which whole microseconds count. The answer is `{"allowed", "results": [{"rule",
    "limit", "remaining", "reset_after", "retry_after", "decided_by", "allowed"}]}` in seconds;
    `retry_after` is null where the rule allows, and where waiting does not help. Lines come in the order of
    time: an earlier one is counted, but gives nothing back. Raises `InvalidRequest` with the field's path.
    """
    states: dict[bytes, CounterState] = {}

    def simulate(line: Line) -> dict[str, Any]:
        now_us = _microseconds(line.get("at"))
        domain = _text(line.get("domain"), "domain")
        descriptors = [
            _descriptor(given, f"descriptors[{place}]")
            for place, given in enumerate(_list(line.get("descriptors"), "descriptors"))
        ]
        check_descriptors(domain, descriptors)
        consumption = consume_all(hits_of(rules, domain, descriptors), states.get, now_us)
        states.update((key, verdict.state) for key, verdict in consumption.taken.items())
        return {
            "allowed": all(outcome.allowed for outcome in consumption.outcomes),
            "results": [_result(outcome) for outcome in consumption.outcomes],
        }

    return simulate


def _result(outcome: LimitOutcome) -> dict[str, Any]:
    retry_after_us = outcome.retry_after_us
    return {
        "rule": outcome.rule.name,
        "limit": outcome.limit,
        "remaining": outcome.remaining,
        "reset_after": outcome.reset_after_us / MICROSECONDS,
        "retry_after": None if retry_after_us is None else retry_after_us / MICROSECONDS,
        "decided_by": outcome.decided_by.value,
        "allowed": outcome.allowed,
    }


def _microseconds(at: object) -> int:
    """Seconds as written, in whole microseconds: through the decimal digits, as a float has others."""
    if isinstance(at, bool) or not isinstance(at, int | float | Decimal):
        raise InvalidRequest.of("at", "is required: a number of seconds")
    seconds = Decimal(str(at)) if isinstance(at, float) else Decimal(at)
    if not (seconds.is_finite() and 0 <= seconds <= MAX_UNITS // MICROSECONDS):
        raise InvalidRequest.of("at", "is not between 0 and 2^52 microseconds")
    return int(seconds * MICROSECONDS)


def _descriptor(given: object, path: str) -> Descriptor:
    if not isinstance(given, Mapping):
        raise InvalidRequest.of(path, "is not an object")
    entries = []
    for place, entry in enumerate(_list(given.get("entries"), f"{path}.entries")):
        where = f"{path}.entries[{place}]"
        if not isinstance(entry, Mapping):
            raise InvalidRequest.of(where, "is not an object")
        value = _text(entry.get("value", ""), f"{where}.value")
        entries.append((_text(entry.get("key"), f"{where}.key"), value))
    hits = given.get("hits", 1)
    if type(hits) is not int:
        raise InvalidRequest.of(f"{path}.hits", "is not a whole number")
    return Descriptor(tuple(entries), hits)


def _list(given: object, path: str) -> list[Any]:
    if not isinstance(given, list):
        raise InvalidRequest.of(path, "is required: a list")
    return given


def _text(given: object, path: str) -> str:
    if not isinstance(given, str):
        raise InvalidRequest.of(path, "is required: text")
    return given
