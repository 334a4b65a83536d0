"""Counters in Redis or Valkey, shared by replicas.

Owns: the keys, and the one script that takes any number of hits, all or nothing (`lua/consume.lua`). May import: the
standard library, `core`, `ports`, `storage`. The script only decides and stores; what a call answers is computed here
from what it read, by the same arithmetic that every other adapter uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b, sha1
from importlib import resources
from struct import Struct
from typing import NamedTuple

from authsvc.core.consumption import Hit, LimitOutcome, consume_all, summed
from authsvc.core.limits import LimitRule
from authsvc.core.rates import CounterState, Gcra
from authsvc.storage.counters_failure import FailurePolicy
from authsvc.storage.redis_connection import Part, StoreFault
from authsvc.storage.redis_node import NOSCRIPT, RedisNode

_SCRIPT = resources.files("authsvc.storage").joinpath("lua/consume.lua").read_bytes()
_SCRIPT_ID = sha1(_SCRIPT, usedforsecurity=False).hexdigest()
_TAG_BYTES = 8
_ENTRIES_BYTES = 16
_MOST_COUNTERS = 50_000
_LONGEST_KEY = 256
"""Counters that are remembered, those of callers who come again, and the longest key that is: some 20 MB in all."""

_NUMBERS = Struct("<4d")
_STATE = Struct("<3d")


class _Counter(NamedTuple):
    """A counter as the script is told of it; `one` are the numbers of one hit."""

    rule: LimitRule
    key: bytes
    one: bytes


class RedisCounters:
    """A `Counters` adapter on one node: atomic whatever the number of hits, on the node's clock.

    `pseudonym_key` (16 to 64 bytes) keys the digests in the keys, so that a store's keys name nobody (STANDARDS U8).
    While the node does not answer in time, or answers with an error (full, read-only, loading), `failure` decides.
    """

    def __init__(self, node: RedisNode, failure: FailurePolicy, *, pseudonym_key: bytes) -> None:
        self._node = node
        self._failure = failure
        self._pseudonym_key = pseudonym_key
        self._counters: dict[bytes, _Counter] = {}
        self.decided = 0
        """Outcomes that the store decided."""

    async def consume(self, hits: Sequence[Hit], *, peek: bool = False) -> Sequence[LimitOutcome]:
        """See `Counters.consume`."""
        if not hits:
            return ()
        wanted = summed(hits)
        keys: list[Part] = []
        numbers = b""
        for key, (rule, together) in wanted.items():
            counter = self._counter(rule, key)
            keys.append(counter.key)
            numbers += counter.one if together == 1 else _numbers(rule, together)
        arguments = (len(keys), *keys, numbers, b"1") if peek else (len(keys), *keys, numbers)
        try:
            try:
                reply = await self._node.call(("EVALSHA", _SCRIPT_ID, *arguments))
            except StoreFault as fault:
                if fault.code != NOSCRIPT:
                    raise
                reply = await self._node.call(("EVAL", _SCRIPT, *arguments))
        except StoreFault:
            return await self._failure.consume(hits, peek=peek)
        now_us, before = reply
        states = dict(zip(wanted, map(_state, before), strict=True))
        self.decided += len(hits)
        return consume_all(hits, states.__getitem__, now_us, peek=peek).outcomes

    def _counter(self, rule: LimitRule, key: bytes) -> _Counter:
        """Its key is `{tag}:rule:revision:entries`: what shares a tag lies on one node of a cluster.

        A rule whose count changed keeps its keys, and has other numbers.
        """
        known = self._counters.get(key)
        if known is not None and known.rule is rule:
            return known
        tag = blake2b(rule.partition(key), digest_size=_TAG_BYTES, key=self._pseudonym_key).hexdigest()
        entries = blake2b(key, digest_size=_ENTRIES_BYTES, key=self._pseudonym_key).hexdigest()
        made = _Counter(rule, f"{{{tag}}}:{rule.name}:{rule.revision}:{entries}".encode(), _numbers(rule, 1))
        if len(key) <= _LONGEST_KEY:
            if len(self._counters) >= _MOST_COUNTERS:
                self._counters.clear()
            self._counters[key] = made
        return made


def _numbers(rule: LimitRule, hits: int) -> bytes:
    """Need, capacity, scale and pace, as the script wants them."""
    meter = rule.meter
    if isinstance(meter, Gcra):
        scale = meter.units_a_hit
        return _NUMBERS.pack(hits * scale, meter.limit * scale, scale, meter.units_a_us)
    return _NUMBERS.pack(hits, meter.limit, 0, rule.rate.window_us)


def _state(stored: bytes | None) -> CounterState | None:
    if stored is None:
        return None
    owed, units_a_hit, at_us = _STATE.unpack(stored)
    return CounterState(int(owed), int(units_a_hit), int(at_us))
