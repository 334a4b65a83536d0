"""A write as every administrative use case does it.

Owns: the way from a record verb to an answer: run it in a thread, then wait until this replica's own
snapshot holds it. May import: `core`, `state`, `ports`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from authsvc.core.audit import AuditDraft

if TYPE_CHECKING:
    from authsvc.core.values import Revision
    from authsvc.ports.record import Record
    from authsvc.state.tail import Tail


class Written(Protocol):
    """What every write verb answers at least."""

    @property
    def revision(self) -> Revision:
        """The first revision that holds the write."""


W = TypeVar("W", bound=Written)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Act:
    """Who does what, for the audit event of a write."""

    kind: str
    actor: str
    now: int
    subject: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)
    private: Mapping[str, str] = field(default_factory=dict)

    def draft(self) -> AuditDraft:
        """The audit event that commits with the write."""
        return AuditDraft(
            kind=self.kind,
            outcome="done",
            time=self.now,
            actor=self.actor,
            subject=self.subject,
            detail=self.detail,
            private=self.private,
        )


class Writer:
    """Runs record verbs off the loop, and answers only when the own snapshot holds the write."""

    def __init__(self, record: Record, tail: Callable[[], Tail], echo: Callable[[AuditDraft], None]) -> None:
        self.record = record
        self._tail = tail
        """Asked at each write: the first start writes before there is a state to follow."""
        self._echo = echo
        """Shows an event where operators look; the record keeps it in any case."""

    async def write(self, verb: Callable[[AuditDraft], W], act: Act, deadline: float) -> W:
        """Run a verb that writes, with its audit event; `deadline` on the monotonic clock bounds only the
        wait for the snapshot.

        The verb itself is never cut short: once begun its outcome is known, whoever still listens.
        """
        written = await asyncio.shield(asyncio.to_thread(self.write_now, verb, act))
        await self._tail().wait_for(written.revision, "", deadline)
        return written

    def write_now(self, verb: Callable[[AuditDraft], W], act: Act) -> W:
        """Run a verb that writes, in this thread; for the first start, when there is no snapshot to wait for."""
        draft = act.draft()
        written = verb(draft)
        self._echo(draft)
        return written

    async def read(self, verb: Callable[[], T]) -> T:
        """Run a verb that only reads."""
        return await asyncio.to_thread(verb)
