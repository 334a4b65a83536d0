"""`authsvc migrate` before the first start, as a pod's init container runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from tests.support.process import serving


def test_a_record_that_migrate_made_is_served_and_a_second_time_there_is_nothing_to_do(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path / "data")
    first = cli.json("migrate")
    assert (first["before"], first["migrated"]) == ("", True)
    assert cli.json("migrate") == {"schema": first["schema"], "before": first["schema"], "migrated": False}
    assert (tmp_path / "data" / "kek").stat().st_mode & 0o777 == 0o600
    with serving(tmp_path / "data"):
        assert cli("clients", "list").code == 0


def test_migrate_refuses_a_record_whose_key_encryption_key_is_gone(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path / "data")
    assert cli("migrate").code == 0
    (tmp_path / "data" / "kek").unlink()
    told = cli("migrate")
    assert (told.code, "put it back" in told.err) == (2, True)


def test_migrate_waits_for_no_service_that_holds_the_record(tmp_path: Path) -> None:
    with serving(tmp_path / "data"):
        told = CommandLine(tmp_path / "data")("migrate")
    assert told.code == 2
    assert len(told.faults) == 1


@pytest.mark.parametrize(
    ("url", "code", "what"),
    [
        ("postgresql://owner@127.0.0.1:1/authsvc?sslmode=disable", 3, "does not answer"),
        ("mysql://127.0.0.1/authsvc", 2, "record.url"),
        ("postgresql://owner@db.example/authsvc?sslmode=disable", 2, "only sslmode=verify-full"),
    ],
)
def test_a_database_that_is_away_is_told_apart_from_one_that_is_set_up_wrongly(
    tmp_path: Path, url: str, code: int, what: str
) -> None:
    told = CommandLine(tmp_path / "data")("migrate", f"--record.url={url}")
    assert told.code == code
    (line,) = told.faults
    assert what in line
