"""The command line, run in the tests' own process against a real service.

Owns: how a test types a command and reads its answer. What concerns the process itself (signals, the script's speed,
standard input without end) is tested with a real one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from authsvc.cli.main import build


@dataclass(frozen=True)
class Told:
    """What a command wrote, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Standard output, line by line."""
        return self.out.splitlines()

    @property
    def faults(self) -> list[str]:
        """Standard error, line by line."""
        return self.err.splitlines()


@dataclass(frozen=True)
class CommandLine:
    """Types commands; `directory` is the data directory, `environment` what else is set."""

    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *words: str | Path, given: str | bytes = "") -> Told:
        """Run one command with `given` on standard input."""
        ran = CliRunner().invoke(
            build(),
            [str(word) for word in words],
            input=given,
            prog_name="authsvc",
            env={
                "AUTHSVC_DATA_DIR": str(self.directory),
                "AUTHSVC_CREDENTIALS": None,
                "COLUMNS": "200",
                **self.environment,
            },
        )
        if ran.exception is not None and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        return Told(ran.exit_code, ran.stdout, ran.stderr)

    def json(self, *words: str | Path, code: int = 0) -> dict[str, Any]:
        """Run one command for its JSON answer."""
        told = self(*words, "--output", "json")
        assert told.code == code, (told.code, told.out, told.err)
        found: dict[str, Any] = json.loads(told.out)
        return found

    def json_lines(self, *words: str | Path, given: str | bytes, code: int = 0) -> list[dict[str, Any]]:
        """Run a command of standard input; its answers."""
        told = self(*words, "--stdin", given=given)
        assert told.code == code, (told.code, told.out[-500:], told.err)
        return [json.loads(line) for line in told.lines]
