"""How far a change has come: over the replicas of the record, and the watchers of each.

Owns: `Reporter`, which keeps this replica's row and counts the others, and `Propagation`, which reads all rows. May
import: `core`, `ports`, `state`, `usecases.sync`. Rows have no revision: nothing here holds up a writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from authsvc.core.errors import AuthsvcError
from authsvc.core.outages import Outage
from authsvc.ports.replicas import Replica, Replicas

if TYPE_CHECKING:
    from authsvc.ports.record import Order
    from authsvc.state.tail import Tail
    from authsvc.usecases.sync import Watchers

REPORT_SECONDS = 5.0
LIVE_SECONDS = 60.0
"""A replica that was seen so lately counts as live."""
FORGET_SECONDS = 120.0
"""How long the row of a replica that reports no more is kept, at least: until it cannot answer any more."""
PROMPT_SECONDS = 1.0
"""How long after a change of a key each acknowledgement is reported, and RevokeKey waits for them."""

_PAUSE_SECONDS = 0.025
"""Between two reports, and between two looks at the rows, while somebody waits."""

Tell = Callable[[str, Mapping[str, object]], None]
"""Shows operators an event, by kind and fields."""


class Spread(NamedTuple):
    """How far a revision has come over the live replicas; `everywhere` where no replica can be without it.

    A replica that was not seen for a while still answers from what it knows until that is too old (STANDARDS U6).
    """

    watchers: int = 0
    acknowledged: int = 0
    everywhere: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether there is nobody left to wait for."""
        return self.everywhere and self.acknowledged == self.watchers

    @classmethod
    def of(cls, replicas: tuple[Replica, ...], order: Order, may_answer: float) -> Spread:
        """Judged from the rows; `may_answer` is for how many seconds a replica answers without the record."""
        live = tuple(replica for replica in replicas if replica.age <= LIVE_SECONDS)
        return cls(
            sum(replica.watchers for replica in live),
            sum(replica.holding(order) for replica in live),
            all(replica.revision >= order for replica in replicas if replica.age <= max(may_answer, LIVE_SECONDS)),
        )


@dataclass(frozen=True, slots=True)
class Propagation:
    """Reads how far changes have come. `may_answer` is `record.max_age`, in seconds."""

    record: Replicas
    may_answer: float

    async def replicas(self) -> tuple[Replica, ...]:
        """All replicas that reported lately, by id."""
        return await asyncio.to_thread(self.record.replicas)

    async def spread(self, order: Order, *, within: float = 0.0) -> Spread:
        """How far a revision has come; waits at most `within` seconds for it to be complete.

        It never raises: where the record cannot be asked, it tells what was seen last.
        """
        end = time.monotonic() + within
        seen = Spread()
        while True:
            # Whatever it is: the change is made, and who asked for it must hear so.
            with contextlib.suppress(Exception):
                seen = Spread.of(await self.replicas(), order, self.may_answer)
            if seen.is_complete or time.monotonic() >= end:
                return seen
            await asyncio.sleep(_PAUSE_SECONDS)

    async def lacking(self, order: Order, *, within: float = PROMPT_SECONDS) -> tuple[str, ...]:
        """The live replicas that do not hold a revision, though they had so many seconds; raises Unavailable."""
        end = time.monotonic() + within
        while True:
            found = await self.replicas()
            lacking = tuple(r.replica_id for r in found if r.age <= LIVE_SECONDS and r.revision < order)
            if not lacking or time.monotonic() >= end:
                return lacking
            await asyncio.sleep(_PAUSE_SECONDS)


class Reporter:
    """Keeps this replica's row: every few seconds, and at once where a key changed and who watches acknowledges it."""

    def __init__(
        self,
        record: Replicas,
        tail: Tail,
        watchers: Watchers,
        replica_id: str,
        *,
        configured: int,
        may_answer: float,
        tell: Tell,
    ) -> None:
        self._record = record
        self._tail = tail
        self._watchers = watchers
        self._replica_id = replica_id
        self._configured = configured
        self._live = configured
        self._may_answer = may_answer
        self._forget_after = max(FORGET_SECONDS, 2 * may_answer)
        self._tell = tell
        self._outage = Outage()
        self._keys_version = tail.held.keys_version
        self._prompt_until = 0.0
        self._due = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def live_replicas(self) -> int:
        """How many replicas there are: those seen in the last minute, but never fewer than are configured.

        It stays as it was while the record cannot be asked.
        """
        return self._live

    async def start(self) -> None:
        """Make the row, and keep it from now on; a record that is down is told and tried again."""
        self._loop = asyncio.get_running_loop()
        self._watchers.start(self._acknowledged)
        self._tail.on_move(self._moved)
        await self._report()
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        """Keep it no more, and take it away where the record can be reached."""
        self._loop = None
        self._watchers.stop()
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(AuthsvcError):
            await asyncio.to_thread(self._record.withdraw_replica, self._replica_id)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._due.wait()
                    # What comes together is told together.
                    await asyncio.sleep(_PAUSE_SECONDS)
            self._due.clear()
            await self._report()

    async def _report(self) -> None:
        if self._tail.age() > self._may_answer:
            # It answers nobody: neither a rotation nor a share of a limit is to wait for it.
            return
        held = self._tail.held
        row = Replica(self._replica_id, held.revision.order, len(self._watchers), self._watchers.held())
        try:
            rows = await asyncio.to_thread(self._record.report_replica, row, forget_after=self._forget_after)
        except Exception as error:  # noqa: BLE001 - whatever a row of another release holds, the next report is due
            if self._outage.goes_on(time.monotonic()):
                text = error.message if isinstance(error, AuthsvcError) else type(error).__name__
                self._tell("replica.unreported", {"text": text})
            return
        if self._outage.is_over():
            self._tell("replica.reported", {})
        self._live = max(self._configured, sum(replica.age <= LIVE_SECONDS for replica in rows))

    def _moved(self) -> None:
        """The tail has moved; called in its thread."""
        version, loop = self._tail.held.keys_version, self._loop
        if version == self._keys_version or loop is None:
            return
        self._keys_version = version
        # A loop that has just been closed reports no more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._keys_changed)

    def _keys_changed(self) -> None:
        self._prompt_until = time.monotonic() + PROMPT_SECONDS
        self._due.set()

    def _acknowledged(self) -> None:
        if time.monotonic() < self._prompt_until:
            self._due.set()
