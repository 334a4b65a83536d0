"""The audit events that no write commits: decisions, denials, security events.

Owns: the queue between hot rows and the record, and its one writing thread. May import: `core`, `ports`.
Rows never wait for it. What the record cannot take now is kept and tried again; beyond `_MOST` queued
events the newest are dropped, counted, and the loss itself becomes an event: a gap is never silent. That the record
takes none is told when it begins, once a minute, and when it is over (`audit.delayed`, `audit.resumed`); what a stop
leaves behind is `audit.lost`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from authsvc.core.audit import AuditDraft
from authsvc.core.errors import AuthsvcError
from authsvc.core.outages import Outage

if TYPE_CHECKING:
    from authsvc.clock import Clock
    from authsvc.ports.record import Record

_MOST = 100_000
_BATCH = 500
_EVERY_S = 0.25

Tell = Callable[[str, Mapping[str, object]], None]
"""Shows operators an event, by kind and fields."""


class AuditLog:
    """Takes events from any thread, writes them in batches to this replica's own chain."""

    def __init__(
        self,
        record: Record,
        chain: str,
        clock: Clock,
        *,
        echo: Callable[[AuditDraft], None] | None,
        tell: Tell,
    ) -> None:
        self._record = record
        self._chain = chain
        self._clock = clock
        self._echo = echo
        self._tell = tell
        self._outage = Outage()
        self._queue: deque[AuditDraft] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def record(self, draft: AuditDraft) -> None:
        """Keep the event; neither blocks nor raises."""
        if len(self._queue) >= _MOST:
            self._dropped += 1
            return
        self._queue.append(draft)
        if len(self._queue) >= _BATCH:
            self._wake.set()

    def stop(self) -> None:
        """Write what is queued and end; what the record refuses now is told as lost."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(_EVERY_S)
            self._wake.clear()
            self._flush()
        self._flush()
        if self._queue:
            self._tell("audit.lost", {"count": len(self._queue)})

    def _flush(self) -> None:
        if self._dropped:
            lost, self._dropped = self._dropped, 0
            self._queue.append(AuditDraft(kind="audit.dropped", outcome="failed", time=self._clock.now(), count=lost))
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            try:
                self._record.append_audit(self._chain, batch)
            except AuthsvcError as error:
                self._queue.extendleft(reversed(batch))
                self._delayed(error)
                return
            self._resumed()
            if self._echo is not None:
                for draft in batch:
                    self._echo(draft)

    def _delayed(self, error: AuthsvcError) -> None:
        if self._outage.goes_on(self._clock.now()):
            self._tell("audit.delayed", {"waiting": len(self._queue), "text": error.message})

    def _resumed(self) -> None:
        if self._outage.is_over():
            self._tell("audit.resumed", {"waiting": len(self._queue)})
