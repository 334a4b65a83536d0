"""CEL's values that Python lacks. Owns: ranges and those types. May import: the standard library."""

from __future__ import annotations

from dataclasses import dataclass

INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
UINT_MAX = (1 << 64) - 1
NANOSECONDS = 1_000_000_000

TIMESTAMP_MIN = -62_135_596_800 * NANOSECONDS
TIMESTAMP_MAX = 253_402_300_800 * NANOSECONDS - 1


class Uint(int):
    """An unsigned integer of 64 bits: a number of its own type, as arithmetic sees it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, order=True)
class Timestamp:
    """Nanoseconds since 1970."""

    nanoseconds: int


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A length of time in nanoseconds; 64 bits."""

    nanoseconds: int


class EvaluationError(Exception):
    """A value that cannot be computed; `&&` and `||` may absorb it."""


class BudgetSpent(Exception):
    """The expression took more steps than it may."""


class Budget:
    """The steps that are left."""

    __slots__ = ("left",)
    left: int

    def take(self, steps: int) -> None:
        """Spend steps. Raises BudgetSpent."""
        self.left -= steps
        if self.left < 0:
            raise BudgetSpent
