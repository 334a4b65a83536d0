"""Audit events that the record cannot take now are kept, and operators are told without being flooded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from authsvc.clock import FakeClock
from authsvc.core.audit import AuditDraft
from authsvc.core.errors import Unavailable
from authsvc.usecases.audit_log import AuditLog
from tests.support.record_values import NOW, draft
from tests.support.waiting import wait_for

TURNS = 3


class Disk:
    """Takes audit events unless it is full; the one verb of a record that the log uses."""

    def __init__(self) -> None:
        self.full = True
        self.refused = 0
        self.kinds: list[str] = []

    def append_audit(self, _chain: str, drafts: Sequence[AuditDraft]) -> None:
        """All or nothing."""
        if self.full:
            self.refused += 1
            raise Unavailable("the record's disk is full")
        self.kinds += [one.kind for one in drafts]


def _turns(disk: Disk) -> None:
    """Wait until the log has tried a few times more."""
    before = disk.refused
    wait_for(lambda: disk.refused >= before + TURNS, 30, "another try")


def test_a_full_disk_is_told_when_it_begins_once_a_minute_and_when_it_is_over() -> None:
    told: list[tuple[str, Mapping[str, object]]] = []
    disk: Any = Disk()
    clock = FakeClock(NOW)
    log = AuditLog(disk, "replica", clock, echo=None, tell=lambda kind, fields: told.append((kind, fields)))
    log.record(draft("first"))
    log.start()
    _turns(disk)
    begun = ("audit.delayed", {"waiting": 1, "text": "the record's disk is full"})
    assert told == [begun]
    log.record(draft("second"))
    clock.advance(59)
    _turns(disk)
    assert told == [begun]
    clock.advance(1)
    _turns(disk)
    assert told[1:] == [("audit.delayed", {"waiting": 2, "text": "the record's disk is full"})]
    disk.full = False
    wait_for(lambda: len(told) > 2, 30, "the end of it")
    log.stop()
    assert told[2:] == [("audit.resumed", {"waiting": 0})]
    assert disk.kinds == ["first", "second"]


def test_what_a_stop_leaves_behind_is_told() -> None:
    told: list[tuple[str, Mapping[str, object]]] = []
    disk: Any = Disk()
    log = AuditLog(disk, "replica", FakeClock(NOW), echo=None, tell=lambda kind, fields: told.append((kind, fields)))
    log.record(draft())
    log.start()
    log.stop()
    assert told[-1] == ("audit.lost", {"count": 1})
