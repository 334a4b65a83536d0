"""Rows that wait for a store, on the loop.

Owns: `Waits`: all waits of a transport, each ended once its time is over or its caller has gone, and `WaitRunner`, the
engine's runner for one call. May import: the standard library, `api`, `core.errors`. One timer serves all, since a
timer for each would cost more than most of them wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from authsvc.api.calls import Call
from authsvc.api.engine import State
from authsvc.core.errors import DeadlineExceeded
from authsvc.core.values import Revision

CLOCK_SECONDS: Final = 0.001
"""The resolution of the loop's clock: a timer of it may come so much too early."""
LOOK_SECONDS: Final = 1.0
"""Who has waited so long is asked whether its caller is still there, and then as often."""

HasLeft = Callable[[Any], Awaitable[bool]]
"""Whether the caller behind a transport's handle of a call has gone; asked only while the call waits."""


class Wait:
    """One task that waits."""

    __slots__ = ("cancelling", "deadline", "handle", "is_asked", "is_old", "task", "why")

    def __init__(self, task: asyncio.Task[Any], deadline: float, handle: object) -> None:
        self.task = task
        self.cancelling = task.cancelling()
        self.deadline = deadline
        self.handle = handle
        self.is_old = self.is_asked = False
        self.why = ""

    def end(self, why: str) -> None:
        """Cancel the task once, and say why."""
        if not self.why:
            self.why = why
            self.task.cancel()


class Waits:
    """Every wait of a transport. Used on one loop."""

    def __init__(self, has_left: HasLeft) -> None:
        self._has_left = has_left
        self._asking: set[asyncio.Task[None]] = set()
        self._all: set[Wait] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    async def run(self, work: Coroutine[Any, Any, Any], deadline: float, handle: object) -> Any:
        """What `work` comes to; raises DeadlineExceeded at `deadline` (monotonic) or once the caller has gone.

        A `handle` of None: nobody asks.
        """
        task = asyncio.current_task()
        assert task is not None
        wait = Wait(task, deadline, handle)
        self._all.add(wait)
        if deadline < self._due:
            self._wake_at(deadline)
        try:
            return await work
        except asyncio.CancelledError:
            if wait.why and task.uncancel() <= wait.cancelling:
                raise DeadlineExceeded(wait.why) from None
            raise
        finally:
            self._all.discard(wait)

    async def look_for_callers(self) -> None:
        """For ever: end the waits whose callers have gone."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for wait in self._all:
                if wait.is_old and not wait.is_asked and wait.handle is not None:
                    asking = asyncio.get_running_loop().create_task(self._ask(wait))
                    self._asking.add(asking)
                    asking.add_done_callback(self._asking.discard)
                wait.is_old = True

    async def _ask(self, wait: Wait) -> None:
        wait.is_asked = True
        if await self._has_left(wait.handle):
            wait.end("the caller has gone")
        wait.is_asked = False

    def _wake_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        left = max(0.0, due - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(left + CLOCK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer, self._due = None, float("inf")
        now = time.monotonic()
        for wait in self._all:
            if wait.deadline <= now:
                wait.end("the deadline passed")
        left = [wait.deadline for wait in self._all if not wait.why]
        if left:
            self._wake_at(min(left))


class WaitRunner:
    """Waits by suspending; see `engine.Runner`."""

    __slots__ = ("_handle", "_waits")

    def __init__(self, waits: Waits, handle: object = None) -> None:
        self._waits = waits
        self._handle = handle

    async def run(self, work: Coroutine[Any, Any, Any], call: Call, deadline: float) -> Any:  # noqa: ARG002 - the protocol's
        """See `engine.Runner`."""
        return await self._waits.run(work, deadline, self._handle)

    async def reach(self, state: State, revision: Revision, caller: str, deadline: float) -> None:
        """See `engine.Runner`."""
        await self._waits.run(state.wait_for(revision, caller, deadline), deadline, self._handle)
