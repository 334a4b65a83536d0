"""`authsvc migrate` before the first start, as a pod's init container runs it."""

from __future__ import annotations

from pathlib import Path

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
