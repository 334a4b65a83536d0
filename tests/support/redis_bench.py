"""Counters on a real store, driven by a loop in a thread of its own, so that any test may call them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from authsvc.clock import SystemClock
from authsvc.core.consumption import Hit, LimitOutcome
from authsvc.storage.counters_failure import FailurePolicy
from authsvc.storage.counters_redis import RedisCounters
from authsvc.storage.redis_node import RedisNode
from authsvc.storage.redis_target import RedisTarget

Answer = TypeVar("Answer")
PSEUDONYM_KEY = b"p" * 32


class RedisBench:
    """A `tests.conformance.counters.Bench`: one adapter, on one loop."""

    def __init__(self, target: RedisTarget, *, replicas: int = 1) -> None:
        self.loop = asyncio.new_event_loop()
        self.told: list[tuple[str, Mapping[str, object]]] = []
        """The events that it wrote."""
        self.node = RedisNode(target, lambda kind, fields: self.told.append((kind, fields)))
        failure = FailurePolicy(SystemClock(), lambda: replicas)
        self.counters = RedisCounters(self.node, failure, pseudonym_key=PSEUDONYM_KEY)

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """The end of the work, run on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def consume(self, hits: Sequence[Hit], *, peek: bool = False) -> Sequence[LimitOutcome]:
        """One call."""
        return self.run(self.counters.consume(hits, peek=peek))

    def consume_together(self, calls: Sequence[Sequence[Hit]]) -> list[Sequence[LimitOutcome]]:
        """All calls at once, as handlers on one loop make them."""

        async def all_at_once() -> list[Sequence[LimitOutcome]]:
            return list(await asyncio.gather(*(self.counters.consume(call) for call in calls)))

        return self.run(all_at_once())

    def pass_us(self, us: int) -> None:
        """Let the store's own clock move on."""
        threading.Event().wait(us / 1e6 + 0.002)


@contextmanager
def redis_bench(target: RedisTarget, *, patient: bool = True, replicas: int = 1) -> Iterator[RedisBench]:
    """Connected; `patient` gives calls seconds, since other tests run on the same processors."""
    bench = RedisBench(replace(target, deadline_s=5.0) if patient else target, replicas=replicas)
    thread = threading.Thread(target=bench.loop.run_forever)
    thread.start()
    try:
        bench.run(bench.node.start())
        yield bench
    finally:
        bench.run(bench.node.stop())
        bench.loop.call_soon_threadsafe(bench.loop.stop)
        thread.join()
        bench.loop.close()
