"""What differs between databases, in one place.

Owns: engines, how a transaction begins, and what a driver's error means. May import: SQLAlchemy and `core`.

SQLite: WAL with synchronous=FULL, so that an acknowledged write survives power loss. Python's driver would
begin a transaction only at the first write, which lets two writers read the same state; so the driver is in
autocommit and SQLAlchemy's `begin` event opens a write with BEGIN IMMEDIATE.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from authsvc.core.errors import InvalidRequest, Unavailable

BUSY_SECONDS = 0.9
"""How long a statement waits for another process's lock."""

_PAUSE_SECONDS = 0.01
_READING = "authsvc_reading"


def make_engine(url: str) -> Engine:
    """The engine of a record's URL. Raises `InvalidRequest` naming `record.url`; connects to nothing."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidRequest.of("record.url", "is not a database URL") from error
    if parsed.get_backend_name() != "sqlite":
        raise InvalidRequest.of("record.url", "names a database that this release does not serve; use sqlite:///PATH")
    if not parsed.database or parsed.database == ":memory:":
        raise InvalidRequest.of("record.url", "names no file: a record in memory would be empty in every other thread")
    return _sqlite(parsed)


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One read transaction: every statement in it sees the same state."""
    with translated(), engine.connect() as plain:
        connection = plain.execution_options(**{_READING: True})
        with connection.begin():
            yield connection


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One write transaction, the only one at a time; commits at the end, rolls back on any exception."""
    with translated(), engine.connect() as connection, connection.begin():
        yield connection


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Driver errors become `Unavailable`; the driver's own words stay in the cause."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("the record has no free connection") from error
    except DBAPIError as error:
        raise Unavailable(_meaning(error)) from error


def cannot_open(error: Unavailable) -> bool:
    """Whether the file or its directory is at fault, which waiting does not mend."""
    cause = error.__cause__
    code = getattr(getattr(cause, "orig", None), "sqlite_errorcode", 0) & 0xFF
    return code in {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }


def _sqlite(url: URL) -> Engine:
    # The pool holds a connection a thread at work; overflow is short-lived bursts of admin calls.
    engine = create_engine(
        url, pool_size=8, max_overflow=24, pool_timeout=BUSY_SECONDS, connect_args={"timeout": BUSY_SECONDS}
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


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
    mode = "DEFERRED" if connection.get_execution_options().get(_READING) else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {mode}")


def _meaning(error: DBAPIError) -> str:
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    return {
        sqlite3.SQLITE_BUSY: "the record is locked by another writer",
        sqlite3.SQLITE_LOCKED: "the record is locked by another writer",
        sqlite3.SQLITE_FULL: "the record's disk is full",
        sqlite3.SQLITE_READONLY: "the record cannot be written",
        sqlite3.SQLITE_CANTOPEN: "the record cannot be opened",
        sqlite3.SQLITE_NOTADB: "the record's file is not a database",
        sqlite3.SQLITE_CORRUPT: "the record's file is damaged",
        sqlite3.SQLITE_IOERR: "the record's disk fails",
    }.get(code, "the record does not answer")
