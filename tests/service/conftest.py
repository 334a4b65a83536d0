"""One embedded service for all tests here; each test makes clients and names of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded, embedded


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A running service."""
    directory = tmp_path_factory.mktemp("service")
    directory.chmod(0o700)
    with embedded(directory, settings={"server.auth_failures": "100000/1s"}) as running:
        yield running


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Embedded]:
    """A running service of this test alone."""
    tmp_path.chmod(0o700)
    with embedded(tmp_path) as running:
        yield running


_COUNT = itertools.count()


@pytest.fixture
def name() -> Callable[[str], str]:
    """Makes names that no other test uses."""
    return lambda stem: f"{stem}-{next(_COUNT)}"
