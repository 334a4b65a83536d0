"""The port of the counter store.

Owns: the `Counters` protocol. May import: `core`. `tests/conformance/counters.py` certifies every adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from authsvc.core.consumption import DecidedBy, Hit, LimitOutcome

__all__ = ["Counters", "DecidedBy", "Hit", "LimitOutcome"]


class Counters(Protocol):
    """Counts hits.

    One `consume` is atomic: whatever else runs at the same time, on whatever replica, either every hit of
    the call is taken or none, and no counter ever passes its limit (STANDARDS R4). Time is the store's own,
    in integer microseconds (R6). A call is never repeated by the adapter (R7).
    """

    async def consume(self, hits: Sequence[Hit], *, peek: bool = False) -> Sequence[LimitOutcome]:
        """Take the hits, all or nothing; with `peek` answer the same and take nothing.

        One outcome a hit, in order; the call passed where every outcome allows. Hits for one counter are
        summed first, and each of them shows the sum's outcome. 0 hits look. A limit that is reached is an
        answer; a store out of reach follows each rule's `on_failure`, and `decided_by` says so.
        """
