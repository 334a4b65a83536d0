"""`min_revision`: answer from a state at least this new (STANDARDS U13).

Owns: the reading of `min_revision`, the cap on waiters and the wait. May import: `core`, `state`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from authsvc.core.errors import Conflict, DeadlineExceeded, Exhausted, Reason
from authsvc.core.values import Revision

if TYPE_CHECKING:
    from authsvc.state.snapshot import Snapshot

WAITERS_A_CALLER = 8
WAITERS_IN_ALL = 64


class State(Protocol):
    """What the engine needs of the state that this replica holds."""

    @property
    def current(self) -> Snapshot:
        """The snapshot in force; raises Unavailable where it is too old to trust (STANDARDS U6)."""

    def newest(self) -> Revision:
        """The record's head, by one read that all waiters share."""

    def wait_for(self, revision: Revision, deadline: float) -> bool:
        """Block until the snapshot holds `revision`; False where `deadline` (monotonic seconds) came first."""


class MinRevision:
    """Takes the snapshot of a call."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._waiters: Counter[str] = Counter()

    def snapshot(
        self,
        wanted: str,
        caller: str,
        deadline: float,
        blocking: Callable[[], AbstractContextManager[None]],
    ) -> Snapshot:
        """A snapshot that holds `wanted`; `caller` is whom a wait counts for.

        Raises InvalidRequest for a text that is no revision; Conflict REVISION_UNREACHABLE at once for another
        record's or one above the newest; Exhausted WAITERS_EXHAUSTED; DeadlineExceeded. `blocking` surrounds the
        wait, so that the transport can put another thread to work meanwhile.
        """
        revision = Revision.parse(wanted)
        snapshot = self._state.current
        if revision.record == snapshot.revision.record and revision.order <= snapshot.revision.order:
            return snapshot
        if revision.record != snapshot.revision.record:
            raise _unreachable("`min_revision` is of another record")
        self._enter(caller)
        try:
            with blocking():
                newest = self._state.newest()
                if newest.record != revision.record or newest.order < revision.order:
                    raise _unreachable("`min_revision` is above the newest revision")
                if not self._state.wait_for(revision, deadline):
                    raise DeadlineExceeded("the deadline passed before the state was as new as `min_revision`")
        finally:
            self._leave(caller)
        return self._state.current

    def _enter(self, caller: str) -> None:
        with self._lock:
            if self._waiters[caller] >= WAITERS_A_CALLER or self._waiters.total() >= WAITERS_IN_ALL:
                raise Exhausted(
                    "too many calls wait for a revision", Reason.WAITERS_EXHAUSTED, retry_after=1.0
                )
            self._waiters[caller] += 1

    def _leave(self, caller: str) -> None:
        with self._lock:
            self._waiters[caller] -= 1
            if not self._waiters[caller]:
                del self._waiters[caller]


def _unreachable(message: str) -> Conflict:
    return Conflict(message, Reason.REVISION_UNREACHABLE)
