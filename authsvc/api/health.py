"""grpc.health.v1: whether this replica serves.

Owns: the serving state and the three RPCs over it. May import: `core`, `api`. The service `""` and every
served service share one state: they live and drain together.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from authsvc.api import standard_messages as messages
from authsvc.api.calls import Context
from authsvc.core.errors import NotFound, Reason


class Health:
    """Handlers of grpc.health.v1.Health, and the switch behind them."""

    def __init__(self, services: Iterable[str] = ()) -> None:
        self._names = frozenset({"", *services})
        self._lock = threading.Lock()
        self._serving = False
        self._watchers: set[Callable[[], None]] = set()

    @property
    def serving(self) -> bool:
        """Whether this replica asks for traffic."""
        return self._serving

    def set_serving(self, *, serving: bool) -> None:
        """Change the state and tell the watchers."""
        with self._lock:
            self._serving = serving
            for watcher in self._watchers:
                watcher()

    def check(self, request: Any, _context: Context) -> Any:
        """The state of one service; NOT_FOUND for a name that is not served."""
        if request.service not in self._names:
            raise NotFound("this service is not served", Reason.SERVICE_NOT_FOUND)
        return messages.HealthCheckResponse(status=self._status())

    def list(self, _request: Any, _context: Context) -> Any:
        """The state of every service."""
        answer = messages.HealthListResponse()
        for name in self._names:
            answer.statuses[name].status = self._status()
        return answer

    async def watch(self, request: Any, context: Context) -> AsyncGenerator[Any, None]:
        """The state now, and at each change, until the call ends; an unknown name is SERVICE_UNKNOWN."""
        known = request.service in self._names
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # The state changes, and calls end, in whatever thread.
            loop.call_soon_threadsafe(changed.set)

        with self._lock:
            self._watchers.add(wake)
        try:
            context.call.on_end(wake)
            sent = None
            while not context.call.cancelled():
                status = self._status() if known else messages.SERVICE_UNKNOWN
                if status != sent:
                    sent = status
                    yield messages.HealthCheckResponse(status=status)
                else:
                    await changed.wait()
                    changed.clear()
        finally:
            with self._lock:
                self._watchers.discard(wake)

    def _status(self) -> int:
        return messages.SERVING if self._serving else messages.NOT_SERVING
