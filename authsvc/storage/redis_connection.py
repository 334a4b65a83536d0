"""One connection to a counter store that speaks Redis' protocol (RESP2).

Owns: the queue of replies that are owed, the deadline of a call, and writing once a turn of the loop. May import: the
standard library, hiredis. Nothing is ever sent twice (STANDARDS R7). Replies come in the order of their calls, so that
a call which nobody waits for any more (its deadline passed, its caller has gone) keeps its place in the queue and its
reply is dropped: no reply reaches a call that is not its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import hiredis

_AGAIN_S = 0.001
"""A loop that was busy until a deadline runs its timers before it reads: so each deadline is looked at twice, and what
lies in the socket is read between the two."""
_NOTHING = object()

Part = bytes | str | int
"""A word of a command."""


class StoreFault(Exception):
    """The store did not answer, or answered with an error. `code` is the error's first word, else what befell."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(text or code)
        self.code = code


TIMED_OUT = "TIMED_OUT"
CONNECTION_LOST = "CONNECTION_LOST"


@dataclass(slots=True)
class _Turn:
    """Calls that were written together: when, and how many of them are owed a reply."""

    at: float
    owed: int


class RedisConnection(asyncio.Protocol):
    """A connection, bound to the loop that made it.

    `closed` is done once it is over, and says why; `gone` once its socket is closed too. Until `limit_time` is called
    calls have no deadline: a handshake has one as a whole.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_NOTHING, replyError=_fault, protocolError=_fault)
        self._owed: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        self._turns: deque[_Turn] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_s = 0.0
        self._stall_s = 0.0
        self.closed: asyncio.Future[str] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()

    def limit_time(self, deadline_s: float, stall_s: float) -> None:
        """From now on a call fails after `deadline_s`, and the connection once a reply is owed for `stall_s`.

        Both run from when the call was written: how long this loop took until then is not the store's doing.
        """
        self._deadline_s, self._stall_s = deadline_s, stall_s

    def call(self, parts: Sequence[Part]) -> asyncio.Future[Any]:
        """Send a command in this turn of the loop; the future gives its reply, or raises StoreFault.

        It may be cancelled; the command is sent nevertheless.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._transport is None or self.closed.done():
            future.set_exception(StoreFault(CONNECTION_LOST))
            return future
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(hiredis.pack_command(tuple(parts)))  # type: ignore[arg-type]  # its tuple is of any length
        self._owed.append(future)
        return future

    def close(self, why: str) -> None:
        """Give the connection up at once; every call that is still waiting fails."""
        if self.closed.done():
            return
        self.closed.set_result(why)
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._turns.clear()
        while self._owed:
            future = self._owed.popleft()
            if not future.done():
                future.set_exception(StoreFault(CONNECTION_LOST, why))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.close(str(exc) if exc else "the store closed the connection")
        self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Give each reply to the oldest call that is owed one."""
        reader, turns = self._reader, self._turns
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                if not turns:
                    self.close("a reply that nobody asked for")
                    return
                turns[0].owed -= 1
                if not turns[0].owed:
                    turns.popleft()
                future = self._owed.popleft()
                if future.done():
                    continue
                if isinstance(reply, StoreFault):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except StoreFault as fault:
            self.close(f"not the protocol of Redis: {fault}")

    def _flush(self) -> None:
        sent, self._unsent = self._unsent, []
        if self._transport is None or self.closed.done():
            return
        self._transport.write(b"".join(sent))
        now = self._loop.time()
        self._turns.append(_Turn(now, len(sent)))
        if self._timer is None and self._deadline_s:
            self._wake(now + self._deadline_s)

    def _wake(self, due: float) -> None:
        self._timer = self._loop.call_at(due - _AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(_AGAIN_S, self._look)

    def _look(self) -> None:
        """Fail the calls whose time is over, and give the connection up where the store has stalled."""
        self._timer = None
        if not self._turns:
            return
        now = self._loop.time()
        oldest = self._turns[0].at
        if now - oldest >= self._stall_s:
            self.close("the store has stalled")
            return
        late = 0
        # Looked at again within a deadline, whatever is owed longest: for the calls that come meanwhile.
        due = min(oldest + self._stall_s, now + self._deadline_s)
        for turn in self._turns:
            if turn.at + self._deadline_s > now:
                due = min(due, turn.at + self._deadline_s)
                break
            late += turn.owed
        for future in islice(self._owed, late):
            if not future.done():
                future.set_exception(StoreFault(TIMED_OUT))
        self._wake(due)


def _fault(text: str) -> StoreFault:
    """An error reply as an exception."""
    return StoreFault(text.partition(" ")[0], text)
