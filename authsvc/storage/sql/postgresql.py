"""The record on PostgreSQL: its engine, its deadlines, its TLS, and the turn of a migration.

Owns: everything that a connection to PostgreSQL is made with. May import: SQLAlchemy, psycopg, `core`, the reader of
secret files. Every wait has an end: a connection by `connect_timeout`, a lock and a statement by the server, and a
server that falls silent by `_Connection`. A write is READ COMMITTED behind the lock of the head row, so each of its
statements sees what the writer before committed; a read is one REPEATABLE READ, READ ONLY transaction.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from authsvc.core.errors import InvalidRequest
from authsvc.storage import secret_files
from authsvc.storage.sql.postgresql_errors import UNREADABLE

_T = TypeVar("_T")

SILENCE_SECONDS = 10.0
"""How long a server that owes an answer may send nothing, before its connection is given up."""

_SESSION = {
    "lock_timeout": "2s",
    "statement_timeout": "8s",
    "idle_in_transaction_session_timeout": "5s",
    "TimeZone": "UTC",
}
_MIGRATING = {
    "lock_timeout": "60s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
}
_TABLE_LOCK_TIMEOUT = "500ms"
"""How long a migration waits for a table that is in use, before it gives way and tries again."""
_MIGRATION_SECONDS = 70.0
_MIGRATION_LOCK = 0x61757468737663
"""The advisory lock of whoever brings the schema up: the bytes of `authsvc`."""

_PARAMETERS = frozenset(
    {"application_name", "host", "passfile", "port", "sslcert", "sslcrl", "sslkey", "sslmode", "sslrootcert"}
)
_VERIFYING = ("verify-full", "verify-ca")
_MODES = (*_VERIFYING, "require", "prefer", "allow", "disable")


def make_engine(url: URL, password_file: Path | None, *, silence_seconds: float = SILENCE_SECONDS) -> Engine:
    """The engine of a database. Raises `InvalidRequest` naming `record.url`; connects to nothing."""
    engine = create_engine(
        _checked(url),
        # A replica of two workers holds at most 18 with its listeners: three fit into PostgreSQL's default of 100.
        pool_size=4,
        max_overflow=4,
        pool_timeout=2.0,
        # After a restart of the server the first call would fail for nothing.
        pool_pre_ping=True,
        pool_recycle=1800,
        pool_use_lifo=True,
        isolation_level="READ COMMITTED",
        hide_parameters=True,
        connect_args={
            "client_encoding": "utf8",
            "connect_timeout": 2,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 2,
            "tcp_user_timeout": 5000,
            # A standby answers too, with an old state that would pass for the newest.
            "target_session_attrs": "read-write",
            # Where a ticket of Kerberos lies about, libpq would take its encryption, and verify no certificate.
            "gssencmode": "disable",
        },
    )

    @event.listens_for(engine, "do_connect")
    def connect(
        _dialect: object, _record: object, _args: object, parameters: dict[str, Any]
    ) -> psycopg.Connection[Any]:
        if password_file is not None:
            parameters["password"] = _password(password_file)
        connection = _Connection.connect(**parameters)
        connection.silence_seconds = silence_seconds
        try:
            _settle(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    return engine


@contextlib.contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """Hold the lock of migrations for the rest of the transaction, with deadlines that suit one."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, _Connection):
        raise TypeError("not a connection of this engine")
    usual, driver.silence_seconds = driver.silence_seconds, _MIGRATION_SECONDS
    try:
        for name, value in _MIGRATING.items():
            connection.exec_driver_sql("SELECT set_config(%s, %s, true)", (name, value))
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        # Whoever waits for a table's strongest lock holds up all who come after.
        connection.exec_driver_sql("SELECT set_config('lock_timeout', %s, true)", (_TABLE_LOCK_TIMEOUT,))
        if connection.exec_driver_sql("SHOW server_encoding").scalar() != "UTF8":
            raise InvalidRequest.of("record.url", "names a database whose encoding is not UTF8")
        yield
    finally:
        driver.silence_seconds = usual


class _Connection(psycopg.Connection[Any]):
    """A connection that is closed when its server stays silent.

    The kernel of a stopped or overloaded server goes on acknowledging, so no setting of TCP ends that wait.
    """

    silence_seconds = SILENCE_SECONDS

    def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        """As psycopg's, with an end."""
        return super().wait(self._heard(gen), interval, timeout)

    def _heard(self, gen: PQGen[_T]) -> Generator[Any, Any, _T]:
        try:
            wanted = next(gen)
            end = time.monotonic() + self.silence_seconds
            while True:
                ready = yield wanted
                if ready:
                    end = time.monotonic() + self.silence_seconds
                elif time.monotonic() > end:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the server fell silent")
                wanted = gen.send(ready)
        except StopIteration as done:
            answer: _T = done.value
            return answer


def _password(file: Path) -> str:
    try:
        return secret_files.read_secret(file, "record.password_file").decode().strip()
    except (InvalidRequest, UnicodeDecodeError) as error:
        # As a driver's error: a file that is away while it is replaced must not end the tail.
        raise psycopg.OperationalError(UNREADABLE) from error


def _settle(connection: psycopg.Connection[Any]) -> None:
    # Not by `options` of the connection, which belongs to whoever writes the URL and which poolers refuse.
    for name, value in _SESSION.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    # An acknowledged write survives a power cut, whatever the server's default; a stronger one stays.
    connection.execute(
        "SELECT set_config(name, 'on', false) FROM pg_settings WHERE name = 'synchronous_commit' AND setting = 'off'"
    )
    connection.commit()


def _checked(url: URL) -> URL:
    unknown = sorted(url.query.keys() - _PARAMETERS)
    if unknown:
        # By its name alone where that is one: a password with a `?` in it would stand here.
        raise InvalidRequest.of("record.url", f"holds a parameter other than {', '.join(sorted(_PARAMETERS))}")
    if not url.database:
        raise InvalidRequest.of("record.url", "names no database")
    mode = url.query.get("sslmode", "verify-full")
    if not isinstance(mode, str) or mode not in _MODES:
        raise InvalidRequest.of("record.url", f"takes as sslmode one of {', '.join(_MODES)}")
    if mode not in _VERIFYING and not all(_is_local(host) for host in _hosts(url)):
        raise InvalidRequest.of("record.url", "off loopback takes only sslmode=verify-full or verify-ca")
    query: dict[str, str | tuple[str, ...]] = {**url.query, "sslmode": mode}
    if mode == "verify-full":
        query.setdefault("sslrootcert", "system")
    query.setdefault("application_name", "authsvc")
    return url.set(drivername="postgresql+psycopg", query=query)


def _hosts(url: URL) -> list[str]:
    more = url.query.get("host", ())
    named = [url.host or "", *((more,) if isinstance(more, str) else more)]
    hosts = [host for text in named for host in text.split(",") if host]
    # No host at all is libpq's own choice: a UNIX socket, or PGHOST.
    return hosts or [""]


def _is_local(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0].strip("[]")).is_loopback
    except ValueError:
        return False
