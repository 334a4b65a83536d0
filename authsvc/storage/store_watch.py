"""Whether the counter store counts, for people and their monitoring.

Owns: what is told when a store goes and when it comes back, and how often it failed. May import: the standard library.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

Tell = Callable[[str, Mapping[str, object]], None]
"""Writes one event: its kind and fields."""

STEADY_S: Final = 1.0
"""A store that answers again without a fault for so long is back: one that is full fails some calls and not others."""

FAULTS: Final = ("timed_out", "connection_lost", "error", "not_connected", "circuit_open")
"""Why calls failed. The first two may have been counted, the last two were not sent."""


class StoreWatch:
    """Tells once that the store is lost, and once that it is back. Times are seconds of a monotonic clock."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._faults: Counter[str] = Counter()
        self._lost_at: float | None = None
        self._fault_at = 0.0

    @property
    def is_lost(self) -> bool:
        """Whether it was told to be lost, and not yet to be back."""
        return self._lost_at is not None

    def faults(self) -> Mapping[str, int]:
        """How many calls failed, by `FAULTS`."""
        return {kind: self._faults[kind] for kind in FAULTS}

    def count(self, code: str) -> None:
        """A call was not asked. `code` is as in `StoreFault`."""
        kind = code.lower()
        self._faults[kind if kind in FAULTS else "error"] += 1

    def failed(self, code: str, now: float) -> None:
        """A call was not answered, or by an error."""
        self.count(code)
        self._fault_at = now

    def lost(self, why: str, now: float) -> None:
        """It does not count."""
        self._fault_at = now
        if self._lost_at is None:
            self._lost_at = now
            self._tell("counters.store_lost", {"text": why})

    def answered(self, now: float) -> None:
        """It counts, as far as one call can show."""
        if now - self._fault_at >= STEADY_S:
            self.back(now)

    def back(self, now: float) -> None:
        """It counts."""
        if self._lost_at is not None:
            self._tell("counters.store_back", {"seconds": round(now - self._lost_at, 3)})
            self._lost_at = None

    def evicts(self, policy: str) -> None:
        """It drops counters before they are at rest."""
        self._tell("counters.store_evicts", {"text": f"maxmemory-policy is {policy}: counters will be lost"})
