"""Audit events as rows, and the keys that seal their identifiers.

Owns: the tables `audit_event`, `audit_chain` and `subject_key` (STANDARDS U8). May import: SQLAlchemy, `core`,
`ports`. A subject that the record holds (a client, a binding's subject) has a key of its own; all others share
the key of the event's day, so that strangers cannot fill the record with keys.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from authsvc.core import envelopes
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

HASH_SECRET = "audit.identifiers"  # noqa: S105 - the name of a wrapped secret
_PURPOSE = "subject-key"
_IDENTIFIER = "identifier"
_PRIVATE = "private"
_SLICE = 500
"""How many keys one statement asks for; SQLite allows 32,766 parameters, PostgreSQL 65,535."""


class AuditRows:
    """Seals drafts into events and keeps them. `hash_key` is the wrapped secret `HASH_SECRET`."""

    def __init__(self, kek: envelopes.Kek, hash_key: bytes) -> None:
        self._kek = kek
        self._hash_key = hash_key

    def know(self, connection: Connection, subjects: Iterable[str]) -> None:
        """Give each subject a key of its own unless it has one; for when the record comes to hold it."""
        table = tables.subject_key
        wanted = list({self._hash(subject) for subject in subjects})
        for first in range(0, len(wanted), _SLICE):
            some = wanted[first : first + _SLICE]
            there = set(connection.scalars(select(table.c.key_id).where(table.c.key_id.in_(some))))
            new = [{"key_id": k, "envelope": self._new_envelope(k)} for k in some if k not in there]
            if new:
                connection.execute(insert(table), new)

    def append(self, connection: Connection, chain: str, end: ChainPoint, drafts: Sequence[AuditDraft]) -> ChainPoint:
        """Write the events that follow `end`; the new end. The caller holds the lock of the chain."""
        keys: dict[bytes, tuple[bytes, envelopes.Kek]] = {}
        rows = []
        for draft in drafts:
            event = self._sealed(connection, chain, end, draft, keys)
            rows.append(_row_of(event))
            end = ChainPoint(event.sequence, event.hash)
        if rows:
            connection.execute(insert(tables.audit_event), rows)
        return end

    def move_end(self, connection: Connection, chain: str, drafts: Sequence[AuditDraft]) -> ChainPoint:
        """Append to a replica's own chain, whose end stands in `audit_chain`."""
        end = chain_end(connection, chain)
        table = tables.audit_chain
        if end is None:
            end = ChainPoint()
            connection.execute(insert(table).values(chain=chain, sequence=end.sequence, hash=end.hash))
        end = self.append(connection, chain, end, drafts)
        connection.execute(update(table).where(table.c.chain == chain).values(sequence=end.sequence, hash=end.hash))
        return end

    def open_identifier(self, connection: Connection, sealed: SealedIdentifier) -> str | None:
        """The identifier in plain; None once its key was destroyed."""
        key = self._key(connection, sealed.key_id)
        return None if key is None else unseal(key, sealed.ciphertext, _IDENTIFIER, sealed.keyed_hash.hex()).decode()

    def _sealed(
        self,
        connection: Connection,
        chain: str,
        end: ChainPoint,
        draft: AuditDraft,
        keys: dict[bytes, tuple[bytes, envelopes.Kek]],
    ) -> AuditEvent:
        private = b""
        if draft.private:
            _, key = self._key_of(connection, draft.actor, draft.time, keys)
            private = seal(key, canonical(draft.private).encode(), _PRIVATE, self._hash(draft.actor).hex())
        event = AuditEvent(
            chain=chain,
            sequence=end.sequence + 1,
            time=draft.time,
            kind=draft.kind,
            outcome=draft.outcome,
            reason=draft.reason,
            count=draft.count,
            actor=self._identifier(connection, draft.actor, draft.time, keys),
            subject=self._identifier(connection, draft.subject, draft.time, keys),
            private=private,
            detail=canonical(draft.detail),
            previous=end.hash,
        )
        return replace(event, hash=event_hash(event))

    def _identifier(
        self, connection: Connection, text: str, time: int, keys: dict[bytes, tuple[bytes, envelopes.Kek]]
    ) -> SealedIdentifier | None:
        if not text:
            return None
        key_id, key = self._key_of(connection, text, time, keys)
        keyed_hash = self._hash(text)
        return SealedIdentifier(key_id, keyed_hash, seal(key, text.encode(), _IDENTIFIER, keyed_hash.hex()))

    def _key_of(
        self, connection: Connection, text: str, time: int, keys: dict[bytes, tuple[bytes, envelopes.Kek]]
    ) -> tuple[bytes, envelopes.Kek]:
        own = self._hash(text)
        if own not in keys:
            key = self._key(connection, own)
            keys[own] = self._day_key(connection, time) if key is None else (own, key)
        return keys[own]

    def _day_key(self, connection: Connection, time: int) -> tuple[bytes, envelopes.Kek]:
        key_id = self._hash(f"day {datetime.fromtimestamp(time, UTC).date()}")
        key = self._key(connection, key_id)
        if key is not None:
            return (key_id, key)
        envelope = self._new_envelope(key_id)
        connection.execute(insert(tables.subject_key).values(key_id=key_id, envelope=envelope))
        return (key_id, self._unwrapped(envelope, key_id))

    def _key(self, connection: Connection, key_id: bytes) -> envelopes.Kek | None:
        table = tables.subject_key
        envelope = connection.scalar(select(table.c.envelope).where(table.c.key_id == key_id))
        return None if envelope is None else self._unwrapped(envelope, key_id)

    def _new_envelope(self, key_id: bytes) -> bytes:
        return seal(self._kek, os.urandom(32), _PURPOSE, key_id.hex())

    def _unwrapped(self, envelope: bytes, key_id: bytes) -> envelopes.Kek:
        return envelopes.Kek(unseal(self._kek, envelope, _PURPOSE, key_id.hex()))

    def _hash(self, text: str) -> bytes:
        return hmac.digest(self._hash_key, text.encode(), hashlib.sha256)


def chain_end(connection: Connection, chain: str) -> ChainPoint | None:
    """How far a replica's chain reaches; locked where the database locks rows."""
    table = tables.audit_chain
    row = connection.execute(select(table).where(table.c.chain == chain).with_for_update()).one_or_none()
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
