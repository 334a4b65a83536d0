"""Where the data directory is.

Owns: its default. May import: the standard library. The directory itself is made by `bootstrap`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ADMIN_FILE = "admin.json"
"""The first administrator's credentials."""
CONFIG_FILE = "authsvc.toml"
"""The configuration that `serve` reads unless told otherwise."""


def data_directory(environment: Mapping[str, str]) -> Path:
    """`AUTHSVC_DATA_DIR`, else `authsvc` in the user's data directory."""
    given = environment.get("AUTHSVC_DATA_DIR")
    if given:
        return Path(given)
    base = environment.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "authsvc"
