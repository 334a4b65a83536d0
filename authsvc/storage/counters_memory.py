"""Counters in the memory of one process.

Owns: `MemoryCounters`. May import: the standard library, `core`, `ports`, `clock`. For a single replica with
a single worker; several share counters in Redis.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import islice
from threading import Lock

from authsvc.clock import Clock
from authsvc.core.consumption import Hit, LimitOutcome, consume_all
from authsvc.core.rates import CounterState

DEFAULT_MAX_KEYS = 200_000
"""Live counters a domain; about 0.5 KiB each."""

_LONGEST_KEY = 256
"""Bytes of a key that is kept as it is; of a longer one its digest is, so that no caller's words fill the memory."""

_SWEPT_A_NEW_KEY = 4
"""Old counters looked at for each new one: more than one, so that those at rest go faster than others come."""

_Table = OrderedDict[bytes, tuple[CounterState, int]]
"""Counters by key, each with the moment at which it is at rest; the first was looked at longest ago."""

_NOTHING: _Table = OrderedDict()


class MemoryCounters:
    """A `Counters` adapter: thread-safe, and never suspends, so that `send(None)` runs a call to its end.

    Memory is bounded. A counter at rest is worth nothing and is dropped while new ones come. A domain holds
    at most `max_keys` counters of its own values; beyond that, values that have no counter yet share one
    counter for each rule (STANDARDS R15): together they get what the rule gives to one. Neither are they
    let through uncounted nor all refused, and values that have a counter do not notice. A value that finds
    room later starts from rest, so that it gets at most one burst more.
    """

    def __init__(self, clock: Clock, *, max_keys: int = DEFAULT_MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._lock = Lock()
        self._tables: OrderedDict[str, _Table] = OrderedDict()

    def live_keys(self, domain: str) -> int:
        """How many counters the domain holds, for metrics: those at rest that were not yet dropped too."""
        with self._lock:
            return len(self._tables.get(domain, ()))

    async def consume(self, hits: Sequence[Hit], *, peek: bool = False) -> Sequence[LimitOutcome]:
        """See `Counters.consume`."""
        with self._lock:
            now_us = self._clock.now_us()
            placed, states = self._place(hits, now_us)
            consumption = consume_all(placed, states.__getitem__, now_us, peek=peek)
            for hit in placed:
                verdict = consumption.taken.get(hit.key)
                if verdict is not None:
                    table = self._tables.setdefault(hit.rule.domain, OrderedDict())
                    table[hit.key] = (verdict.state, now_us + verdict.reset_after_us)
        return consumption.outcomes

    def _place(self, hits: Sequence[Hit], now_us: int) -> tuple[list[Hit], dict[bytes, CounterState | None]]:
        """The hits, each with the key of the counter that it gets, and the states of those counters."""
        placed: list[Hit] = []
        states: dict[bytes, CounterState | None] = {}
        fresh: dict[str, int] = {}
        for wanted in hits:
            hit, domain = wanted, wanted.rule.domain
            if len(hit.key) > _LONGEST_KEY:
                hit = wanted._replace(key=blake2b(hit.key).digest())
            table = self._tables.get(domain, _NOTHING)
            if hit.key not in table and hit.key not in states:
                self._sweep(domain, now_us)
                taken = len(table) + fresh.get(domain, 0)
                if taken < self._max_keys:
                    fresh[domain] = fresh.get(domain, 0) + 1
                else:
                    hit = wanted._replace(key=wanted.rule.shared_key())
            held = table.get(hit.key)
            states[hit.key] = held[0] if held else None
            placed.append(hit)
        return placed, states

    def _sweep(self, domain: str, now_us: int) -> None:
        """Drop counters at rest: a few of the domain that grows, and a few of another one in turn."""
        if not self._tables:
            return
        turn = next(iter(self._tables))
        self._tables.move_to_end(turn)
        for name in {domain, turn} & self._tables.keys():
            table = self._tables[name]
            for key in list(islice(table, _SWEPT_A_NEW_KEY)):
                if table[key][1] <= now_us:
                    del table[key]
                else:
                    table.move_to_end(key)
            if not table:
                del self._tables[name]
