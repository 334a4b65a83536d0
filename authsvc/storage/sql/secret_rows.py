"""Named secrets of the record, and its settings, as rows.

Owns: the tables `wrapped_secret` and `setting`. May import: SQLAlchemy, `core`. Run inside a write transaction,
of which there is one at a time: so whoever looks and then makes is never raced.
"""

from __future__ import annotations

import os

from sqlalchemy import Connection, insert, select

from authsvc.core import envelopes
from authsvc.storage.sql import dialects, tables
from authsvc.storage.sql.sealing import seal, unseal

_BYTES = 32


def secret(connection: Connection, kek: envelopes.Kek, name: str) -> bytes:
    """The secret of a name, made where it is not there."""
    table = tables.wrapped_secret
    envelope = connection.scalar(select(table.c.envelope).where(table.c.name == name).with_for_update())
    if envelope is not None:
        return unseal(kek, envelope, envelopes.SECRET, name)
    made = os.urandom(_BYTES)
    connection.execute(insert(table).values(name=name, envelope=seal(kek, made, envelopes.SECRET, name)))
    return made


def setting(connection: Connection, name: str) -> bytes | None:
    """What the record remembers under a name."""
    return connection.scalar(select(tables.setting.c.value).where(tables.setting.c.name == name))


def remember(connection: Connection, name: str, value: bytes) -> None:
    """Remember a value in place of what was there."""
    dialects.put(connection, tables.setting, {"name": name, "value": value})
