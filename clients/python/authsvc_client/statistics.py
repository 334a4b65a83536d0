"""What a client counted since it was made.

Owns: the public numbers and how they are counted. May import: the standard library. All of them are rare events, so
a lock costs nothing; calls that went well are not counted.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from enum import Enum

from authsvc_client import forks


@dataclass(frozen=True, slots=True)
class Statistics:
    """Numbers of this process since the client was made.

    `retries`: calls sent again, because a replica was lost or could not answer. `drained`: calls sent again, because a
    replica that stops took no more. `unanswered`: operations that ended without the service, so that `on_unavailable`
    decided. `watches`: streams opened to follow revocations. `asked`: tokens that the service was asked about, because
    nothing fresh was known here. What gRPC repeats by itself never left this process or was never begun; that counts
    nowhere.
    """

    retries: int
    drained: int
    unanswered: int
    watches: int = 0
    asked: int = 0


class Event(Enum):
    """What is counted, by the name of its number."""

    RETRY = "retries"
    DRAINED = "drained"
    UNANSWERED = "unanswered"
    WATCH = "watches"
    ASKED = "asked"


class Tally:
    """Counts events; safe in threads and forks."""

    def __init__(self) -> None:
        self.renew_after_fork()
        forks.watch(self)

    def renew_after_fork(self) -> None:
        """A child begins at zero."""
        self._lock = threading.Lock()
        self._counts: Counter[Event] = Counter()

    def add(self, event: Event) -> None:
        """Count one."""
        with self._lock:
            self._counts[event] += 1

    def statistics(self) -> Statistics:
        """The numbers so far."""
        with self._lock:
            counts = self._counts.copy()
        return Statistics(**{event.value: counts[event] for event in Event})
