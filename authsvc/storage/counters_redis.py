"""Counters in Redis or Valkey, shared by replicas.

Owns: the keys, and the one script that takes any number of hits, all or nothing (`lua/consume.lua`). May import: the
standard library, `core`, `ports`, `storage`. The script only decides and stores; what a call answers is computed here
from what it read, by the same arithmetic that every other adapter uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b, sha1
from importlib import resources

from authsvc.core.consumption import Hit, LimitOutcome, consume_all, summed
from authsvc.core.limits import LimitRule
from authsvc.core.rates import CounterState, Gcra
from authsvc.storage.counters_failure import FailurePolicy
from authsvc.storage.redis_connection import Part, StoreFault
from authsvc.storage.redis_node import RedisNode

_SCRIPT = resources.files("authsvc.storage").joinpath("lua/consume.lua").read_bytes()
_SCRIPT_ID = sha1(_SCRIPT, usedforsecurity=False).hexdigest()
_TAG_BYTES = 8
_ENTRIES_BYTES = 16
_MOST_KEYS = 50_000
"""Keys that are remembered: those of callers who come again."""


class RedisCounters:
    """A `Counters` adapter on one node: atomic whatever the number of hits, on the node's clock.

    `pseudonym_key` (16 to 64 bytes) keys the digests in the keys, so that a store's keys name nobody (STANDARDS U8).
    While the node does not answer in time, or answers with an error (full, read-only, loading), `failure` decides.
    """

    def __init__(self, node: RedisNode, failure: FailurePolicy, *, pseudonym_key: bytes) -> None:
        self._node = node
        self._failure = failure
        self._pseudonym_key = pseudonym_key
        self._keys: dict[bytes, bytes] = {}

    async def consume(self, hits: Sequence[Hit], *, peek: bool = False) -> Sequence[LimitOutcome]:
        """See `Counters.consume`."""
        if not hits:
            return ()
        wanted = summed(hits)
        arguments: list[Part] = [
            len(wanted),
            *(self._key(rule, key) for key, (rule, _) in wanted.items()),
            b"1" if peek else b"0",
        ]
        for rule, hits_together in wanted.values():
            arguments += _numbers(rule, hits_together)
        try:
            now_us, before = await self._run(arguments)
        except StoreFault:
            return await self._failure.consume(hits, peek=peek)
        states = dict(zip(wanted, map(_state, before), strict=True))
        return consume_all(hits, states.__getitem__, now_us, peek=peek).outcomes

    async def _run(self, arguments: Sequence[Part]) -> tuple[int, Sequence[bytes | None]]:
        try:
            reply = await self._node.call(("EVALSHA", _SCRIPT_ID, *arguments))
        except StoreFault as fault:
            if fault.code != "NOSCRIPT":
                raise
            reply = await self._node.call(("EVAL", _SCRIPT, *arguments))
        now_us, before = reply
        return now_us, before

    def _key(self, rule: LimitRule, key: bytes) -> bytes:
        """`{tag}:rule:revision:entries`: what shares a tag lies on one node of a cluster.

        A counter's key holds name and revision of its rule, so that it alone tells which was made before.
        """
        made = self._keys.get(key)
        if made is None:
            tag = blake2b(rule.partition(key), digest_size=_TAG_BYTES, key=self._pseudonym_key).hexdigest()
            entries = blake2b(key, digest_size=_ENTRIES_BYTES, key=self._pseudonym_key).hexdigest()
            made = f"{{{tag}}}:{rule.name}:{rule.revision}:{entries}".encode()
            if len(self._keys) >= _MOST_KEYS:
                self._keys.clear()
            self._keys[key] = made
        return made


def _numbers(rule: LimitRule, hits: int) -> tuple[int, int, int, int]:
    """Need, capacity, scale and pace, as the script wants them."""
    meter = rule.meter
    if isinstance(meter, Gcra):
        scale = meter.units_a_hit
        return hits * scale, meter.limit * scale, scale, meter.units_a_us
    return hits, meter.limit, 0, rule.rate.window_us


def _state(stored: bytes | None) -> CounterState | None:
    if stored is None:
        return None
    owed, units_a_hit, at_us = stored.split(b":")
    return CounterState(int(owed), int(units_a_hit), int(at_us))
