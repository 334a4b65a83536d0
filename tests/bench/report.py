"""Where measurements are written: blocks of a Markdown page that a program replaces and nothing else touches.

Owns: the marks, tables, numbers as people read them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from authsvc import __version__
from authsvc.cli.bench_measure import machine

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def put_block(name: str, lines: Sequence[str], page: Path = PAGE) -> None:
    """Replace the block of this name, or add it at the end."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    block = "\n".join([begin, "", *lines, "", end])
    text = page.read_text(encoding="utf-8") if page.exists() else "# Performance\n"
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    page.write_text(f"{before.rstrip()}\n\n{block}{after}", encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose first column is text and the others are numbers."""
    return [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, rows)]


def circumstances(more: str = "") -> str:
    """One line: which release, when, on what, and how busy the machine was."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"authsvc {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {machine()}; "
        f"load averages at the end {load}{more}."
    )


def whole(value: float) -> str:
    """A number with thousands apart."""
    return f"{value:,.0f}"


def spread(values: Sequence[float]) -> str:
    """The median, and the least and greatest where there are several."""
    ordered = sorted(values)
    middle = whole(median(ordered))
    return middle if len(ordered) == 1 else f"{middle} ({whole(ordered[0])} - {whole(ordered[-1])})"


def median(values: Sequence[float]) -> float:
    """The middle one; of an even number the mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
