"""docs/reference says what the code says, and every reason and command is in it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from authsvc.cli.first_run import NEXT
from authsvc.cli.main import build
from authsvc.core.errors import Reason

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"

COMMANDS = """
    serve, demo, smoke, check-config, keys list, keys rotate, keys revoke,
    keys propagation, migrate, limits show, clients create, clients list,
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


def written_commands() -> list[str]:
    """What README.md and the screen of `make run` tell a reader to type."""
    text = (ROOT / "README.md").read_text() + NEXT.replace("{program}", "authsvc").replace("{{", "{").replace("}}", "}")
    return re.findall(r"^ +(authsvc .+?)(?: +#.*)?$", text, re.MULTILINE)


@pytest.mark.parametrize("line", written_commands())
def test_every_command_that_readers_are_told_to_type_exists_with_its_options(line: str) -> None:
    _, *words = shlex.split(line)
    command: Any = get_command(build())
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), f"{line}: no such command"
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    assert {word for word in words if word.startswith("--") and word not in known} == set()


def test_every_reason_is_explained() -> None:
    text = (REFERENCE / "errors.md").read_text()
    assert [reason.name for reason in Reason if f"| `{reason.name}` | {reason.value} |" not in text] == []


def test_every_setting_is_explained() -> None:
    text = (REFERENCE / "configuration.md").read_text()
    for row in ("| `server.listen` | `127.0.0.1:7070` |", "| `tokens.ttl` | `15m` |", "| `server.proxies[].peer` |"):
        assert row in text
