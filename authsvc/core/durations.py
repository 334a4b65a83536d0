"""Durations as people write them.

Owns: the text form of a duration (`15m`); rates are in `core.rates`. May import: the standard library.
"""

from __future__ import annotations

import re

UNITS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DURATION = re.compile(r"(?:0|[1-9][0-9]{0,11})(us|ms|s|m|h|d)\Z")


def parse_duration(text: str) -> int:
    """A duration such as `15m` in microseconds; raises ValueError that says what is taken."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"`{text}` is not a duration such as 250ms, 30s, 15m, 12h or 7d")
    return int(text[: -len(match[1])]) * UNITS_US[match[1]]


def format_duration(microseconds: int) -> str:
    """The shortest exact text of a duration."""
    for unit in ("d", "h", "m", "s", "ms"):
        if microseconds and microseconds % UNITS_US[unit] == 0:
            return f"{microseconds // UNITS_US[unit]}{unit}"
    return f"{microseconds}us" if microseconds else "0s"
