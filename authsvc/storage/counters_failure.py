"""What rules do while the counter store is out of reach (STANDARDS R10).

Owns: open, closed, local share. May import: `core`, `ports`, `clock`, `storage`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from authsvc.clock import Clock
from authsvc.core.consumption import DecidedBy, Hit, LimitOutcome
from authsvc.core.limits import Algorithm, LimitRule, OnFailure
from authsvc.core.rates import Rate
from authsvc.storage.counters_memory import MemoryCounters

RETRY_US = 1_000_000
"""When to come back to a rule that failed closed."""

_WITHOUT_STORE = (DecidedBy.LOCAL, DecidedBy.FAILED_OPEN, DecidedBy.FAILED_CLOSED)


class FailurePolicy:
    """Decides a call without the store, each rule by its `on_failure`, else by `default`; all or nothing still.

    `replicas` says among how many replicas a limit is shared. Local shares start from rest: through a failure at most
    the limit's burst passes once more, over all replicas together, and at least one hit a replica.
    """

    def __init__(self, clock: Clock, replicas: Callable[[], int], default: OnFailure = OnFailure.LOCAL) -> None:
        self._local = MemoryCounters(clock)
        self._replicas = replicas
        self._default = default
        self._decided: Counter[DecidedBy] = Counter()

    def decided(self) -> Mapping[str, int]:
        """How many outcomes were decided here, by whom."""
        return {by.value: self._decided[by] for by in _WITHOUT_STORE}

    async def consume(self, hits: Sequence[Hit], *, peek: bool = False) -> Sequence[LimitOutcome]:
        """See `Counters.consume`; never suspends. Every outcome says who decided."""
        replicas = max(1, self._replicas())
        ways = [hit.rule.on_failure or self._default for hit in hits]
        shares = [
            hit._replace(rule=local_share(hit.rule, replicas))
            for hit, way in zip(hits, ways, strict=True)
            if way is OnFailure.LOCAL
        ]
        refused = any(way is OnFailure.CLOSED and hit.hits > 0 for hit, way in zip(hits, ways, strict=True))
        local = iter(await self._local.consume(shares, peek=peek or refused))
        outcomes = tuple(
            _without_counting(hit, way) or next(local)._replace(rule=hit.rule, decided_by=DecidedBy.LOCAL)
            for hit, way in zip(hits, ways, strict=True)
        )
        self._decided.update(outcome.decided_by for outcome in outcomes)
        return outcomes


def _without_counting(hit: Hit, way: OnFailure) -> LimitOutcome | None:
    """The outcome of a rule that fails open or closed; nothing is counted then."""
    rule, limit = hit.rule, hit.rule.meter.limit
    if way is OnFailure.OPEN:
        return LimitOutcome(rule, True, limit, limit, 0, None, DecidedBy.FAILED_OPEN)
    if way is OnFailure.CLOSED:
        allowed = hit.hits <= 0
        return LimitOutcome(rule, allowed, limit, 0, 0, None if allowed else RETRY_US, DecidedBy.FAILED_CLOSED)
    return None


@lru_cache(maxsize=4096)
def local_share(rule: LimitRule, replicas: int) -> LimitRule:
    """The rule as one of `replicas` enforces it alone: its burst and rate divided, at least one hit."""
    burst = max(1, rule.burst // replicas)
    if rule.algorithm is Algorithm.FIXED_WINDOW:
        return replace(rule, rate=Rate(max(burst, rule.rate.count // replicas), rule.rate.window_us), burst=burst)
    return replace(rule, rate=Rate(rule.rate.count, rule.rate.window_us * replicas), burst=burst)
