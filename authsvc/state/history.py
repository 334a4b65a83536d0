"""What changed lately, for those who hold a state that is a little older.

Owns: the marks and key changes of the newest change rows. May import: the standard library, `core`, `ports`. The tail
adds to it, whoever serves watchers reads it in another thread.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from authsvc.ports.change_log import Change, KeyForgotten, KeyManifestPut, KeyPut, RevocationPut
from authsvc.ports.record import Order, RevocationMark

if TYPE_CHECKING:
    from authsvc.state.snapshot import Snapshot

MOST_CHANGES = 4_096
MOST_MARKS = 10_000
"""What is remembered at most; whoever holds less gets the whole state."""


class Position(NamedTuple):
    """A state by its revision's order and the digest of its change row: equal positions are the same state."""

    order: Order
    digest: bytes

    @classmethod
    def of(cls, snapshot: Snapshot) -> Position:
        """Which state a snapshot is."""
        return cls(snapshot.revision.order, snapshot.digest)


@dataclass(frozen=True, slots=True)
class Moves:
    """What lies between two states: what was revoked, in order, and whether a key changed."""

    marks: tuple[RevocationMark, ...]
    keys: bool


class _Step(NamedTuple):
    position: Position
    marks: tuple[RevocationMark, ...]
    keys: bool


class History:
    """The newest changes; thread-safe."""

    def __init__(self, start: Position) -> None:
        self._lock = threading.Lock()
        self._steps: deque[_Step] = deque()
        self._marks = 0
        self.restart(start)

    def restart(self, start: Position) -> None:
        """Forget everything: the state was built anew, and what led there is not known."""
        with self._lock:
            self._steps.clear()
            self._steps.append(_Step(start, (), keys=False))
            self._marks = 0

    def add(self, change: Change) -> None:
        """One more change, which follows the last one."""
        marks = tuple(edit.mark for edit in change.edits if isinstance(edit, RevocationPut))
        keys = any(isinstance(edit, KeyPut | KeyForgotten | KeyManifestPut) for edit in change.edits)
        with self._lock:
            self._steps.append(_Step(Position(change.order, change.digest), marks, keys))
            self._marks += len(marks)
            while len(self._steps) > 1 and (len(self._steps) > MOST_CHANGES or self._marks > MOST_MARKS):
                # The marks of the oldest step lie before its position: they are never asked for.
                self._marks -= len(self._steps[1].marks)
                self._steps.popleft()

    def between(self, known: Position, target: Position) -> Moves | None:
        """What happened after `known` up to `target`; None where either is not remembered, or `known` is the newer."""
        with self._lock:
            steps = tuple(self._steps)
        # From the newest backwards: nearly everybody holds one of the last few states.
        end = next((i for i in range(len(steps), 0, -1) if steps[i - 1].position == target), 0)
        start = next((i for i in range(end, 0, -1) if steps[i - 1].position == known), 0)
        if not start:
            return None
        passed = steps[start:end]
        return Moves(tuple(mark for step in passed for mark in step.marks), any(step.keys for step in passed))
