"""SyncService.

Owns: the one RPC, and the order of what a watcher hears. May import: `core`, `state`, `usecases`, `v1`, `api`. The
caller is looked at anew before each answer, so nothing is sent to whom it is not for any more, but for one thing: who
is refused because the key of its own token was revoked must hear just that, and be counted where it says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from authsvc.api import convert_sync
from authsvc.api.sync_encoding import Parts
from authsvc.core.errors import (
    Conflict,
    DeadlineExceeded,
    Exhausted,
    InvalidRequest,
    Reason,
    Unauthenticated,
    Unavailable,
)
from authsvc.state.history import Position
from authsvc.v1 import sync_pb2

if TYPE_CHECKING:
    from authsvc.api.calls import Context
    from authsvc.api.convert_sync import Opening
    from authsvc.api.sync_encoding import SyncEncoding
    from authsvc.state.tail import Tail
    from authsvc.usecases.sync import Watcher, Watchers

Requests = AsyncIterator[sync_pb2.WatchRequest]

OPEN_SECONDS = 10.0
"""How long a stream may be open without saying what for."""
CATCH_UP_SECONDS = 5.0
"""How long a watcher waits for this replica to come to what it holds already."""
FAREWELL_SECONDS = 2.0
"""How long a caller that is refused since a key changed may acknowledge that; longer than RevokeKey waits for it."""


class SyncHandlers:
    """SyncService."""

    def __init__(self, watchers: Watchers, encoding: SyncEncoding, tail: Tail) -> None:
        self._watchers = watchers
        self._encoding = encoding
        self._tail = tail

    async def watch(self, requests: Requests, context: Context) -> AsyncGenerator[bytes, None]:
        """The state, then what changes, until one side ends it."""
        with self._watchers.place(context.caller.subject):
            first = await _first(requests, context)
            if first is None:
                return
            wanted = convert_sync.opening(first)
            known = await self._caught_up(wanted, context)
            loop = asyncio.get_running_loop()
            with self._watchers.watching(wanted.interest, known) as watcher:
                context.call.on_end(partial(_wake, loop, watcher))
                reading = loop.create_task(_read(requests, watcher))
                try:
                    async with aclosing(self._answers(watcher, context)) as answers:
                        async for answer in answers:
                            yield answer + self._encoding.age(self._watchers.age())
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)

    async def _answers(self, watcher: Watcher, context: Context) -> AsyncGenerator[bytes, None]:
        encoding, told, quiet = self._encoding, False, False
        while not context.call.cancelled():
            watcher.check()
            try:
                context.look_again()
            except Unauthenticated:
                farewell = self._farewell(watcher)
                if farewell is None:
                    raise
                yield farewell
                await _while_connected(watcher, context, FAREWELL_SECONDS)
                raise
            target = self._watchers.target
            if told and watcher.position == Position.of(target):
                if quiet:
                    yield encoding.heartbeat(target)
                quiet = not await watcher.wait(self._watchers.heartbeat)
                continue
            told, quiet = True, False
            remote = encoding.is_remote(watcher.interest, target)
            delta = None
            if watcher.position is not None and watcher.remote == remote:
                delta = encoding.delta(watcher.interest, watcher.position, target)
            if delta is not None:
                # Before it goes out: an acknowledgement may come before this runs again.
                watcher.delivered(target, whole=False, remote=remote)
                yield delta
                continue
            async with aclosing(self._whole(watcher, context)) as parts:
                async for part in parts:
                    yield part

    def _farewell(self, watcher: Watcher) -> bytes | None:
        """What a caller that is refused still hears: a change of a key, and what else came with it."""
        encoding, held, target = self._encoding, watcher.position, self._watchers.renew()
        if held is None or not encoding.changes_keys(held, target):
            return None
        if encoding.is_remote(watcher.interest, target) != watcher.remote:
            return None
        watcher.delivered(target, whole=False, remote=watcher.remote)
        return encoding.delta(watcher.interest, held, target)

    async def _whole(self, watcher: Watcher, context: Context) -> AsyncGenerator[bytes, None]:
        encoding, interest = self._encoding, watcher.interest
        while not context.call.cancelled():
            parts = Parts()
            if interest.revocations:
                parts = await encoding.parts(self._watchers.target)
            for index in range(parts.number):
                context.look_again()
                part = encoding.part(parts, index)
                if part is None:
                    raise Exhausted("the state was not taken while it was in use", Reason.OVERLOADED)
                yield part
            context.look_again()
            target = self._watchers.target
            closing = encoding.closing(interest, parts, target)
            if closing is not None:
                watcher.delivered(target, whole=True, remote=encoding.is_remote(interest, target))
                yield closing
                return

    async def _caught_up(self, wanted: Opening, context: Context) -> Position | None:
        """What the watcher holds, once this replica is no older; None where it holds nothing that counts here."""
        until = min(context.deadline, time.monotonic() + CATCH_UP_SECONDS)
        if wanted.least is not None:
            await self._tail.wait_for(wanted.least, context.caller.subject, until)
        if wanted.known is None:
            return None
        try:
            await self._tail.wait_for(wanted.known, "", until)
        except Conflict:
            # Of another record, or the record lost it: the watcher gets what is true now, even where that is older.
            return None
        except DeadlineExceeded:
            raise Unavailable("this replica is behind `known_revision`") from None
        return Position(wanted.known.order, wanted.known_digest)


def _wake(loop: asyncio.AbstractEventLoop, watcher: Watcher) -> None:
    """Calls end in whatever thread."""
    loop.call_soon_threadsafe(watcher.wake)


async def _while_connected(watcher: Watcher, context: Context, seconds: float) -> None:
    """Wait, unless the call ends before."""
    until = time.monotonic() + seconds
    while not context.call.cancelled() and (left := until - time.monotonic()) > 0:
        watcher.check()
        await watcher.wait(left)


async def _first(requests: Requests, context: Context) -> sync_pb2.WatchRequest | None:
    """The first request; None where the call ended before it."""
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            return await anext(requests)
    except TimeoutError:
        raise DeadlineExceeded(f"no `open` came within {OPEN_SECONDS:.0f} s") from None
    except StopAsyncIteration:
        if context.call.cancelled():
            return None
        raise InvalidRequest.of("open", "is required in the first request") from None


async def _read(requests: Requests, watcher: Watcher) -> None:
    """Take the acknowledgements; whatever is wrong with one ends the stream."""
    try:
        async for request in requests:
            watcher.acknowledge(convert_sync.acknowledged(request))
    except Exception as fault:  # noqa: BLE001 - raised again where the stream is answered
        watcher.fail(fault)
