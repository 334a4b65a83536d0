"""The replicas of a record: who follows it, how far each has come, and who watches there.

Owns: the `Replicas` protocol and its value. May import: the standard library, `core`, `ports.record`.
`tests/conformance/replicas.py` certifies every adapter. Rows of replicas are no part of the state: they have no
revision, no audit event, and no writer waits for another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from authsvc.ports.record import Order


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as it last reported.

    `acknowledged` tells how many of its `watchers` hold exactly which revision, newest first; whoever acknowledged
    nothing stands nowhere in it. `age` is the seconds since the report, by the record's clock; 0 in a report.
    """

    replica_id: str
    revision: Order
    watchers: int = 0
    acknowledged: tuple[tuple[Order, int], ...] = ()
    age: float = 0.0

    def holding(self, order: Order) -> int:
        """How many watchers hold at least this revision."""
        return sum(count for held, count in self.acknowledged if held >= order)


class Replicas(Protocol):
    """The rows of replicas. Verbs block; a store that is down is `Unavailable`.

    Ages come from the record's clock alone, so that clocks of replicas may differ.
    """

    def report_replica(self, replica: Replica, *, forget_after: float) -> tuple[Replica, ...]:
        """Put this replica's row, seen now, and forget those not seen for so many seconds; all rows that are left.

        One transaction: what it answers holds what it wrote.
        """

    def replicas(self) -> tuple[Replica, ...]:
        """All rows, by id."""

    def withdraw_replica(self, replica_id: str) -> None:
        """The replica has ended; forgetting one that is not there does nothing."""
