"""Where the wheel of pyvoy or the library of Python is missing, grpcio serves and says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from authsvc.v1 import key_pb2
from tests.support.process import children, serving

INSTEAD = "authsvc: warning: server.transport: grpcio serves instead of pyvoy: "


def without_wheel(folder: Path) -> dict[str, str]:
    """An environment in which an empty package of that name stands before the wheel's."""
    (folder / "pyvoy").mkdir()
    (folder / "pyvoy" / "__init__.py").touch()
    return {"PYTHONPATH": str(folder)}


def without_library(folder: Path) -> dict[str, str]:
    """An environment in which Python says of itself that its library is a file that is nowhere."""
    ask = "import sysconfig; print(sysconfig._get_sysconfigdata_name())"
    real = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    # The name holds a hyphen, so that no import statement can say it.
    text = (
        "import importlib\n"
        f"real = importlib.import_module({real!r}).build_time_vars\n"
        "build_time_vars = {**real, 'INSTSONAME': 'nowhere.so'}\n"
    )
    (folder / "described_anew.py").write_text(text)
    return {"PYTHONPATH": str(folder), "_PYTHON_SYSCONFIGDATA_NAME": "described_anew"}


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        (without_wheel, "the wheel is not installed: pip install 'authsvc[pyvoy]'"),
        (without_library, "there is no shared libpython"),
    ],
)
def test_where_pyvoy_cannot_run_grpcio_serves_and_one_line_says_why(
    tmp_path: Path, environment: Callable[[Path], dict[str, str]], missing: str
) -> None:
    folder = tmp_path / "path"
    folder.mkdir()
    around = environment(folder)
    around["PYTHONPATH"] = os.pathsep.join(filter(None, (around["PYTHONPATH"], os.environ.get("PYTHONPATH"))))
    with serving(tmp_path / "data", {"server.transport": "pyvoy"}, environment=around) as service:
        (line,) = [line for line in service.server.log.read_text().splitlines() if line.startswith(INSTEAD)]
        assert line.removeprefix(INSTEAD).startswith(missing)
        assert children(service.pid) == []
        assert service.call("KeyService/GetJwks", key_pb2.GetJwksRequest()).jwks
