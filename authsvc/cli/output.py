"""What is printed, and in which form.

Owns: tables for people, JSON for scripts. May import: rich, on need. Piped output is plain: no colour, no
frame, one row a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any


class Form(StrEnum):
    """The form of an answer."""

    TABLE = "table"
    JSON = "json"


def show(form: Form, value: Mapping[str, Any], *, columns: Sequence[str] = (), rows: str = "") -> None:
    """Print one answer. With `rows` the member of that name is printed as a table of `columns`."""
    if form is Form.JSON:
        print(json.dumps(value, ensure_ascii=False, indent=2))
    elif rows:
        _table(columns, value[rows])
    else:
        _members(value)


def cell(value: Any) -> str:
    """A value as a person reads it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(cell(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={cell(inner)}" for name, inner in value.items()) or "-"
    return printable(f"{value:g}" if isinstance(value, float) else str(value))


def printable(text: str) -> str:
    """Text on one line, without what a terminal would obey (STANDARDS U14)."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def _members(value: Mapping[str, Any]) -> None:
    width = max((len(name) for name in value), default=0)
    for name, member in value.items():
        if isinstance(member, list) and member and isinstance(member[0], Mapping):
            print(f"{name}:")
            _table(list(member[0]), member)
        else:
            print(f"{name.ljust(width)}  {cell(member)}")


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [[cell(row.get(name)) for name in columns] for row in rows]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for name in columns:
            table.add_column(name.replace("_", " "), overflow="fold")
        for row in cells:
            table.add_row(*(Text(text) for text in row))
        Console(highlight=False).print(table)
        return
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    for row in [list(columns), *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
