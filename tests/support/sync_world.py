"""SyncService over a real record, state and history, without engine, transport or network.

Time is turned by hand; only heartbeats follow the loop's clock, and are quick.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from authsvc.api.calls import Call, Context
from authsvc.api.handlers_sync import SyncHandlers
from authsvc.api.sync_encoding import SyncEncoding
from authsvc.clock import FakeClock
from authsvc.core.clients import Client
from authsvc.core.revocations import RevocationKind
from authsvc.ports.record import Revocation, RevocationMark
from authsvc.state.tail import Tail
from authsvc.storage.sql.record import SqlRecord
from authsvc.usecases.key_sets import KeySets
from authsvc.usecases.principals import Principal
from authsvc.usecases.sync import Watchers
from authsvc.v1 import sync_pb2
from tests.support.record_values import NOW, SCHEDULE, draft, key, keys_change, verify_keys
from tests.support.watching import Held, acknowledging, keyed, opening

ISSUER = "https://auth.example"
HEARTBEAT = 0.02
KINDS = {number: RevocationKind(name) for number, name in enumerate(("token", "subject", "client", "issuer"), start=1)}


class World:
    """One replica. Its tail moves when told to."""

    def __init__(
        self,
        record: SqlRecord,
        *,
        max_bytes: int = 2**25,
        max_age: float = 120,
        most: int = 5_000,
        most_of_a_caller: int = 250,
        gather: float = 0.0,
    ) -> None:
        record.change_keys(keys_change(key("k1")), draft(), expected=None)
        self.record = record
        self.clock = FakeClock(NOW)
        self.tail = Tail(record, verify_keys, self.clock, max_age=max_age)
        self.watchers = Watchers(
            self.tail, most=most, most_of_a_caller=most_of_a_caller, gather=gather, heartbeat=HEARTBEAT
        )
        self.acknowledgements = 0
        sets = KeySets(SCHEDULE, lambda: 0.0)
        self.encoding = SyncEncoding(self.tail.history, sets, ISSUER, self.clock.now, max_bytes=max_bytes, max_stale=30)
        self.handlers = SyncHandlers(self.watchers, self.encoding, self.tail)

    def start(self) -> None:
        """Begin to bring changes to watchers, on the running loop."""
        self.watchers.start(self._acknowledged)

    def revoke(self, *names: str, kind: RevocationKind = RevocationKind.SUBJECT, ends: int = NOW + 3_600) -> None:
        """One write."""
        self.record.revoke([Revocation(kind, name, ends) for name in names], draft())

    def move(self) -> None:
        """The tail follows."""
        self.tail.advance()

    def held(self) -> set[RevocationMark]:
        """What is revoked in this replica's state and has not expired; in whole minutes, as expiries are kept."""
        now = self.tail.held.revocations
        found = {RevocationMark(RevocationKind.TOKEN, digest, (0, 0), 60 * end) for digest, end in now.tokens.items()}
        for kind, entries in (
            (RevocationKind.SUBJECT, now.subjects),
            (RevocationKind.CLIENT, now.clients),
            (RevocationKind.ISSUER, now.issuers),
        ):
            found |= {RevocationMark(kind, digest, at, 60 * end) for digest, (at, end) in entries.items()}
        return {mark for mark in found if mark.expire_time > self.clock.now()}

    def acknowledged_by(self, count: int) -> bool:
        """Whether so many watchers have said that they hold something."""
        return sum(number for _, number in self.watchers.held()) == count

    def _acknowledged(self) -> None:
        self.acknowledgements += 1


class Follower:
    """A watcher that takes one answer when told to, and holds what it was told."""

    def __init__(self, world: World, client_id: str = "watcher", /, **wanted: Any) -> None:
        self._world = world
        self._requests: asyncio.Queue[sync_pb2.WatchRequest | None] = asyncio.Queue()
        self.context = Context(Call("authsvc.v1.SyncService/Watch", cancelled=lambda: self.gone), NOW, float("inf"))
        self.context.principal = Principal(f"client:{client_id}", Client(client_id=client_id), frozenset())
        self.context.look_again = self._look_again
        self.gone = False
        self.refused: Exception | None = None
        self.keys = sync_pb2.KeySet()
        self.revocations: Held = {}
        self.remote = False
        self.revision = ""
        self.digest = b""
        self._parts: Held = {}
        self.say(opening(**(wanted or {"keys": True, "revocations": True})))
        self._answers: AsyncGenerator[bytes, None] = world.handlers.watch(self._asked(), self.context)

    def say(self, request: sync_pb2.WatchRequest | None) -> None:
        """One more request."""
        self._requests.put_nowait(request)

    def acknowledge(self) -> None:
        """Say that it holds what it was told."""
        self.say(acknowledging(self.revision))

    async def take(self) -> sync_pb2.WatchResponse:
        """The next answer."""
        raw = await asyncio.wait_for(anext(self._answers), 10)
        response = sync_pb2.WatchResponse.FromString(raw)
        if response.WhichOneof("response") == "state":
            self._parts.update(keyed(response.state.revocations))
            if response.state.partial:
                return response
            self.keys, self.remote = response.state.keys, response.state.remote
            self.revocations, self._parts = ({} if self.remote else self._parts), {}
        elif response.WhichOneof("response") == "delta":
            if response.delta.HasField("keys"):
                self.keys = response.delta.keys
            self.revocations.update(keyed(response.delta.revocations))
        self.revision, self.digest = response.revision, response.digest
        return response

    async def take_change(self) -> sync_pb2.WatchResponse:
        """The next answer that is no heartbeat."""
        while (response := await self.take()).WhichOneof("response") == "heartbeat":
            continue
        return response

    async def catch_up(self) -> None:
        """Take answers until it holds the replica's state."""
        while self.digest != self._world.tail.held.digest:
            await self.take()

    async def leave(self) -> None:
        """Close the stream where it is."""
        await self._answers.aclose()

    def held(self) -> set[RevocationMark]:
        """What it knows to be revoked and not expired, as `World.held` tells it."""
        now = self._world.clock.now()
        return {
            RevocationMark(
                KINDS[one.kind], one.digest, (one.before_epoch, one.before_number), -(-one.expire_seconds // 60) * 60
            )
            for one in self.revocations.values()
            if -(-one.expire_seconds // 60) * 60 > now
        }

    def _look_again(self) -> None:
        if self.refused is not None:
            raise self.refused
        self.context.snapshot = self._world.tail.current

    async def _asked(self) -> AsyncIterator[sync_pb2.WatchRequest]:
        while (request := await self._requests.get()) is not None:
            yield request
