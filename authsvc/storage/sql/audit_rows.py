"""Audit events as rows.

Owns: the tables `audit_event` and `audit_chain`. May import: SQLAlchemy, `core`, `ports`. An event's identifiers are
sealed under the keys of `subject_keys` before anything is hashed or kept (STANDARDS U8).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from authsvc.core.audit import (
    AuditDraft,
    AuditEvent,
    ChainPoint,
    SealedIdentifier,
    canonical,
    event_hash,
)
from authsvc.storage.sql import tables
from authsvc.storage.sql.sealing import seal, unseal
from authsvc.storage.sql.subject_keys import Keyring, SubjectKeys

_IDENTIFIER = "identifier"
_PRIVATE = "private"
_ADD = insert(tables.audit_event)


class AuditRows:
    """Seals drafts into events and keeps them."""

    def __init__(self, keys: SubjectKeys) -> None:
        self._keys = keys

    def append(
        self,
        connection: Connection,
        chain: str,
        end: ChainPoint,
        drafts: Sequence[AuditDraft],
        known: Iterable[str] = (),
    ) -> ChainPoint:
        """Write the events that follow `end`; the new end. The caller holds the lock of the chain.

        `known` are subjects that the record comes to hold, each of which gets a key of its own first.
        """
        named = {name for draft in drafts for name in (draft.actor, draft.subject) if name}
        keyring = self._keys.keyring(connection, named, {draft.time for draft in drafts}, known)
        rows = []
        for draft in drafts:
            event = self._sealed(chain, end, draft, keyring)
            rows.append(_row_of(event))
            end = ChainPoint(event.sequence, event.hash)
        if rows:
            # A list of one would go by the slower way of many.
            connection.execute(_ADD, rows if len(rows) > 1 else rows[0])
        return end

    def move_end(self, connection: Connection, chain: str, drafts: Sequence[AuditDraft]) -> ChainPoint:
        """Append to a replica's own chain, whose end stands in `audit_chain`."""
        end = chain_end(connection, chain, lock=True)
        table = tables.audit_chain
        if end is None:
            end = ChainPoint()
            connection.execute(insert(table).values(chain=chain, sequence=end.sequence, hash=end.hash))
        end = self.append(connection, chain, end, drafts)
        connection.execute(update(table).where(table.c.chain == chain).values(sequence=end.sequence, hash=end.hash))
        return end

    def open_identifier(self, connection: Connection, sealed: SealedIdentifier) -> str | None:
        """The identifier in plain; None once its key was destroyed."""
        key = self._keys.key(connection, sealed.key_id)
        return None if key is None else unseal(key, sealed.ciphertext, _IDENTIFIER, sealed.keyed_hash.hex()).decode()

    def _sealed(self, chain: str, end: ChainPoint, draft: AuditDraft, keyring: Keyring) -> AuditEvent:
        private = b""
        if draft.private:
            _, key = keyring.key_of(draft.actor, draft.time)
            private = seal(key, canonical(draft.private).encode(), _PRIVATE, self._keys.hash(draft.actor).hex())
        event = AuditEvent(
            chain=chain,
            sequence=end.sequence + 1,
            time=draft.time,
            kind=draft.kind,
            outcome=draft.outcome,
            reason=draft.reason,
            count=draft.count,
            actor=self._identifier(draft.actor, draft.time, keyring),
            subject=self._identifier(draft.subject, draft.time, keyring),
            private=private,
            detail=canonical(draft.detail),
            previous=end.hash,
        )
        return replace(event, hash=event_hash(event))

    def _identifier(self, text: str, time: int, keyring: Keyring) -> SealedIdentifier | None:
        if not text:
            return None
        key_id, key = keyring.key_of(text, time)
        keyed_hash = self._keys.hash(text)
        return SealedIdentifier(key_id, keyed_hash, seal(key, text.encode(), _IDENTIFIER, keyed_hash.hex()))


def chain_end(connection: Connection, chain: str, *, lock: bool = False) -> ChainPoint | None:
    """How far a replica's chain reaches; with `lock` nobody else moves it before this transaction ends."""
    table = tables.audit_chain
    query = select(table).where(table.c.chain == chain)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else ChainPoint(row.sequence, row.hash)


def events(connection: Connection, chain: str, after: int, limit: int) -> tuple[AuditEvent, ...]:
    """The events of a chain above a sequence, in order."""
    table = tables.audit_event
    rows = connection.execute(
        select(table).where(table.c.chain == chain, table.c.sequence > after).order_by(table.c.sequence).limit(limit)
    )
    return tuple(_event_of(row) for row in rows)


def _row_of(event: AuditEvent) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: getattr(event, name)
        for name in (
            "chain",
            "sequence",
            "time",
            "kind",
            "outcome",
            "reason",
            "count",
            "private",
            "detail",
            "previous",
            "hash",
        )
    }
    for name, sealed in (("actor", event.actor), ("subject", event.subject)):
        row[f"{name}_key"] = sealed and sealed.key_id
        row[f"{name}_hash"] = sealed and sealed.keyed_hash
        row[name] = sealed and sealed.ciphertext
    return row


def _event_of(row: Row[Any]) -> AuditEvent:
    return AuditEvent(
        chain=row.chain,
        sequence=row.sequence,
        time=row.time,
        kind=row.kind,
        outcome=row.outcome,
        reason=row.reason,
        count=row._mapping["count"],  # noqa: SLF001 - public SQLAlchemy API; `row.count` is tuple.count
        actor=_identifier_of(row.actor_key, row.actor_hash, row.actor),
        subject=_identifier_of(row.subject_key, row.subject_hash, row.subject),
        private=row.private,
        detail=row.detail,
        previous=row.previous,
        hash=row.hash,
    )


def _identifier_of(key_id: bytes | None, keyed_hash: bytes | None, ciphertext: bytes | None) -> SealedIdentifier | None:
    if key_id is None or keyed_hash is None or ciphertext is None:
        return None
    return SealedIdentifier(key_id, keyed_hash, ciphertext)
