"""One write: the head row locked first, then edits, then the change row and the audit event.

Owns: the order of effects of every write and the epoch. May import: SQLAlchemy, `core`, `ports`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from authsvc.core.audit import RECORD_CHAIN, AuditDraft
from authsvc.core.errors import Unavailable
from authsvc.core.values import Revision
from authsvc.ports.change_log import Change, Edit
from authsvc.ports.record import Check, Head, Order
from authsvc.storage.sql import change_forms, codec, dialects, rows
from authsvc.storage.sql.view import SqlView

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from authsvc.storage.sql.audit_rows import AuditRows

_QUEUE_SECONDS = 1.0
"""How long a writer waits for the writers of its own process, before the database's own lock is asked."""


class Writing:
    """An open write: its connection, the revision it will make, and the edits so far."""

    def __init__(self, connection: Connection, before: Head, epoch: int, draft: AuditDraft) -> None:
        self.connection = connection
        self.before = before
        self.draft = draft
        self.silent = False
        self._edits: list[Edit] = []
        self._known: set[str] = set()
        self._epoch = epoch

    @property
    def order(self) -> Order:
        """The revision that this write makes if it changes anything."""
        return (self._epoch, self.before.revision.number + 1)

    @property
    def changed(self) -> bool:
        """Whether there is anything to make a revision of."""
        return bool(self._edits)

    @property
    def revision(self) -> Revision:
        """The first revision that holds this write: a new one, or the one it found."""
        return Revision(self.before.revision.record, *self.order) if self.changed else self.before.revision

    def add(self, edits: Iterable[Edit]) -> None:
        """Write the rows of the edits and keep them for the change row."""
        for edit in edits:
            rows.write(self.connection, edit, self.order)
            self._edits.append(edit)

    def know(self, subjects: Iterable[str]) -> None:
        """The record comes to hold these subjects, so that each has a key of its own (STANDARDS U8)."""
        self._known.update(subjects)

    def note(self, detail: Mapping[str, str], subject: str = "") -> None:
        """Add to the detail of the audit event, and say whom it concerns where only the record knows."""
        detail = {**self.draft.detail, **detail}
        self.draft = replace(self.draft, detail=detail, subject=subject or self.draft.subject)

    def finish(self, audit: AuditRows) -> Head:
        """Append the audit event and the change row, and move the head."""
        if self.silent:
            return self.before
        end = audit.append(self.connection, RECORD_CHAIN, self.before.audit, [self.draft], self._known)
        after = replace(self.before, audit=end)
        if self.changed:
            body = change_forms.encode_edits(self._edits)
            digest = codec.change_digest(self.before.digest, *self.order, body)
            change = Change(*self.order, self.before.digest, digest, tuple(self._edits))
            rows.add_change(self.connection, change, body, end.sequence, self.draft.time)
            after = Head(self.revision, digest, end)
        rows.move_head(self.connection, after)
        if self.changed:
            dialects.wake(self.connection)
        return after


class Writer:
    """Opens writes, one at a time in this process, and remembers the newest head it has seen.

    A head below that one means that the database lost commits which tokens and callers may have seen: the next
    write raises the epoch, so that no two states ever share a revision (STATE.md).
    """

    def __init__(self, engine: Engine, audit: AuditRows) -> None:
        self._engine = engine
        self._audit = audit
        self._turn = threading.Lock()
        self._least_epoch = 1
        self._seen: Head | None = None

    @contextlib.contextmanager
    def write(self, draft: AuditDraft, check: Check) -> Iterator[Writing]:
        """A write of one audit event; the check runs after the body, before the commit."""
        with self.locked() as connection:
            before = rows.head(connection, lock=True)
            if self._lost_commits(before):
                self.demand_epoch(self._seen_epoch)
            write = Writing(connection, before, max(before.revision.epoch, self._least_epoch), draft)
            yield write
            check(SqlView(connection))
            after = write.finish(self._audit)
        self.saw(after)

    @contextlib.contextmanager
    def locked(self) -> Iterator[Connection]:
        """A write transaction without a revision; the head row is locked by whoever needs it."""
        if not self._turn.acquire(timeout=_QUEUE_SECONDS):
            raise Unavailable("the record is busy with other writes")
        try:
            with dialects.writing(self._engine) as connection:
                yield connection
        finally:
            self._turn.release()

    def demand_epoch(self, above: int) -> None:
        """The next write's epoch is above this one."""
        self._least_epoch = max(self._least_epoch, above + 1)

    def saw(self, head: Head) -> None:
        """Remember the newest head that anybody here has seen."""
        seen = self._seen
        if seen is None or seen.revision.order < head.revision.order:
            self._seen = head

    @property
    def _seen_epoch(self) -> int:
        return 0 if self._seen is None else self._seen.revision.epoch

    def _lost_commits(self, head: Head) -> bool:
        seen = self._seen
        if seen is None or head.revision.order > seen.revision.order:
            return False
        return head.revision.order < seen.revision.order or head.digest != seen.digest
