"""How a command ends when it cannot do what was asked.

Owns: the exit codes, and one clear line for every fault. May import: the standard library and `core.errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from authsvc.core.errors import AuthsvcError, FieldViolation, InvalidRequest


class Exit(IntEnum):
    """What the exit code says; the same for every command."""

    DONE = 0
    REFUSED = 1
    """The service refused, the answer is a denial, or a line of standard input is at fault."""
    WRONG_USE = 2
    """The command line or the configuration is wrong; nothing was asked of a service."""
    UNREACHABLE = 3
    """The service gave no answer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong, for people and for scripts; `retry_after` in seconds."""

    message: str
    reason: str = ""
    fields: tuple[FieldViolation, ...] = ()
    retry_after: float | None = None

    def lines(self) -> list[str]:
        """For people: one line, or one for each field where several are at fault."""
        if len(self.fields) > 1:
            return [f"{at.field}: {at.description}" if at.field else at.description for at in self.fields]
        text = f"{self.reason}: {self.message}" if self.reason else self.message
        hint = "" if self.retry_after is None else f" (try again in {self.retry_after:g} s)"
        return [text + hint]

    def plain(self) -> dict[str, Any]:
        """For `--output json`."""
        return {
            "error": {
                "reason": self.reason,
                "message": self.message,
                "fields": [{"field": fault.field, "description": fault.description} for fault in self.fields],
                "retry_after": self.retry_after,
            }
        }


class CommandFault(Exception):
    """Ends the command; `main` prints it and exits with `code`."""

    def __init__(self, fault: Fault, code: Exit) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.code = code


def wrong_use(message: str) -> CommandFault:
    """The command was given something that it cannot take."""
    return CommandFault(Fault(message), Exit.WRONG_USE)


def wrong_fields(violations: Sequence[FieldViolation]) -> CommandFault:
    """Settings or fields are at fault, all of them named."""
    text = "; ".join(f"{v.field}: {v.description}" if v.field else v.description for v in violations)
    return CommandFault(Fault(text, fields=tuple(violations)), Exit.WRONG_USE)


def of_error(error: AuthsvcError, code: Exit) -> CommandFault:
    """An error of the product that was met without a service between."""
    if isinstance(error, InvalidRequest):
        return CommandFault(Fault(error.message, fields=error.violations), code)
    return CommandFault(Fault(error.message, error.reason.text), code)
