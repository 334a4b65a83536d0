"""docs/reference says what the code says, and every reason and command is in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from authsvc.core.errors import Reason

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"

COMMANDS = """
    serve, demo, smoke, check-config, keys list, keys rotate, keys revoke, clients create, clients list,
    clients rotate-secret, policy lint, policy apply, policy show, policy decide, roles grant, roles revoke, roles list,
    token issue, token verify, token decode, token revoke, check, limits consume, limits simulate, bench, version
"""


def test_the_pages_are_what_the_code_says() -> None:
    script = ROOT / "scripts" / "generate_reference.py"
    ran = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("command", [" ".join(name.split()) for name in COMMANDS.split(",")])
def test_every_command_of_this_release_is_there(command: str) -> None:
    assert f"\n## `authsvc {command}`\n" in (REFERENCE / "cli.md").read_text()


def test_every_reason_is_explained() -> None:
    text = (REFERENCE / "errors.md").read_text()
    assert [reason.name for reason in Reason if f"| `{reason.name}` | {reason.value} |" not in text] == []


def test_every_setting_is_explained() -> None:
    text = (REFERENCE / "configuration.md").read_text()
    for row in ("| `server.listen` | `127.0.0.1:7070` |", "| `tokens.ttl` | `15m` |", "| `server.proxies[].peer` |"):
        assert row in text
