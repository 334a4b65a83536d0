"""How a fault ends a command.

Owns: the line on standard error, the JSON on standard output, the exit code. May import: click through typer.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from authsvc.cli.faults import CommandFault
from authsvc.cli.output import Form, printable, show


class Commands(TyperGroup):
    """The root of the commands: prints a CommandFault and exits with its code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except CommandFault as ended:
            if ctx.meta.get("form") is Form.JSON:
                show(Form.JSON, ended.fault.plain())
            for line in ended.fault.lines():
                print(f"authsvc: {printable(line)}", file=sys.stderr)
            raise typer.Exit(ended.code) from None
        except BrokenPipeError:
            # Whoever read us has gone; the interpreter must not fail once more when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
