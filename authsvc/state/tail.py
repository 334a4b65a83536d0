"""The tail: keeps a replica's snapshot at the record's head.

Owns: the thread that polls, the current snapshot, and waiting for a revision. May import: the standard library,
`core`, `ports`. Mechanisms and their reasons stand in STATE.md, "Revision and change log".
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from authsvc.core.errors import DeadlineExceeded, Unavailable
from authsvc.core.outages import Outage
from authsvc.state import changes
from authsvc.state.history import History, Position
from authsvc.state.snapshot import KeyVerifier, Snapshot, build
from authsvc.state.waiters import Waiter, Waiters, unreachable

if TYPE_CHECKING:
    from authsvc.clock import Clock
    from authsvc.core.values import Revision
    from authsvc.ports.record import Head, Record

POLL_SECONDS = 0.1
MAX_AGE_SECONDS = 120.0
"""Until when a replica that cannot reach the record goes on answering, unless configured otherwise."""
SWEEP_MICROSECONDS = 60_000_000
FREEZE_EVERY = 100_000
"""Edits after which the garbage collector is told again that the snapshot is not garbage."""

_PAGE = 1_000
_log = logging.getLogger(__name__)


class Tail:
    """Holds the current snapshot and advances it: by its thread, every `POLL_SECONDS` and on a hint.

    Thread-safe. The constructor loads the first snapshot and raises what the record or the policy's compiler raises.
    """

    def __init__(
        self,
        record: Record,
        verify_keys: KeyVerifier,
        clock: Clock,
        *,
        most_waiters_a_caller: int = 16,
        max_age: float = MAX_AGE_SECONDS,
    ) -> None:
        self._record = record
        self._verify_keys = verify_keys
        self._clock = clock
        self._max_age = max_age
        self._waiters = Waiters(most_waiters_a_caller)
        self._turn = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._fault = ""
        self._outage = Outage()
        self._edits = 0
        self._moved: tuple[Callable[[], None], ...] = ()
        self._seen_us = self._swept_us = clock.now_us()
        self._current = self._built()
        self.history = History(Position.of(self._current))
        """What changed lately; never less new than `current`."""

    @property
    def current(self) -> Snapshot:
        """The newest snapshot that this replica holds.

        Raises `Unavailable` where it was not known to be the newest for longer than `max_age` seconds: what was
        revoked since might be let through (STANDARDS U6).
        """
        if self.age() > self._max_age:
            raise Unavailable("the record was not reached for too long to trust what this replica knows")
        return self._current

    @property
    def held(self) -> Snapshot:
        """The newest snapshot whatever its age: for numbers about it, never for an answer."""
        return self._current

    @property
    def fault(self) -> str:
        """Why this replica should get no traffic; empty while it follows the record."""
        if not self._fault and self.age() > self._max_age:
            return "the record is out of reach"
        return self._fault

    def age(self) -> float:
        """Seconds since the snapshot was known to be the record's newest (STANDARDS U6)."""
        return (self._clock.now_us() - self._seen_us) / 1_000_000

    def start(self) -> None:
        """Begin to poll."""
        self._thread = threading.Thread(target=self._run, name="authsvc-tail", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop polling; whoever still waits gets `Unavailable`."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._waiters.fail(Unavailable("the service is stopping"))

    def hint(self) -> None:
        """Poll now: something was written. Never needed, only quicker."""
        self._wake.set()

    def on_move(self, callback: Callable[[], None]) -> None:
        """Call back after each change of `current`, in the tail's thread; it must neither block nor raise."""
        self._moved = (*self._moved, callback)

    def reached(self, revision: Revision) -> bool:
        """Whether the current snapshot is at least this new; never waits.

        Raises `Conflict` REVISION_UNREACHABLE for a revision of another record.
        """
        now = self._current.revision
        if revision.record != now.record:
            raise unreachable()
        return revision.order <= now.order

    def reach(self, revision: Revision, deadline: float | None, caller: str = "") -> None:
        """Block until the snapshot holds the revision: for writers before they answer, and for plain threads.

        `deadline` is of `time.monotonic`, None for none; `caller` is counted against the cap unless empty.
        Raises `Conflict` REVISION_UNREACHABLE at once where the record has no such revision, `Exhausted`
        WAITERS_EXHAUSTED, `Unavailable` where the record is down, `DeadlineExceeded`.
        """
        if self.reached(revision):
            return
        waiter = self._enter(revision, caller)
        try:
            waiter.future.result(_left(deadline))
        except TimeoutError:
            raise _too_late() from None
        finally:
            self._waiters.remove(waiter)

    async def wait_for(self, revision: Revision, caller: str, deadline: float | None) -> None:
        """`reach` for coroutines; it returns without suspending where the snapshot is new enough already."""
        if self.reached(revision):
            return
        waiter = self._enter(revision, caller)
        try:
            await asyncio.wait_for(asyncio.wrap_future(waiter.future), _left(deadline))
        except TimeoutError:
            raise _too_late() from None
        finally:
            self._waiters.remove(waiter)

    def advance(self) -> None:
        """One turn: read the head once, apply what is new, tell the waiters. The thread calls it; so may a test.

        A record that is down leaves the snapshot and lets its age grow.
        """
        with self._turn:
            if not self._fault:
                self._advance()

    def _enter(self, revision: Revision, caller: str) -> Waiter:
        if self._fault:
            raise Unavailable("this replica follows the record no more")
        waiter = self._waiters.add(revision, caller)
        # The tail may have come there, or stopped, between the first look and the entry.
        if self.reached(revision) or self._fault:
            self._waiters.reached(self._current.revision.order)
        self._wake.set()
        return waiter

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
            self.advance()

    def _advance(self) -> None:
        asking = self._waiters.unjudged()
        asked_us = self._clock.now_us()
        try:
            head = self._record.head()
            self._waiters.judge(asking, head.revision.order)
            moved = head.digest != self._current.digest
            if moved:
                self._swap(self._followed(head))
        except Unavailable as error:
            if self._outage.goes_on(asked_us / 1_000_000):
                _log.warning("the record does not answer: %s", error.message)
            self._waiters.fail(error, asking)
            return
        except Exception as error:  # noqa: BLE001 - see the next line; it is logged with its trace
            # Whatever it is, the snapshot cannot follow: say so and stop, rather than serve an ever older state.
            self._fault = f"{type(error).__name__} while following the record"
            _log.exception("the tail stopped: this replica is not ready any more")
            self._waiters.fail(Unavailable("this replica follows the record no more"))
            return
        if self._outage.is_over():
            _log.warning("the record answers again")
        self._seen_us = asked_us
        self._waiters.reached(self._current.revision.order)
        self._sweep(asked_us)
        if moved:
            for callback in self._moved:
                callback()

    def _followed(self, head: Head) -> Snapshot:
        snapshot = self._current
        while snapshot.digest != head.digest:
            rows = self._record.changes_from(snapshot.revision.number, _PAGE)
            if not rows or rows[0].digest != snapshot.digest:
                return self._rebuilt(snapshot)
            for row in rows[1:]:
                if row.previous != snapshot.digest:
                    return self._rebuilt(snapshot)
                snapshot = changes.apply(snapshot, row, self._verify_keys)
                self.history.add(row)
                self._edits += len(row.edits)
            if len(rows) < _PAGE:
                break
        return snapshot

    def _rebuilt(self, lost: Snapshot) -> Snapshot:
        _log.error("the record lost revision %s: the snapshot is built anew", lost.revision)
        self._record.demand_epoch(lost.revision.epoch)
        built = self._built()
        self.history.restart(Position.of(built))
        return built

    def _built(self) -> Snapshot:
        snapshot = build(self._record.load(), self._verify_keys)
        self._tell_broken(snapshot.broken_kids)
        _freeze()
        return snapshot

    def _swap(self, snapshot: Snapshot) -> None:
        self._tell_broken(snapshot.broken_kids - self._current.broken_kids)
        self._current = snapshot
        if self._edits >= FREEZE_EVERY:
            self._edits = 0
            _freeze()

    def _sweep(self, now_us: int) -> None:
        if now_us - self._swept_us < SWEEP_MICROSECONDS:
            return
        self._swept_us = now_us
        swept = self._current.revocations.swept(self._clock.now())
        self._current = replace(self._current, revocations=swept)

    @staticmethod
    def _tell_broken(kids: frozenset[str]) -> None:
        for kid in sorted(kids):
            _log.critical(
                "the row of signing key %s was altered or removed outside this service: it is not published", kid
            )


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before this replica held the revision")


def _freeze() -> None:
    # A million bindings are a million objects that a full collection would visit for a second.
    gc.collect()
    gc.freeze()
