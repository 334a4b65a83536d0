"""One PostgreSQL for all tests here; each has a database of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from authsvc.core.envelopes import Kek
from authsvc.storage.sql.opening import Opening, open_record
from authsvc.storage.sql.record import SqlRecord
from tests.support.postgresql import Postgres, postgres

KEK = Kek(b"k" * 32)
ISSUER = "https://auth.example"


class PostgresqlBench:
    """A database of a server, opened as often as asked."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.database = server.database()
        self._opened: list[SqlRecord] = []

    @property
    def opening(self) -> Opening:
        """What it is opened with."""
        return Opening(self.server.url(self.database), KEK, ISSUER, password_file=self.server.password)

    def open(self) -> SqlRecord:
        """Another instance."""
        record = open_record(self.opening)
        self._opened.append(record)
        return record

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Go behind the record's back."""
        return self.server.sql(statement, *values, database=self.database)

    def close(self) -> None:
        """Close every instance, and drop the database."""
        for record in self._opened:
            record.close()
        self.server.sql(f"DROP DATABASE {self.database} WITH (FORCE)")


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A server that tests share; none of them stops it."""
    # No power is cut here, and a hundred databases are made and dropped.
    with postgres("fsync=off") as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """A server of this test alone, to be stopped."""
    with postgres() as running:
        yield running


@pytest.fixture
def postgresql(server: Postgres) -> Iterator[PostgresqlBench]:
    """A fresh database."""
    bench = PostgresqlBench(server)
    yield bench
    bench.close()
