"""The clock, as an argument.

Owns: what "now" is for everything outside the core, and the fake that tests and demonstrations turn by hand.
May import: the standard library only. The core never sees a clock, only the numbers it gives.
"""

from __future__ import annotations

import time
from typing import Protocol

MICROSECONDS = 1_000_000
"""Microseconds in a second."""


class Clock(Protocol):
    """Gives the time. Two readings, because expiry follows the wall and counting must not jump."""

    def now(self) -> int:
        """Wall clock in unix seconds; steps when the machine's clock is set."""

    def now_us(self) -> int:
        """Microseconds since the epoch that never go back."""


class SystemClock:
    """The machine's clock.

    `now_us` is the wall clock read once, moved on by the monotonic clock: a clock that is set while the
    process runs neither refills nor freezes a counter.
    """

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now(self) -> int:
        """Wall clock in unix seconds."""
        return time.time_ns() // 1_000_000_000

    def now_us(self) -> int:
        """Microseconds since the epoch as of the start of the process, moved on monotonically."""
        return (self._offset_ns + time.monotonic_ns()) // 1_000


class FakeClock:
    """A clock that stands still until it is told to move; shipped for tests."""

    def __init__(self, seconds: int = 1_800_000_000, *, us: int = 0) -> None:
        self._us = seconds * MICROSECONDS + us

    def now(self) -> int:
        """Unix seconds, rounded down."""
        return self._us // MICROSECONDS

    def now_us(self) -> int:
        """Microseconds since the epoch."""
        return self._us

    def advance(self, seconds: int = 0, *, us: int = 0) -> None:
        """Move on by `seconds` and `us` microseconds; a negative number sets the clock back."""
        self._us += seconds * MICROSECONDS + us
