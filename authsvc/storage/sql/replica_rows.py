"""Replicas as rows.

Owns: the table `replica`. May import: SQLAlchemy, `core`, `ports`. Times are the database's own.
"""

from __future__ import annotations

import json

from sqlalchemy import Connection, delete, select, update

from authsvc.ports.replicas import Replica
from authsvc.storage.sql import dialects, tables

_MILLISECONDS = 1_000


def put(connection: Connection, replica: Replica) -> None:
    """Write a replica's row in place of its earlier one."""
    epoch, number = replica.revision
    row = {
        "replica_id": replica.replica_id,
        "epoch": epoch,
        "number": number,
        "watchers": replica.watchers,
        "acknowledged": json.dumps([[*order, count] for order, count in replica.acknowledged], separators=(",", ":")),
        "seen_at": dialects.now_ms(connection),
    }
    dialects.put(connection, tables.replica, row)


def forget(connection: Connection, seconds: float) -> None:
    """Drop rows not seen for so long; to be done before `put`, so that all who report lock rows in one order.

    A row from the future, where the clock was set back or another server's is behind, counts as seen now: whoever
    lives reports again, and whoever does not is forgotten in the usual time.
    """
    now, seen_at = dialects.now_ms(connection), tables.replica.c.seen_at
    connection.execute(update(tables.replica).where(seen_at > now).values(seen_at=now))
    connection.execute(delete(tables.replica).where(seen_at < now - int(seconds * _MILLISECONDS)))


def remove(connection: Connection, replica_id: str) -> None:
    """Drop one row."""
    connection.execute(delete(tables.replica).where(tables.replica.c.replica_id == replica_id))


def rows(connection: Connection) -> tuple[Replica, ...]:
    """All, by id."""
    columns = tables.replica.c
    age = (dialects.now_ms(connection) - columns.seen_at).label("age")
    found = connection.execute(select(tables.replica, age).order_by(columns.replica_id))
    return tuple(
        Replica(
            row.replica_id,
            (row.epoch, row.number),
            row.watchers,
            tuple(((epoch, number), count) for epoch, number, count in json.loads(row.acknowledged)),
            # The wall clock of the database may be set back; see `forget`.
            max(0, row.age) / _MILLISECONDS,
        )
        for row in found
    )
