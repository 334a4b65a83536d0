"""What differs between databases, in one place.

Owns: which module serves a URL, how transactions are opened, and what a driver's error becomes. May import:
SQLAlchemy and `core`. `sqlite` and `postgresql` hold what is theirs; a record on SQLite never imports a driver of
PostgreSQL.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Engine, Table, literal_column
from sqlalchemy.dialects import postgresql as postgresql_sql
from sqlalchemy.dialects import sqlite as sqlite_sql
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from authsvc.core.errors import InvalidRequest, Unavailable
from authsvc.storage.sql import postgresql_errors, sqlite

_POSTGRESQL = "authsvc.storage.sql.postgresql"
_READING: Mapping[str, Mapping[str, Any]] = {
    "sqlite": sqlite.READING,
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}
_NOW_MS: Mapping[str, str] = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
}
_INSERT: Mapping[str, Callable[[Table], Any]] = {"sqlite": sqlite_sql.insert, "postgresql": postgresql_sql.insert}


def make_engine(url: str, password_file: Path | None = None) -> Engine:
    """The engine of a record's URL. Raises `InvalidRequest` naming `record.url`; connects to nothing.

    `password_file` is read anew at each connection to PostgreSQL, so that a password changes without a restart.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Without its cause, which repeats the URL and the password in it.
        raise InvalidRequest.of("record.url", "is not a database URL") from None
    match parsed.get_backend_name():
        case "sqlite":
            return sqlite.make_engine(parsed)
        case "postgresql":
            engine: Engine = import_module(_POSTGRESQL).make_engine(parsed, password_file)
            return engine
        case _:
            raise InvalidRequest.of(
                "record.url", "names a database that is not served; use sqlite:///PATH or postgresql://HOST/DATABASE"
            )


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One read transaction: every statement in it sees the same state."""
    with translated(), engine.connect() as plain:
        connection = plain.execution_options(**_READING[engine.dialect.name])
        with connection.begin():
            yield connection


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One write transaction; commits at the end, rolls back on any exception.

    On SQLite it is the only one at a time; on PostgreSQL that begins with the lock of the head row.
    """
    with translated(), engine.connect() as connection, connection.begin():
        yield connection


@contextlib.contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """The write transaction of a start, one at a time on either database; it may take a minute, and waits so long."""
    with writing(engine) as connection:
        if connection.dialect.name != "postgresql":
            yield connection
            return
        with import_module(_POSTGRESQL).alone(connection):
            yield connection


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Driver errors become `Unavailable`, of data `InvalidRequest`; the driver's own words stay in the cause."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("the record has no free connection") from error
    except DataError as error:
        raise InvalidRequest.of("", "holds a value that the record's database cannot keep") from error
    except DBAPIError as error:
        raise Unavailable(_of(error).meaning(error)) from error


def cannot_open(error: Unavailable) -> bool:
    """Whether the database or the way to it is set up wrongly, which waiting does not mend."""
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and bool(_of(cause).is_lasting(cause))


def gave_way(error: Unavailable) -> bool:
    """Whether a migration waited too long for a table that others use, so that it may try again from its beginning."""
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and bool(_of(cause).gave_way(cause))


def insert_absent(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert a row unless one of its key is there; waits for another transaction that inserts it just now."""
    connection.execute(_INSERT[connection.dialect.name](table).values(row).on_conflict_do_nothing())


def put(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert a row in place of the one of its key."""
    insert = _INSERT[connection.dialect.name](table).values(row)
    rest = {name: value for name, value in row.items() if not table.c[name].primary_key}
    connection.execute(insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=rest))


def now_ms(connection: Connection) -> ColumnElement[int]:
    """The database's clock in milliseconds since 1970, as an expression."""
    return literal_column(_NOW_MS[connection.dialect.name], BigInteger)


def wake(connection: Connection) -> None:
    """Tell every listener once this transaction commits; nobody hears it on SQLite."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(postgresql_errors.NOTIFY)


def listener(engine: Engine, hint: Callable[[], None]) -> Callable[[], None]:
    """Call `hint` soon after each commit of anybody, in a thread; the answer stops it. Nothing on SQLite."""
    if engine.dialect.name != "postgresql":
        return lambda: None
    stop: Callable[[], None] = import_module("authsvc.storage.sql.postgresql_listener").start(engine, hint)
    return stop


def _of(error: DBAPIError) -> Any:
    return sqlite if isinstance(error.orig, sqlite3.Error) else postgresql_errors
