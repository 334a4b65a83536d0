"""A record in a temporary file, and replicas that follow it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from authsvc.core.envelopes import Kek
from authsvc.storage.sql.opening import Opening, open_record
from authsvc.storage.sql.record import SqlRecord

KEK = Kek(b"k" * 32)
ISSUER = "https://auth.example"


def open_at(path: Path) -> SqlRecord:
    """The record of a file."""
    return open_record(Opening(f"sqlite:///{path}", KEK, ISSUER))


@pytest.fixture
def record_path(tmp_path: Path) -> Path:
    """Where the record lies."""
    return tmp_path / "record.db"


@pytest.fixture
def record(record_path: Path) -> Iterator[SqlRecord]:
    """A fresh record."""
    opened = open_at(record_path)
    yield opened
    opened.close()
