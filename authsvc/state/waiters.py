"""Callers that wait for a revision.

Owns: the list of waiters, their cap, and how each ends (STANDARDS U13). May import: the standard library, `core`.
Whether a revision exists at all is told by one read of the record's head, shared by all who came before it.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from authsvc.core.errors import AuthsvcError, Conflict, Exhausted, Reason

if TYPE_CHECKING:
    from authsvc.core.values import Revision
    from authsvc.ports.record import Order


@dataclass(slots=True, eq=False)
class Waiter:
    """One who waits; `judged` once a read of the head has shown that the revision exists."""

    order: Order
    caller: str
    judged: bool = False
    future: Future[None] = field(default_factory=Future)


class Waiters:
    """All waiters of a replica; thread-safe."""

    def __init__(self, most_a_caller: int) -> None:
        self._most = most_a_caller
        self._lock = threading.Lock()
        self._waiting: set[Waiter] = set()
        self._callers: Counter[str] = Counter()

    def add(self, revision: Revision, caller: str) -> Waiter:
        """A new waiter; an empty caller is the service itself and has no cap. Raises `Exhausted`."""
        with self._lock:
            if caller and self._callers[caller] >= self._most:
                raise Exhausted(
                    "too many calls of this caller wait for a revision",
                    Reason.WAITERS_EXHAUSTED,
                    metadata={"most": str(self._most)},
                )
            waiter = Waiter(revision.order, caller)
            self._waiting.add(waiter)
            self._callers[caller] += 1
            return waiter

    def remove(self, waiter: Waiter) -> None:
        """Forget a waiter, however it ended."""
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._callers[waiter.caller] -= 1
                if not self._callers[waiter.caller]:
                    del self._callers[waiter.caller]

    def unjudged(self) -> tuple[Waiter, ...]:
        """Those who need a read of the head that starts from now on."""
        with self._lock:
            return tuple(waiter for waiter in self._waiting if not waiter.judged)

    def judge(self, waiters: tuple[Waiter, ...], newest: Order) -> None:
        """End those who wait for a revision that the record's head, read after they came, does not reach."""
        for waiter in waiters:
            waiter.judged = True
            if waiter.order > newest:
                self._end(waiter, unreachable())

    def reached(self, order: Order) -> None:
        """End, well, those whose revision is held."""
        for waiter in self._all():
            if waiter.order <= order:
                self._end(waiter, None)

    def fail(self, error: AuthsvcError, waiters: tuple[Waiter, ...] | None = None) -> None:
        """End these, by default all, with an error."""
        for waiter in self._all() if waiters is None else waiters:
            self._end(waiter, error)

    def _all(self) -> tuple[Waiter, ...]:
        with self._lock:
            return tuple(self._waiting)

    def _end(self, waiter: Waiter, error: AuthsvcError | None) -> None:
        self.remove(waiter)
        # A waiter that was cancelled, or ended by another thread a moment ago, is left as it is.
        if waiter.future.done() or not waiter.future.set_running_or_notify_cancel():
            return
        if error is None:
            waiter.future.set_result(None)
        else:
            waiter.future.set_exception(error)


def unreachable() -> Conflict:
    """The refusal of a revision that this record has not reached."""
    return Conflict("min_revision is newer than the record, or of another record", Reason.REVISION_UNREACHABLE)
