"""The keys that identifiers in audit events are sealed under, one a subject.

Owns: the table `subject_key` (STANDARDS U8). May import: SQLAlchemy, `core`. A subject that the record holds (a
client, a binding's subject) has a key of its own; all others share the key of the event's day, so that strangers
cannot fill the record with keys. Destroying a row erases its subject from every event.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping, Sequence
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
_ADD = insert(_table)


class SubjectKeys:
    """Finds and makes keys; `hash_key` is the secret `HASH_SECRET`."""

    def __init__(self, kek: envelopes.Kek, hash_key: bytes) -> None:
        self._kek = kek
        self._hash_key = hash_key

    def hash(self, text: str) -> bytes:
        """The keyed hash of an identifier; of a subject, also the id of its own key."""
        return hmac.digest(self._hash_key, text.encode(), hashlib.sha256)

    def key(self, connection: Connection, key_id: bytes) -> envelopes.Kek | None:
        """The key of an id; None once it was destroyed."""
        envelope = self._envelopes(connection, [key_id]).get(key_id)
        return None if envelope is None else self.unwrapped(envelope, key_id)

    def keyring(
        self, connection: Connection, identifiers: Iterable[str], times: Iterable[int], known: Iterable[str] = ()
    ) -> Keyring:
        """The keys for a batch of events of these times that name these identifiers, by one statement.

        Each subject of `known`, which the record comes to hold, gets a key of its own unless it has one.
        """
        days = {self._day_id(time) for time in times}
        subjects = {self.hash(subject) for subject in known}
        asked = {self.hash(identifier) for identifier in identifiers} | subjects | days
        found = self._envelopes(connection, sorted(asked))
        made = {key_id: self._new_envelope(key_id) for key_id in sorted(subjects - found.keys())}
        if made:
            connection.execute(_ADD, [{"key_id": key_id, "envelope": envelope} for key_id, envelope in made.items()])
        return Keyring(self, connection, found | made)

    def day_key(self, connection: Connection, time: int, known: Mapping[bytes, bytes]) -> tuple[bytes, envelopes.Kek]:
        """The id and key of a day, made where it is not among the `known` envelopes."""
        key_id = self._day_id(time)
        envelope = known.get(key_id)
        if envelope is None:
            # Chains of other replicas move at the same time: whoever is first makes the key of all.
            insert_absent(connection, _table, {"key_id": key_id, "envelope": self._new_envelope(key_id)})
            envelope = self._envelopes(connection, [key_id])[key_id]
        return key_id, self.unwrapped(envelope, key_id)

    def unwrapped(self, envelope: bytes, key_id: bytes) -> envelopes.Kek:
        """The key in an envelope."""
        return envelopes.Kek(unseal(self._kek, envelope, _PURPOSE, key_id.hex()))

    def _day_id(self, time: int) -> bytes:
        return self.hash(f"day {datetime.fromtimestamp(time, UTC).date()}")

    def _envelopes(self, connection: Connection, key_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for first in range(0, len(key_ids), _SLICE):
            some = _table.c.key_id.in_(key_ids[first : first + _SLICE])
            rows = connection.execute(select(_table.c.key_id, _table.c.envelope).where(some))
            found.update((row.key_id, row.envelope) for row in rows)
        return found

    def _new_envelope(self, key_id: bytes) -> bytes:
        return seal(self._kek, os.urandom(envelopes.KEY_BYTES), _PURPOSE, key_id.hex())


class Keyring:
    """The keys of one batch, within its transaction; each is unwrapped once, when it is needed."""

    def __init__(self, keys: SubjectKeys, connection: Connection, found: Mapping[bytes, bytes]) -> None:
        self._keys = keys
        self._connection = connection
        self._found = found
        self._own: dict[bytes, envelopes.Kek] = {}
        self._days: dict[int, tuple[bytes, envelopes.Kek]] = {}

    def key_of(self, identifier: str, time: int) -> tuple[bytes, envelopes.Kek]:
        """The id and key that seal an identifier in an event of this time: its own, else the day's."""
        key_id = self._keys.hash(identifier)
        envelope = self._found.get(key_id)
        if envelope is not None:
            if key_id not in self._own:
                self._own[key_id] = self._keys.unwrapped(envelope, key_id)
            return key_id, self._own[key_id]
        day = time // 86_400
        if day not in self._days:
            self._days[day] = self._keys.day_key(self._connection, time, self._found)
        return self._days[day]
