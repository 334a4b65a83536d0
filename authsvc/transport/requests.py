"""The requests of calls that have one, until it is there.

Owns: `Requests`: how long a message may take to come, and how many calls may be open without one. May import: `api`,
`core.errors`, `transport`, the standard library. One sweep looks after all: a timer for each call would cost as much
as reading it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from authsvc.api.calls import Received
from authsvc.api.method_table import READ_SECONDS, Row
from authsvc.api.overload import TEXT
from authsvc.api.throttle import network_of
from authsvc.core.errors import DeadlineExceeded, Exhausted, Reason, Unavailable
from authsvc.transport import grpc_framing as framing
from authsvc.transport.grpc_framing import Event, Receive

MOST: Final = 1_024
"""Calls that may be open half-read: their message has begun and not ended, or has not begun for two sweeps."""
MOST_OF_ONE_NETWORK: Final = 256

Waiting = dict[asyncio.Future[Event], tuple[float, str]]
"""What has not come: until when it may (monotonic), and for which peer's address."""


class Requests:
    """Every request that is being read. Used on one loop, which is to call `sweep` again and again."""

    def __init__(self, most: int = MOST, most_of_one_network: int = MOST_OF_ONE_NETWORK) -> None:
        self._most = most
        self._most_of_one_network = most_of_one_network
        self._first: Waiting = {}
        self._next: Waiting = {}
        self._seen: set[asyncio.Future[Event]] = set()
        self._silent: set[asyncio.Future[Event]] = set()
        self._begun: Counter[str] = Counter()

    @property
    def half_read(self) -> int:
        """How many calls are open half-read; they give the service no work."""
        return len(self._silent) + self._begun.total()

    async def one(self, row: Row, receive: Receive, deadline: float | None, address: str) -> Received:
        """The message of a call, by its deadline (monotonic) or in the row's time, whichever is earlier.

        Raises as `framing.one_message`, DeadlineExceeded, and Exhausted OVERLOADED where too many are half-read.
        """
        limit = time.monotonic() + row.deadline_s
        if deadline is not None and deadline < limit:
            limit = deadline
        coming = receive()
        # pyvoy gives futures, and no other awaitable can be ended from outside.
        if not isinstance(coming, asyncio.Future):
            event = await coming
        else:
            self._first[coming] = (limit, address)
            try:
                event = await coming
            finally:
                del self._first[coming]
                if self._silent:
                    self._silent.discard(coming)
        whole = framing.whole_message(event, row.max_bytes)
        if whole is not None:
            return whole
        with self._half_reading(network_of(address)):
            return await framing.one_message(lambda: self._more(receive, limit, address), row.max_bytes, event)

    async def of_stream(self, row: Row, receive: Receive, address: str) -> Received:
        """The message of a call that is answered by a stream, in the time of a call that reads.

        It counts as a stream, not as half-read. Raises as `framing.one_message`, and DeadlineExceeded.
        """
        limit = time.monotonic() + READ_SECONDS
        return await framing.one_message(lambda: self._more(receive, limit, address), row.max_bytes)

    def sweep(self, now: float, *, draining: bool = False) -> None:
        """End what did not come in time, what is too much, and, `draining`, what is quiet: nobody waits for it.

        `now` is monotonic. What was there at the sweep before, and has not moved, is quiet.
        """
        waiting = self._first | self._next
        self._seen.intersection_update(waiting)
        self._silent = {one for one in self._seen if one in self._first and not one.done()}
        held = Counter(self._begun)
        count = self._begun.total()
        for one, (limit, address) in waiting.items():
            if limit < now:
                _end(one, DeadlineExceeded("the deadline passed before the request had come"))
            elif draining and one in self._seen:
                _end(one, Unavailable("this replica drains", Reason.SHUTTING_DOWN))
            elif one in self._silent:
                network = network_of(address)
                if count >= self._most or held[network] >= self._most_of_one_network:
                    _end(one, Exhausted(TEXT, Reason.OVERLOADED))
                else:
                    count += 1
                    held[network] += 1
        self._seen = set(waiting)

    async def _more(self, receive: Receive, limit: float, address: str) -> Event:
        coming = receive()
        if not isinstance(coming, asyncio.Future):
            return await coming
        self._next[coming] = (limit, address)
        try:
            event: Event = await coming
        finally:
            del self._next[coming]
        return event

    @contextmanager
    def _half_reading(self, network: str) -> Iterator[None]:
        if self.half_read >= self._most or self._begun[network] >= self._most_of_one_network:
            raise Exhausted(TEXT, Reason.OVERLOADED)
        self._begun[network] += 1
        try:
            yield
        finally:
            self._begun[network] -= 1
            if not self._begun[network]:
                del self._begun[network]


def _end(coming: asyncio.Future[Event], fault: Exception) -> None:
    if not coming.done():
        coming.set_exception(fault)
