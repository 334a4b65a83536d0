"""Files of secrets that cannot be written: nothing of the secret stays behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from authsvc.core.errors import InvalidRequest
from authsvc.storage.secret_files import write_secret

FULL = """
import resource, sys
from pathlib import Path
from authsvc.core.errors import InvalidRequest
from authsvc.storage.secret_files import write_secret

# As on a full disk: the first bytes go in, the next do not.
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    write_secret(Path(sys.argv[1]), b"x" * 20, "keys.kek", replace=sys.argv[2] == "True")
except InvalidRequest as refused:
    sys.exit(7 if "cannot write" in str(refused.violations[0]) else 8)
"""


@pytest.mark.parametrize("replace", [False, True])
def test_a_secret_for_which_there_is_no_room_leaves_nothing_of_it(tmp_path: Path, *, replace: bool) -> None:
    target = tmp_path / "kek"
    done = subprocess.run([sys.executable, "-c", FULL, str(target), str(replace)], check=False, timeout=30)
    assert done.returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_a_secret_whose_place_is_taken_leaves_nothing_of_it_either(tmp_path: Path) -> None:
    target = tmp_path / "kek"
    target.mkdir()
    with pytest.raises(InvalidRequest, match="cannot write"):
        write_secret(target, b"secret", "keys.kek", replace=True)
    assert list(tmp_path.iterdir()) == [target]
    assert write_secret(target, b"secret", "keys.kek") is False
    assert list(tmp_path.iterdir()) == [target]


def test_a_secret_is_made_once_and_replaced_where_asked_for_the_owner_alone(tmp_path: Path) -> None:
    target = tmp_path / "kek"
    assert write_secret(target, b"one", "keys.kek") is True
    assert write_secret(target, b"two", "keys.kek") is False
    assert target.read_bytes() == b"one"
    assert write_secret(target, b"three", "keys.kek", replace=True) is True
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"three", 0o600)
    assert list(tmp_path.iterdir()) == [target]
