"""Watchers: who follows this replica's state, and what each of them holds.

Owns: `Watcher` and `Watchers`, when a watcher is woken, and what counts as acknowledged. May import: `core`, `state`,
`ports`. All of it runs on one loop.

A change after a quiet moment wakes everybody at once, those that follow it gather. A few watchers are woken a loop
turn, so that calls go on between. A watcher that is slow holds its position and nothing else: what it missed is summed
up when it comes for it (STATE.md, "Processes and transports").
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from authsvc.core.errors import Exhausted, InvalidRequest, Reason
from authsvc.core.values import Revision
from authsvc.state.history import Position

if TYPE_CHECKING:
    from authsvc.ports.record import Order
    from authsvc.state.snapshot import Snapshot
    from authsvc.state.tail import Tail

MOST_WATCHERS = 5_000
MOST_OF_A_CALLER = 250
"""Streams that one subject may hold open: most of a process' are left to others, be it the 1,000 of `grpcio`."""
GATHER_SECONDS = 0.05
"""The least time between two changes that watchers are told of; what comes between is told together."""
HEARTBEAT_SECONDS = 10.0
A_TURN = 50
"""Watchers that are woken in one turn of the loop."""

MOST_HELD = 32
"""Revisions that a report tells apart."""

MOST_IDLE = 16
"""Acknowledgements that say nothing new, between two answers: more are a flood."""

_FIELD = "acknowledgement.revision"


class Interest(NamedTuple):
    """What a watcher asked for; whoever asked for the same gets the same bytes."""

    keys: bool
    revocations: bool


class Watcher:
    """One watcher. `position` is what it was sent whole, None before; `remote` whether that told it to ask us."""

    def __init__(self, interest: Interest, known: Position | None, acknowledged: Callable[[], None]) -> None:
        self.interest = interest
        self.position = known
        self.remote = False
        self.acknowledged: Order | None = None
        """The newest revision that it said it holds."""
        self._sent: Revision | None = None
        self._newest: Order = (0, 0)
        self._idle = 0
        self._tell = acknowledged
        self._fault: BaseException | None = None
        self._woken = asyncio.Event()

    def delivered(self, target: Snapshot, *, whole: bool, remote: bool) -> None:
        """It was sent what makes it hold `target`.

        A whole state stands for itself: what was acknowledged before may be of a history that is no more.
        """
        if whole:
            self.acknowledged = None
        self.position = Position.of(target)
        self.remote = remote
        self._sent = target.revision
        self._newest = max(self._newest, target.revision.order)

    def acknowledge(self, text: str) -> None:
        """It says that it holds a revision; raises InvalidRequest where that was never sent, or said again and again.

        One that is above a state which went back since is passed over.
        """
        revision = Revision.parse(text, _FIELD)
        if self._sent is None or revision.record != self._sent.record or revision.order > self._newest:
            raise InvalidRequest.of(_FIELD, "was not sent on this stream")
        if revision.order <= self._sent.order and (self.acknowledged is None or revision.order > self.acknowledged):
            self.acknowledged = revision.order
            self._tell()
            return
        self._idle += 1
        if self._idle > MOST_IDLE:
            raise InvalidRequest.of(_FIELD, "says nothing new, again and again")

    def wake(self) -> None:
        """Let it look for something new, or for its end."""
        self._woken.set()

    def fail(self, fault: BaseException) -> None:
        """End it with an error; the first one counts."""
        self._fault = self._fault or fault
        self.wake()

    def check(self) -> None:
        """Raise the error that ends it."""
        if self._fault is not None:
            raise self._fault

    async def wait(self, seconds: float) -> bool:
        """Wait until it is woken, at most so long; whether it was."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._idle = 0
        woken = self._woken.is_set()
        self._woken.clear()
        return woken


class Watchers:
    """All watchers of this replica, and the state that they are brought to."""

    def __init__(
        self,
        tail: Tail,
        *,
        most: int = MOST_WATCHERS,
        most_of_a_caller: int = MOST_OF_A_CALLER,
        gather: float = GATHER_SECONDS,
        heartbeat: float = HEARTBEAT_SECONDS,
    ) -> None:
        self.heartbeat = heartbeat
        """Seconds after which a watcher hears something, though nothing changed."""
        self.target = tail.held
        """The state that watchers are brought to: never older than one that anybody of them was sent."""
        self._tail = tail
        self._most = most
        self._most_of_a_caller = most_of_a_caller
        self._places: Counter[str] = Counter()
        self._gather = gather
        self._watchers: dict[Watcher, None] = {}
        self._due: dict[Watcher, None] = {}
        self._gathering: asyncio.TimerHandle | None = None
        self._brought_at = -math.inf
        self._loop: asyncio.AbstractEventLoop | None = None
        self._acknowledged: Callable[[], None] = _nothing

    def start(self, acknowledged: Callable[[], None]) -> None:
        """Follow the tail from this loop; `acknowledged` is called at each acknowledgement."""
        self._loop = asyncio.get_running_loop()
        self._acknowledged = acknowledged
        self._tail.on_move(self._moved)

    def stop(self) -> None:
        """Wake nobody any more."""
        self._loop = None
        if self._gathering is not None:
            self._gathering.cancel()

    def __len__(self) -> int:
        return len(self._watchers)

    @contextlib.contextmanager
    def place(self, subject: str) -> Iterator[None]:
        """A stream of a caller while the block runs, from before it says what for.

        Raises Exhausted OVERLOADED where this caller holds too many.
        """
        if self._places[subject] >= self._most_of_a_caller:
            raise Exhausted("this caller holds too many streams of this replica", Reason.OVERLOADED)
        self._places[subject] += 1
        try:
            yield
        finally:
            self._places[subject] -= 1
            if not self._places[subject]:
                del self._places[subject]

    @contextlib.contextmanager
    def watching(self, interest: Interest, known: Position | None) -> Iterator[Watcher]:
        """A new watcher while the block runs, which holds `known`; raises Exhausted OVERLOADED above the cap."""
        if len(self._watchers) >= self._most:
            raise Exhausted("too many watchers are connected to this replica", Reason.OVERLOADED)
        watcher = Watcher(interest, known, self._acknowledged)
        self._watchers[watcher] = None
        self.renew()
        try:
            yield watcher
        finally:
            del self._watchers[watcher]
            self._due.pop(watcher, None)

    def renew(self) -> Snapshot:
        """Let the target be the newest state, before it is everybody's turn; the target."""
        self.target = self._tail.held
        return self.target

    def age(self) -> float:
        """Seconds since the target was known to be the record's newest state, at most.

        A newer one that is gathered with what follows it has made it as much older.
        """
        gathering = Position.of(self.target) != Position.of(self._tail.held)
        return self._tail.age() + (self._gather if gathering else 0.0)

    def held(self) -> tuple[tuple[Order, int], ...]:
        """How many watchers hold which revision, newest first; the oldest stand for all older than they.

        Whatever they asked for: one without `keys` holds a revision, and has its keys from a JWKS (`offline_until`).
        """
        counts = Counter(watcher.acknowledged for watcher in self._watchers if watcher.acknowledged is not None)
        newest_first = sorted(counts.items(), reverse=True)
        rest = newest_first[MOST_HELD - 1 :]
        if len(rest) < 2:
            return tuple(newest_first)
        # Counted at the oldest of them: too little is told rather than too much.
        return (*newest_first[: MOST_HELD - 1], (rest[-1][0], sum(count for _, count in rest)))

    def _moved(self) -> None:
        """The tail has moved; called in its thread."""
        loop = self._loop
        if loop is not None:
            # A loop that has just been closed has nobody to wake.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._changed)

    def _changed(self) -> None:
        if self._loop is not None and self._gathering is None:
            self._gathering = self._loop.call_at(self._brought_at + self._gather, self._bring)

    def _bring(self) -> None:
        """Bring everybody to the newest state; those who still wait from before come first."""
        self._gathering = None
        if self._loop is not None:
            self._brought_at = self._loop.time()
        self.renew()
        begun = bool(self._due)
        for watcher in self._watchers:
            self._due.setdefault(watcher)
        if not begun:
            self._wake_some()

    def _wake_some(self) -> None:
        for watcher in tuple(islice(self._due, A_TURN)):
            del self._due[watcher]
            watcher.wake()
        if self._due and self._loop is not None:
            self._loop.call_soon(self._wake_some)


def _nothing() -> None:
    """Nobody wants to know."""
