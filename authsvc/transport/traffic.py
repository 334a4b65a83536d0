"""Calls in flight, and when they have ceased.

Owns: `Traffic`. May import: the standard library.
"""

from __future__ import annotations

import threading
import time


class Traffic:
    """Counts unary calls; once it refuses, waits until none is left and none came for a while."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._in_flight = 0
        self._last_arrival = time.monotonic()
        self._refusing = False

    @property
    def refusing(self) -> bool:
        """Whether new calls are to be refused."""
        return self._refusing

    def enter(self) -> bool:
        """A call came; False where it is to be refused. Pair with `leave`."""
        with self._changed:
            if self._refusing:
                self._last_arrival = time.monotonic()
                return False
            self._in_flight += 1
            return True

    def leave(self, *, counted: bool) -> None:
        """A call is over; `counted` is what `enter` said."""
        if not counted:
            return
        with self._changed:
            self._in_flight -= 1
            if self._refusing:
                self._changed.notify_all()

    def refuse(self) -> None:
        """From now on new calls are refused; those counted already finish."""
        with self._changed:
            self._refusing = True
            self._last_arrival = time.monotonic()

    def wait_quiet(self, quiet: float, deadline: float) -> bool:
        """Block until no call is in flight and none came for `quiet` seconds; False at `deadline` (monotonic)."""
        with self._changed:
            while True:
                now = time.monotonic()
                rest = 0.0 if self._in_flight else self._last_arrival + quiet - now
                if not self._in_flight and rest <= 0:
                    return True
                if now >= deadline:
                    return False
                self._changed.wait(min(deadline - now, rest or deadline - now))
