"""The node that counts: connected, watched, connected again.

Owns: reconnecting, and when calls go out. May import: the standard library, `storage`. Calls never wait for a
connection: while there is none they fail at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from authsvc.storage.circuit_breaker import CircuitBreaker
from authsvc.storage.redis_connection import Part, RedisConnection, StoreFault
from authsvc.storage.redis_opening import eviction_policy, open_connection
from authsvc.storage.redis_target import RedisTarget
from authsvc.storage.store_watch import StoreWatch, Tell

CONNECT_S = 1.0
"""How long finding, connecting and the handshake may take together."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
"""Pauses between tries double from the first to the longest; a connection that lasted as long begins anew."""

NOSCRIPT = "NOSCRIPT"
NOT_CONNECTED = "NOT_CONNECTED"
CIRCUIT_OPEN = "CIRCUIT_OPEN"
_DROPPED = frozenset({"READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "WRONGPASS"})
"""Errors of a node that is none to count on: it is looked for anew."""


class RedisNode:
    """The node, as one connection that is made anew whenever it is lost. Bound to the loop that starts it.

    `chance` gives numbers from 0 to 1, so that replicas which lost the store together do not come back together.
    """

    def __init__(self, target: RedisTarget, tell: Tell, *, chance: Callable[[], float] = random.random) -> None:
        self._target = target
        self._chance = chance
        self._watch = StoreWatch(tell)
        self._connection: RedisConnection | None = None
        self._breaker = CircuitBreaker()
        self._keeper: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._eviction = ""

    async def start(self) -> None:
        """Begin to connect, and return after the first try, whatever it came to."""
        self._loop = asyncio.get_running_loop()
        tried = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep_connected(tried))
        await tried.wait()

    async def stop(self) -> None:
        """Give the connection up, for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._connection is not None:
            self._connection.close("the service stops")
            await self._connection.gone
            self._connection = None

    @property
    def available(self) -> bool:
        """Whether calls go out."""
        return self._connection is not None and not self._breaker.is_open

    @property
    def circuit_is_open(self) -> bool:
        """Whether calls are kept back because those before failed."""
        return self._breaker.is_open

    def faults(self) -> Mapping[str, int]:
        """How many calls failed, by kind."""
        return self._watch.faults()

    async def call(self, parts: Sequence[Part]) -> Any:
        """The reply to one command, sent at most once; raises StoreFault, at once where there is no connection."""
        connection, loop = self._connection, self._loop
        if connection is None or loop is None:
            raise self._kept_back(NOT_CONNECTED)
        breaker = self._breaker
        if breaker.is_open and not breaker.admits(loop.time()):
            raise self._kept_back(CIRCUIT_OPEN)
        try:
            reply = await connection.call(parts)
        except StoreFault as fault:
            if fault.code == NOSCRIPT:
                # An answer like another: the caller sends the script's text, since nothing was done.
                breaker.succeeded()
            else:
                self._failed(fault, connection, loop.time())
            raise
        breaker.succeeded()
        if self._watch.is_lost:
            self._watch.answered(loop.time())
        return reply

    def _kept_back(self, code: str) -> StoreFault:
        self._watch.count(code)
        return StoreFault(code)

    def _failed(self, fault: StoreFault, connection: RedisConnection, now: float) -> None:
        self._watch.failed(fault.code, now)
        self._breaker.failed(now)
        if self._breaker.is_open:
            self._watch.lost(str(fault), now)
        if fault.code in _DROPPED:
            connection.close(str(fault))

    async def _keep_connected(self, tried: asyncio.Event) -> None:
        loop, pause, attempt = asyncio.get_running_loop(), FIRST_PAUSE_S, 0
        while True:
            try:
                async with asyncio.timeout(CONNECT_S):
                    connection = await open_connection(self._target, attempt)
            except Exception as fault:  # noqa: BLE001 - whatever keeps it from connecting, it is tried again
                self._watch.lost(str(fault) or type(fault).__name__, loop.time())
                tried.set()
            else:
                self._breaker.succeeded()
                self._watch.back(loop.time())
                self._connection = connection
                tried.set()
                since = loop.time()
                await self._look_for_eviction(connection)
                why = await asyncio.shield(connection.closed)
                self._connection = None
                self._watch.lost(why, loop.time())
                if loop.time() - since >= LONGEST_PAUSE_S:
                    pause = FIRST_PAUSE_S
            attempt += 1
            await asyncio.sleep(pause * (1 + self._chance()) / 2)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _look_for_eviction(self, connection: RedisConnection) -> None:
        policy = await eviction_policy(connection)
        if policy not in {"", "noeviction", self._eviction}:
            self._watch.evicts(policy)
        self._eviction = policy
