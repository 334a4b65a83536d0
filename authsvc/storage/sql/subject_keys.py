"""The keys that identifiers in audit events are sealed under, one a subject.

Owns: the table `subject_key` (STANDARDS U8). May import: SQLAlchemy, `core`. A subject that the record holds (a
client, a binding's subject) has a key of its own; all others share the key of the event's day, so that strangers
cannot fill the record with keys. Destroying a row erases its subject from every event.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select

from authsvc.core import envelopes
from authsvc.storage.sql import tables
from authsvc.storage.sql.dialects import insert_absent
from authsvc.storage.sql.sealing import seal, unseal

HASH_SECRET = "audit.identifiers"  # noqa: S105 -- the name of a wrapped secret
"""The secret behind the keyed hashes that name keys and find equal identifiers."""

_PURPOSE = "subject-key"
_SLICE = 500
"""How many keys one statement asks for."""

_table = tables.subject_key


class SubjectKeys:
    """Finds and makes keys; `hash_key` is the secret `HASH_SECRET`."""

    def __init__(self, kek: envelopes.Kek, hash_key: bytes) -> None:
        self._kek = kek
        self._hash_key = hash_key

    def hash(self, text: str) -> bytes:
        """The keyed hash of an identifier; of a subject, also the id of its own key."""
        return hmac.digest(self._hash_key, text.encode(), hashlib.sha256)

    def know(self, connection: Connection, subjects: Iterable[str]) -> None:
        """Give each subject a key of its own unless it has one; for when the record comes to hold it."""
        wanted = {self.hash(subject) for subject in subjects}
        missing = wanted - self._envelopes(connection, list(wanted)).keys()
        if missing:
            rows = [{"key_id": key_id, "envelope": self._new_envelope(key_id)} for key_id in sorted(missing)]
            connection.execute(insert(_table), rows)

    def key(self, connection: Connection, key_id: bytes) -> envelopes.Kek | None:
        """The key of an id; None once it was destroyed."""
        envelope = self._envelopes(connection, [key_id]).get(key_id)
        return None if envelope is None else self._unwrapped(envelope, key_id)

    def keyring(self, connection: Connection, identifiers: Iterable[str]) -> Keyring:
        """The keys for a batch of events that name these identifiers."""
        own = self._envelopes(connection, [self.hash(identifier) for identifier in identifiers])
        return Keyring(self, connection, {key_id: self._unwrapped(e, key_id) for key_id, e in own.items()})

    def day_key(self, connection: Connection, time: int) -> tuple[bytes, envelopes.Kek]:
        """The id and key of a day, made where it is not there."""
        key_id = self.hash(f"day {datetime.fromtimestamp(time, UTC).date()}")
        envelope = self._envelopes(connection, [key_id]).get(key_id)
        if envelope is None:
            # Chains of other replicas move at the same time: whoever is first makes the key of all.
            insert_absent(connection, _table, {"key_id": key_id, "envelope": self._new_envelope(key_id)})
            envelope = self._envelopes(connection, [key_id])[key_id]
        return key_id, self._unwrapped(envelope, key_id)

    def _envelopes(self, connection: Connection, key_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for first in range(0, len(key_ids), _SLICE):
            some = _table.c.key_id.in_(key_ids[first : first + _SLICE])
            rows = connection.execute(select(_table.c.key_id, _table.c.envelope).where(some))
            found.update((row.key_id, row.envelope) for row in rows)
        return found

    def _new_envelope(self, key_id: bytes) -> bytes:
        return seal(self._kek, os.urandom(envelopes.KEY_BYTES), _PURPOSE, key_id.hex())

    def _unwrapped(self, envelope: bytes, key_id: bytes) -> envelopes.Kek:
        return envelopes.Kek(unseal(self._kek, envelope, _PURPOSE, key_id.hex()))


class Keyring:
    """The keys of one batch, within its transaction."""

    def __init__(self, keys: SubjectKeys, connection: Connection, own: dict[bytes, envelopes.Kek]) -> None:
        self._keys = keys
        self._connection = connection
        self._own = own
        self._days: dict[int, tuple[bytes, envelopes.Kek]] = {}

    def key_of(self, identifier: str, time: int) -> tuple[bytes, envelopes.Kek]:
        """The id and key that seal an identifier in an event of this time: its own, else the day's."""
        key_id = self._keys.hash(identifier)
        own = self._own.get(key_id)
        if own is not None:
            return key_id, own
        day = time // 86_400
        if day not in self._days:
            self._days[day] = self._keys.day_key(self._connection, time)
        return self._days[day]
