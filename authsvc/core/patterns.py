"""Patterns of permissions and of resources.

Owns: what `*` and `**` mean (docs/semantics.md). May import: the standard library. Matching takes time linear in
the text, whatever the pattern: patterns come from tenants, texts from strangers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

Matcher = Callable[[str], bool]

MANY = "**"

_STARS = re.compile(r"(\*+)")


def permission_matches(pattern: str, permission: str) -> bool:
    """Whether a permission falls under a pattern: `*` is one whole segment, a last `**` one or more.

    Both texts are well formed (`values.permission_pattern`, `values.permission`).
    """
    wanted = pattern.split(":")
    given = permission.split(":")
    if wanted[-1] == MANY:
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


def is_pattern(text: str) -> bool:
    """Whether a binding's resource holds a wildcard; without one it is compared exactly."""
    return "*" in text


def resource_pattern_fault(pattern: str) -> str | None:
    """What is wrong with a resource pattern's stars, or None."""
    return "holds more than two stars in a row" if "***" in pattern else None


@lru_cache(maxsize=16_384)
def resource_matcher(pattern: str) -> Matcher:
    """The compiled form of a resource pattern: `*` stays within a segment between slashes, `**` crosses them.

    The cache holds results of a pure function, so that bindings can keep the short text only.
    """
    parts = _STARS.split(pattern)
    literals, stars = parts[::2], parts[1::2]
    if not stars:
        return pattern.__eq__
    if stars == [MANY] and not literals[1]:
        return _prefix(literals[0])
    if MANY not in stars:
        return _within_segments(pattern)
    return _Automaton(literals, stars).matches


def _prefix(head: str) -> Matcher:
    def matches(text: str) -> bool:
        return text.startswith(head)

    return matches


def _within_segments(pattern: str) -> Matcher:
    """Without `**` each segment is matched alone; atomic groups keep a failing match from backtracking.

    Of the runs between two stars the leftmost find is as good as any later one, so it is final; the run after a
    segment's last star is fixed by the segment's end.
    """
    segments = []
    for segment in pattern.split("/"):
        first, *rest = (re.escape(run) for run in segment.split("*"))
        middle = "".join(f"(?>[^/]*?{run})" for run in rest[:-1])
        last = f"[^/]*{rest[-1]}" if rest else ""
        segments.append(f"{first}{middle}{last}")
    fullmatch = re.compile("/".join(segments)).fullmatch

    def matches(text: str) -> bool:
        return fullmatch(text) is not None

    return matches


class _Automaton:
    """The general form: every place of the pattern is a bit, and all places are walked at once."""

    __slots__ = ("_accept", "_cross", "_literal", "_start", "_stay")

    def __init__(self, literals: list[str], stars: list[str]) -> None:
        self._literal: dict[str, int] = {}
        self._stay = self._cross = 0
        bit = 1
        for index, literal in enumerate(literals):
            for char in literal:
                self._literal[char] = self._literal.get(char, 0) | bit
                bit <<= 1
            if index < len(stars):
                self._stay |= bit
                self._cross |= bit if stars[index] == MANY else 0
                bit <<= 1
        self._accept = bit
        self._start = self._skip(1)

    def _skip(self, places: int) -> int:
        """A star may be empty; no two stars are neighbours, so one step is enough."""
        return places | (places & self._stay) << 1

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        places, literal = self._start, self._literal
        for char in text:
            moved = (places & literal.get(char, 0)) << 1
            places = self._skip(moved | places & (self._cross if char == "/" else self._stay))
            if not places:
                return False
        return places & self._accept != 0
