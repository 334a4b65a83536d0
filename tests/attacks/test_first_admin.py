"""Whoever starts the service first can administer it, whatever interrupted the first try (CONTRACT, First start)."""

from __future__ import annotations

from pathlib import Path

import pytest

from authsvc.bootstrap.foundation import lay_foundation
from authsvc.config import load
from authsvc.core.errors import InvalidRequest
from authsvc.storage.data_directory import ADMIN_FILE
from tests.support.embedded import LOOPBACK, embedded


@pytest.mark.standard("U5")
def test_a_first_start_that_could_not_hand_out_the_admins_secret_is_made_up_for_by_the_next(tmp_path: Path) -> None:
    """The credentials lie in their file before the record knows their client: else nobody would ever have them."""
    directory = tmp_path / "data"
    obstacle = directory / ADMIN_FILE
    obstacle.mkdir(parents=True)
    directory.chmod(0o700)
    with pytest.raises(InvalidRequest):
        lay_foundation(load("", {}, LOOPBACK), directory)
    obstacle.rmdir()
    with embedded(directory) as service:
        assert service.admin()
