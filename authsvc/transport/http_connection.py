"""One HTTP connection, and how long and beside how many others it may be held.

Owns: `Connection`, uvicorn's protocol with a limit to its patience. May import: `api`, uvicorn. uvicorn itself counts
idle connections against those that ask, and waits for ever for a first request.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from authsvc.api.throttle import network_of


class Connection(H11Protocol):
    """A connection ends where it brings no whole request for some seconds, whatever else it sends or does not take.

    Nobody is refused because others hold connections: who came last stays, and the network that holds most loses
    those that have been quiet for longest. Each serves one request at a time, so that requests are capped too.
    """

    quiet_s: ClassVar[float] = 15.0
    most: ClassVar[int] = 512
    """Connections of a listener."""

    network = ""
    """Where the peer is, as everything else that counts peers sees it."""
    began = 0.0
    """When the last request came, or else the connection (the loop's time)."""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Count it, and begin to wait for its first request."""
        super().connection_made(transport)
        self.network = network_of(self.client[0]) if self.client else ""
        self.began = self.loop.time()
        self._timer = self.loop.call_later(self.quiet_s, self._look)
        if len(self.connections) > self.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Serve what came; a request that is whole up to its body begins the wait for the next one."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self.began = self.loop.time()

    @property
    def is_serving(self) -> bool:
        """Whether a request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle  # declared without None, and None before the first request
        return cycle is not None and not cycle.response_complete

    def _look(self) -> None:
        left = self.began + self.quiet_s - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._look)
        else:
            self.transport.abort()

    def _make_room(self) -> None:
        others = [
            one
            for one in self.connections
            if isinstance(one, Connection) and one is not self and not one.transport.is_closing()
        ]
        if len(others) < self.most:
            return
        held = Counter(one.network for one in others)
        crowd, count = held.most_common(1)[0]
        quietest = sorted((one for one in others if one.network == crowd), key=lambda one: (one.is_serving, one.began))
        # For some at once: to look at all of them for each that comes would be work that a flood could ask for.
        for one in quietest[: max(1, count // 8)]:
            one.transport.abort()
