"""One PostgreSQL for all tests here, a database and replicas of its own for each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import releases
from tests.support.fleet import Fleet, on_postgresql
from tests.support.postgresql import Postgres, postgres
from tests.support.releases import Release


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A server that tests share; none of them stops it."""
    with postgres("fsync=off") as running:
        yield running


@pytest.fixture
def database(server: Postgres) -> Iterator[str]:
    """An empty database."""
    name = server.database()
    yield name
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def fleet(server: Postgres, database: str, tmp_path: Path) -> Fleet:
    """Replicas on a database of their own, which count limits each for itself."""
    return Fleet(tmp_path, on_postgresql(server, database))


@pytest.fixture(scope="session")
def next_release() -> Iterator[Release]:
    """The release after this one."""
    with tempfile.TemporaryDirectory(prefix="authsvc-next-") as folder:
        yield releases.next_release(Path(folder))


@pytest.fixture(scope="session")
def release_after_next() -> Iterator[Release]:
    """The one after that."""
    with tempfile.TemporaryDirectory(prefix="authsvc-after-next-") as folder:
        yield releases.release_after_next(Path(folder))
