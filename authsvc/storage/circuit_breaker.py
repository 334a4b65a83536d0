"""When to stop asking a store that does not answer, and when to try it again.

Owns: `CircuitBreaker`. May import: the standard library. Times are seconds of a monotonic clock, given by the caller.
"""

from __future__ import annotations

FAILURES = 5
"""So many in a row open the circuit."""
REST_S = 0.25
"""An open circuit lets one call through each time so much has passed."""


class CircuitBreaker:
    """Closed while calls succeed. Open, it refuses all but one trial a rest; a trial that succeeds closes it."""

    def __init__(self, failures: int = FAILURES, rest_s: float = REST_S) -> None:
        self._most = failures
        self._rest_s = rest_s
        self._failures = 0
        self._try_at = 0.0
        self.is_open = False
        """Whether calls are refused."""

    def admits(self, now: float) -> bool:
        """Whether a call may go out; of an open circuit this is the trial."""
        if not self.is_open:
            return True
        if now < self._try_at:
            return False
        # The next trial does not wait for this one's end, which its caller may never hear of.
        self._try_at = now + self._rest_s
        return True

    def succeeded(self) -> None:
        """A call was answered."""
        self._failures = 0
        self.is_open = False

    def failed(self, now: float) -> None:
        """A call was not answered, or by an error."""
        self._failures += 1
        if self._failures == self._most:
            self.is_open = True
            self._try_at = now + self._rest_s
