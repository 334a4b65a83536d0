"""The record on SQLite: its engine, how a transaction begins, and what its errors mean.

Owns: everything of SQLite that `dialects` hides. May import: SQLAlchemy and `core`.

WAL with synchronous=FULL, so that an acknowledged write survives power loss. Python's driver would begin a
transaction only at the first write, which lets two writers read the same state; so the driver is in autocommit and
SQLAlchemy's `begin` event opens a write with BEGIN IMMEDIATE.
"""

from __future__ import annotations

import sqlite3
import time

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from authsvc.core.errors import InvalidRequest

BUSY_SECONDS = 0.9
"""How long a statement waits for another process's lock."""

READING = {"authsvc_reading": True}
"""The execution options of a transaction that only reads."""

_PAUSE_SECONDS = 0.01


def make_engine(url: URL) -> Engine:
    """The engine of a file. Raises `InvalidRequest` naming `record.url`; connects to nothing."""
    if not url.database or url.database == ":memory:":
        raise InvalidRequest.of("record.url", "names no file: a record in memory would be empty in every other thread")
    # The pool holds a connection a thread at work; overflow is short-lived bursts of admin calls.
    engine = create_engine(
        url,
        pool_size=8,
        max_overflow=24,
        pool_timeout=BUSY_SECONDS,
        connect_args={"timeout": BUSY_SECONDS},
        hide_parameters=True,
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def meaning(error: DBAPIError) -> str:
    """What a driver's error means, in words that hold nothing of ours."""
    return _MEANINGS.get(_code(error), "the record does not answer")


def is_lasting(error: DBAPIError) -> bool:
    """Whether the file or its directory is at fault, which waiting does not mend."""
    return _code(error) in _LASTING


def gave_way(_error: DBAPIError) -> bool:
    """Never: a write here waits for the whole file, before it has done anything."""
    return False


def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    _use_wal(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _use_wal(connection: sqlite3.Connection) -> None:
    # Of several that open a fresh file at once, SQLite refuses the switch without its usual wait.
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(_PAUSE_SECONDS)


def _on_begin(connection: Connection) -> None:
    mode = "DEFERRED" if connection.get_execution_options().keys() & READING.keys() else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {mode}")


def _code(error: DBAPIError) -> int:
    code: int = getattr(error.orig, "sqlite_errorcode", 0)
    return code & 0xFF


_MEANINGS = {
    sqlite3.SQLITE_BUSY: "the record is locked by another writer",
    sqlite3.SQLITE_LOCKED: "the record is locked by another writer",
    sqlite3.SQLITE_FULL: "the record's disk is full",
    sqlite3.SQLITE_READONLY: "the record cannot be written",
    sqlite3.SQLITE_CANTOPEN: "the record cannot be opened",
    sqlite3.SQLITE_NOTADB: "the record's file is not a database",
    sqlite3.SQLITE_CORRUPT: "the record's file is damaged",
    sqlite3.SQLITE_IOERR: "the record's disk fails",
}
_LASTING = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
