"""Calls whose message has not come.

Owns: `HalfOpen`: which threads wait for a first message, how long they may, how many may at once, and their end.
May import: grpcio, `api`, `core.errors`, `transport.pools`. Anybody can begin a call and send nothing
more, and grpcio has a thread wait for the message: while one does, its pool is lent others, so that nobody lacks it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import grpc

from authsvc.api.method_table import READ_SECONDS, Row
from authsvc.api.throttle import network_of
from authsvc.core.errors import InvalidRequest, Reason
from authsvc.transport.pools import WorkPool

SWEEP_SECONDS = 0.01
SLOW_SWEEPS = 5
"""A message that comes with its headers is here before so many sweeps: then the thread that waits for it is slow.

Counted in sweeps, because time alone passes also where the whole process was kept from running.
"""
OLD_SWEEPS = 10
"""Before so many, a call is not ended because there are too many, for a busy machine has honest ones wait as well;
but where others wait for a thread and no more are lent, it is as soon as it is slow.
"""
MOST = 48
"""Calls that may be so old at once, those of all callers together: beyond, the oldest are ended."""
MOST_OF_NETWORK = 16
"""The same for one address. The newest stay, since among them are those whose message only just comes."""
SPARE_THREADS = 64
"""Threads that a pool gets at most besides its own while its calls wait: more than the calls that may."""
SPARE_FOR_EACH = 2
"""So many for each that waits: enough to get through many that wait, few where a busy machine had one wait."""


class Waiting(NamedTuple):
    """A thread that waits for a call's first message."""

    since: float
    """Monotonic seconds."""
    sweep: int
    """How many sweeps there had been."""
    row: Row
    pool: WorkPool
    context: grpc.ServicerContext


class HalfOpen:
    """Every call whose message has not come; thread-safe."""

    def __init__(
        self,
        address_of: Callable[[grpc.ServicerContext], str],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address_of = address_of
        self._monotonic = monotonic
        self._waiting: dict[int, Waiting] = {}
        self._sweeps = 0
        self._lent: set[WorkPool] = set()
        self._ending = False
        self._closed = threading.Event()
        self._sweeper = threading.Thread(target=self._run, name="half-open", daemon=True)

    def start(self) -> None:
        """Begin to look after them, in a thread of its own, until `close`."""
        self._sweeper.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        if self._sweeper.is_alive():
            self._sweeper.join()

    def end_all(self) -> None:
        """End those that wait, and from now on those that come, as soon as they are slow."""
        self._ending = True

    def first(
        self, row: Row, pool: WorkPool, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes | InvalidRequest:
        """The message, or the fault of a caller who sent the last without one.

        Blocks this thread of `pool`. Raises grpc.RpcError where the call ended meanwhile, be it by us.
        """
        # On the path of every call: no lock, since a thread writes under its own number alone.
        thread = threading.get_ident()
        self._waiting[thread] = Waiting(self._monotonic(), self._sweeps, row, pool, context)
        try:
            message = next(requests, None)
        finally:
            del self._waiting[thread]
        if message is None:
            return InvalidRequest.of("", "the call does not hold exactly one message", Reason.REQUEST_UNDECODABLE)
        return message

    def sweep(self) -> None:
        """End what waited too long and what is too much, and give the pools threads for those that wait."""
        self._sweeps += 1
        slow = [one for one in self._waiting.copy().values() if self._sweeps - one.sweep >= SLOW_SWEEPS]
        lent = Counter(one.pool for one in slow)
        short = {pool for pool in lent if pool.depth and SPARE_FOR_EACH * lent[pool] >= SPARE_THREADS}
        now = self._monotonic()
        of_network: Counter[str] = Counter()
        for one in sorted(slow, key=lambda one: one.since, reverse=True):
            if self._sweeps - one.sweep < OLD_SWEEPS and one.pool not in short:
                continue
            network = network_of(self._address_of(one.context))
            too_many = of_network[network] >= MOST_OF_NETWORK or of_network.total() >= MOST
            # A stream may last for ever, its first message may not.
            seconds = READ_SECONDS if one.row.kind.is_stream else one.row.deadline_s
            if too_many or self._ending or now - one.since >= seconds:
                one.context.cancel()  # type: ignore[no-untyped-call]  # the stubs forgot its result
            else:
                of_network[network] += 1
        pools, self._lent = lent.keys() | self._lent, set(lent)
        for pool in pools:
            pool.lend(min(SPARE_THREADS, SPARE_FOR_EACH * lent[pool]))

    def _run(self) -> None:
        while not self._closed.wait(SWEEP_SECONDS if self._waiting else SWEEP_SECONDS * 5):
            # A machine that has no more threads has those that wait ended all the same.
            with suppress(RuntimeError):
                self.sweep()
