"""One open stream of a transport.

Owns: `Stream`: its requests, its end, and who wants to be told; and `Streams`, all that are open, and their caps.
May import: the standard library, `api`, `core.errors`. Handlers of streams run on the loop, whichever
transport serves them.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from authsvc.api.calls import Received
from authsvc.api.method_table import PUBLIC, Row
from authsvc.api.throttle import network_of
from authsvc.core.errors import Exhausted, Reason

_END: Final = None
READ_AHEAD = 8
"""Requests that are read before the handler asks for them."""
MOST_OF_STRANGERS = 200
"""Streams that one address may hold open on rows for which nobody needs a principal: most are left to others."""


class Stream:
    """A stream ends when its caller goes, when the transport drains, or when its handler is done.

    Whoever reads the requests gives them in; a handler that waits for the next one sees the end too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._ended = False
        self._callbacks: list[Callable[[], None]] = []
        self._inbox: asyncio.Queue[Received | BaseException | None] = asyncio.Queue(READ_AHEAD)

    def ended(self) -> bool:
        """Whether it was ended from outside or is done."""
        return self._ended

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back once at the end, in the thread that ends it; at once where it has come."""
        with self._lock:
            if not self._ended:
                self._callbacks.append(callback)
                return
        callback()

    def end(self) -> None:
        """End it, from any thread while the loop runs; a second time does nothing."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            callbacks, self._callbacks = self._callbacks, []
        self._loop.call_soon_threadsafe(self._release)
        for callback in callbacks:
            callback()

    async def give(self, item: Received | BaseException | None) -> bool:
        """One more request, None where there will be no more, or why there can be none.

        Waits while the handler has `READ_AHEAD` unread; False where the stream has ended.
        """
        if not self._ended:
            await self._inbox.put(item)
        return not self._ended

    async def requests(self) -> AsyncIterator[Received]:
        """The caller's messages, until it has no more or the stream ends."""
        while not self._ended:
            item = await self._inbox.get()
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _release(self) -> None:
        """Let go of a handler that waits for a request, and of a reader that waits for room."""
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(_END)


class Streams:
    """All streams that are open; thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._open: set[Stream] = set()
        self._strangers: Counter[str] = Counter()
        self._refusing = False

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    @contextmanager
    def holding(self, stream: Stream, row: Row, peer_address: str) -> Iterator[None]:
        """Counts a stream while the block runs and ends it afterwards, at once where the transport drains.

        Raises Exhausted OVERLOADED above the caps.
        """
        stranger = network_of(peer_address) if row.permission == PUBLIC else ""
        with self._lock:
            if len(self._open) >= self._most:
                raise Exhausted("too many streams are open", Reason.OVERLOADED)
            if stranger and self._strangers[stranger] >= MOST_OF_STRANGERS:
                raise Exhausted("this address holds too many streams", Reason.OVERLOADED)
            self._open.add(stream)
            self._strangers[stranger] += 1
            refusing = self._refusing
        try:
            if refusing:
                stream.end()
            yield
        finally:
            with self._lock:
                self._open.discard(stream)
                self._strangers[stranger] -= 1
                if not self._strangers[stranger]:
                    del self._strangers[stranger]
            stream.end()

    def end_all(self) -> None:
        """End every stream that is open, and those that come."""
        with self._lock:
            self._refusing = True
            streams = tuple(self._open)
        for stream in streams:
            stream.end()
