"""When an outage is told.

Owns: `Outage`. May import: the standard library's pure part. A loop that meets the same fault ten times a second must
not write it down as often; nor may its end go unsaid.
"""

from __future__ import annotations

TELL_EVERY = 60
"""Seconds between two tellings of one outage."""


class Outage:
    """Remembers when an outage was told last. The clock is an argument, in seconds."""

    def __init__(self) -> None:
        self._told: float | None = None

    def goes_on(self, now: float) -> bool:
        """It is there; whether that is to be told now: when it begins, then once in `TELL_EVERY` seconds."""
        if self._told is not None and now - self._told < TELL_EVERY:
            return False
        self._told = now
        return True

    def is_over(self) -> bool:
        """It is not there; whether that is news, because it was told."""
        ended, self._told = self._told is not None, None
        return ended
