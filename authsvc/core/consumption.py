"""Several limits at once: all or nothing.

Owns: descriptors, hits, outcomes, and the rule that a refusal debits none (STANDARDS R4). May import: the
standard library and `core`. Pure: an adapter reads the states, calls `consume_all`, and stores what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from authsvc.core import values
from authsvc.core.errors import FieldViolation, InvalidRequest
from authsvc.core.limits import LimitRule, LimitRules
from authsvc.core.rates import CounterState, Verdict

MAX_DESCRIPTORS = 16
MAX_ENTRIES = 16


class DecidedBy(StrEnum):
    """Who made a limit's decision (STANDARDS R10)."""

    STORE = "store"
    LOCAL = "local"
    FAILED_OPEN = "failed_open"
    FAILED_CLOSED = "failed_closed"


class Descriptor(NamedTuple):
    """What is counted: entries of key and value, a key at most once, and how many hits; 0 looks."""

    entries: tuple[tuple[str, str], ...]
    hits: int = 1


class Hit(NamedTuple):
    """Hits for one counter of one rule; 0 looks, fewer give back."""

    rule: LimitRule
    key: bytes
    hits: int = 1


class LimitOutcome(NamedTuple):
    """The answer of one rule. `allowed` speaks for this rule; the call passes where all of them allow.

    `remaining` and `reset_after_us` describe the counter as the call left it. `retry_after_us` is None where
    this rule allows, and where waiting does not help because the hits are more than `limit`.
    """

    rule: LimitRule
    allowed: bool
    limit: int
    remaining: int
    reset_after_us: int
    retry_after_us: int | None
    decided_by: DecidedBy


class Consumption(NamedTuple):
    """What a call comes to: one outcome a hit, in order, and the verdicts to store (none unless taken)."""

    outcomes: tuple[LimitOutcome, ...]
    taken: dict[bytes, Verdict]


def check_descriptors(domain: str, descriptors: Sequence[Descriptor], field: str = "") -> None:
    """Refuse, all faults at once, what no rule can be asked; `field` is the path of the message around."""
    if _is_sound(domain, descriptors):
        return
    prefix = f"{field}." if field else ""
    faults: list[FieldViolation] = []
    _check(faults, domain, f"{prefix}domain")
    if not 1 <= len(descriptors) <= MAX_DESCRIPTORS:
        faults.append(FieldViolation(f"{prefix}descriptors", f"holds not 1 to {MAX_DESCRIPTORS} descriptors"))
        raise InvalidRequest(faults)
    for place, descriptor in enumerate(descriptors):
        path = f"{prefix}descriptors[{place}]"
        if not 1 <= len(descriptor.entries) <= MAX_ENTRIES:
            raise InvalidRequest.of(f"{path}.entries", f"holds not 1 to {MAX_ENTRIES} entries")
        if len({key for key, _ in descriptor.entries}) < len(descriptor.entries):
            faults.append(FieldViolation(f"{path}.entries", "names a key twice"))
        for index, (key, value) in enumerate(descriptor.entries):
            _check(faults, key, f"{path}.entries[{index}].key")
            _check(faults, value, f"{path}.entries[{index}].value", most=values.MAX_RESOURCE, empty=True)
        if descriptor.hits < 0:
            faults.append(FieldViolation(f"{path}.hits", "is negative"))
    raise InvalidRequest(faults)


def _is_sound(domain: str, descriptors: Sequence[Descriptor]) -> bool:
    """Whether there is no fault: most of what is asked, and told in a fifth of the time that naming faults takes."""
    if not domain or len(domain) > values.MAX_NAME or not 1 <= len(descriptors) <= MAX_DESCRIPTORS:
        return False
    texts = [domain]
    for entries, hits in descriptors:
        if hits < 0 or not 1 <= len(entries) <= MAX_ENTRIES or len(dict(entries)) < len(entries):
            return False
        for key, value in entries:
            if not key or len(key) > values.MAX_NAME or len(value) > values.MAX_RESOURCE:
                return False
            texts += (key, value)
    return not values.has_control("".join(texts))


def _check(
    faults: list[FieldViolation], text: str, path: str, *, most: int = values.MAX_NAME, empty: bool = False
) -> None:
    try:
        values.plain(text, path, most=most, empty=empty)
    except InvalidRequest as refused:
        faults.extend(refused.violations)


def hits_of(rules: LimitRules, domain: str, descriptors: Sequence[Descriptor]) -> tuple[Hit, ...]:
    """The hits of a call: one a rule that a descriptor meets, in the order of the descriptors."""
    return tuple([Hit(rule, key, hits) for entries, hits in descriptors for rule, key in rules.match(domain, entries)])


def summed(hits: Sequence[Hit]) -> dict[bytes, tuple[LimitRule, int]]:
    """By counter: its rule, and all hits for it together."""
    if len(hits) == 1:
        (only,) = hits
        return {only.key: (only.rule, only.hits)}
    wanted: dict[bytes, tuple[LimitRule, int]] = {}
    for hit in hits:
        _, already = wanted.get(hit.key, (hit.rule, 0))
        wanted[hit.key] = (hit.rule, already + hit.hits)
    return wanted


def consume_all(
    hits: Sequence[Hit],
    read: Callable[[bytes], CounterState | None],
    now_us: int,
    *,
    peek: bool = False,
) -> Consumption:
    """Decide a call: hits for one counter are summed first, and all are taken or none.

    `read` gives a counter's state, None at rest. With `peek` the answer is the same and nothing is taken.
    """
    wanted = summed(hits)
    taking = not peek
    verdicts: dict[bytes, Verdict] = {}
    for key, (rule, together) in wanted.items():
        verdict = verdicts[key] = rule.meter.decide(read(key), now_us, together)
        taking = taking and verdict.allowed
    if taking:
        taken = {key: verdicts[key] for key, (_, together) in wanted.items() if together}
        return Consumption(_outcomes(hits, verdicts), taken)
    shown = {
        key: rule.meter.decide(read(key), now_us, 0) if verdicts[key].allowed else verdicts[key]
        for key, (rule, _) in wanted.items()
    }
    return Consumption(_outcomes(hits, shown), {})


def _outcomes(hits: Sequence[Hit], verdicts: Mapping[bytes, Verdict]) -> tuple[LimitOutcome, ...]:
    outcomes = []
    for rule, key, _ in hits:
        allowed, remaining, reset_after_us, retry_after_us, _ = verdicts[key]
        outcomes.append(
            LimitOutcome(rule, allowed, rule.meter.limit, remaining, reset_after_us, retry_after_us, DecidedBy.STORE)
        )
    return tuple(outcomes)
