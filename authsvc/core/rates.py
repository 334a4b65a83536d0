"""The arithmetic of rates: GCRA and fixed windows, in integers.

Owns: how a rate is written, what a counter remembers, and whether hits pass. May import: the standard
library and `core.errors`. Times are microseconds, states are values: nothing here waits, stores or rounds
through a float (STANDARDS R6, R8).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple, Protocol

from authsvc.core.errors import InvalidRequest

MAX_UNITS = 2**52
"""The most a counter may hold: one bit below what a counter store's doubles keep exactly."""

_UNITS = {"us": 1, "ms": 10**3, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
_RATE = re.compile(r"([0-9]{1,16})/([0-9]{1,16})(us|ms|s|m|h|d)\Z")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many hits in so many microseconds."""

    count: int
    window_us: int


def parse_rate(text: str, field: str) -> Rate:
    """Read `count/window`, for example `100/15m`: whole numbers, unit us, ms, s, m, h or d."""
    match = _RATE.match(text)
    if match is None:
        raise InvalidRequest.of(
            field, "is not count/window: whole numbers and a unit of us, ms, s, m, h, d, as in 100/15m"
        )
    count, window_us = int(match[1]), int(match[2]) * _UNITS[match[3]]
    if count == 0 or window_us == 0:
        raise InvalidRequest.of(field, "needs a count and a window of at least 1")
    if count > MAX_UNITS or window_us > MAX_UNITS:
        raise InvalidRequest.of(field, "has a count or a window (in microseconds) above 2^52")
    return Rate(count, window_us)


class CounterState(NamedTuple):
    """What one counter remembers; a counter at rest needs none.

    `owed` is what was taken and not yet given back, `units_a_hit` of it a hit, as of `at_us`: the last hit
    of a GCRA counter, the start of a fixed window. The scale is kept beside the number, so that a rule whose
    count changes goes on from the hits it had (STANDARDS R14).
    """

    owed: int
    units_a_hit: int
    at_us: int


class Verdict(NamedTuple):
    """Whether hits pass, and the counter as it is if they are then taken (unchanged if they do not pass).

    `remaining` hits would pass after that, at once. The counter is at rest `reset_after_us` later if nothing
    more comes. `retry_after_us` is when these very hits would pass; None where they pass, and where they
    never will because they are more than the burst.
    """

    allowed: bool
    remaining: int
    reset_after_us: int
    retry_after_us: int | None
    state: CounterState


class Meter(Protocol):
    """An algorithm with its numbers: a pure function from a state to a verdict."""

    @property
    def limit(self) -> int:
        """The most hits that pass at once from rest."""

    @property
    def exact(self) -> bool:
        """Whether every state stays within `MAX_UNITS`; a rule beyond is refused at load (R8)."""

    def decide(self, state: CounterState | None, now_us: int, hits: int) -> Verdict:
        """Whether `hits` pass at `now_us`; 0 always pass and only look, fewer always pass and give back.

        `state` None is a counter at rest, beyond which nothing is given back. A clock that went back counts as one
        that stands still.
        """


@dataclass(frozen=True, slots=True)
class Gcra:
    """The generic cell rate algorithm: a debt of at most `limit` hits, repaid evenly.

    One hit is worth window/count microseconds, which seldom is a whole number. The fraction is reduced, a
    hit owes its numerator and a microsecond repays its denominator, so that no rate is rounded.
    """

    units_a_hit: int
    units_a_us: int
    limit: int

    @classmethod
    def of(cls, rate: Rate, burst: int) -> Gcra:
        """`burst` hits at once from rest, `rate` in the long run."""
        common = gcd(rate.window_us, rate.count)
        return cls(rate.window_us // common, rate.count // common, burst)

    @property
    def exact(self) -> bool:
        """Whether burst x numerator stays within `MAX_UNITS`."""
        return self.limit * self.units_a_hit <= MAX_UNITS

    def decide(self, state: CounterState | None, now_us: int, hits: int) -> Verdict:
        """See `Meter.decide`. Over any time t at most `limit` + rate x t hits pass."""
        units_a_hit, units_a_us = self.units_a_hit, self.units_a_us
        debt, at_us = (0, now_us) if state is None else self._debt(state, now_us)
        room = self.limit * units_a_hit - debt
        need = hits * units_a_hit
        allowed = hits <= 0 or need <= room
        retry_after_us = None
        if allowed:
            need = max(need, -debt)
            debt += need
            room -= need
        elif hits <= self.limit:
            retry_after_us = at_us - now_us - (room - need) // units_a_us
        return Verdict(
            allowed,
            room // units_a_hit if room > 0 else 0,
            at_us - now_us - (-debt // units_a_us) if debt else 0,
            retry_after_us,
            CounterState(debt, units_a_hit, at_us),
        )

    def _debt(self, state: CounterState, now_us: int) -> tuple[int, int]:
        """What is still owed, and the moment at which that holds."""
        owed, units_a_hit, at_us = state
        if units_a_hit != self.units_a_hit:
            owed = min(MAX_UNITS, -(-owed * self.units_a_hit // units_a_hit))
        if now_us <= at_us:
            return owed, at_us
        return max(0, owed - (now_us - at_us) * self.units_a_us), now_us


@dataclass(frozen=True, slots=True)
class FixedWindow:
    """At most `limit` hits in each window; windows are aligned to the unix epoch (UTC).

    All counters of a rule start their windows together: `1d` is a UTC day, `15m` starts at :00, :15, :30,
    :45. Around a boundary up to twice the limit may pass within one window's length; gcra does not do that.
    """

    window_us: int
    limit: int

    @property
    def exact(self) -> bool:
        """Whether the count stays within `MAX_UNITS`."""
        return self.limit <= MAX_UNITS

    def decide(self, state: CounterState | None, now_us: int, hits: int) -> Verdict:
        """See `Meter.decide`. No window's count ever exceeds `limit`."""
        start_us = now_us - now_us % self.window_us
        count = 0
        if state is not None and state.at_us >= start_us:
            start_us, count = state.at_us, state.owed
        end_us = start_us + self.window_us
        allowed = hits <= 0 or count + hits <= self.limit
        retry_after_us = None
        if allowed:
            count = max(0, count + hits)
        elif hits <= self.limit:
            retry_after_us = end_us - now_us
        return Verdict(
            allowed,
            max(0, self.limit - count),
            end_us - now_us if count else 0,
            retry_after_us,
            CounterState(count, 1, start_us),
        )
