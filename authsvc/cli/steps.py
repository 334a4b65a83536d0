"""A walk in steps, each with its answer and its time.

Owns: how `demo` and `smoke` look, for people and for scripts. May import: rich, on need.
"""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from authsvc.cli.faults import CommandFault
from authsvc.cli.output import Form, printable

_NAME_AT = 21
_NAME_WIDTH = 34
_ANSWER_AT = _NAME_AT + _NAME_WIDTH + 2
_LEAST_WIDTH = 40


class Answer(NamedTuple):
    """What a step saw, and whether that is as it should be."""

    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was made."""

    step: str
    ok: bool
    answer: str
    milliseconds: float


class Walk:
    """Makes steps one after the other and shows each when it is done."""

    def __init__(self, form: Form) -> None:
        self.steps: list[Step] = []
        self._console = _console() if form is Form.TABLE else None

    @property
    def ok(self) -> bool:
        """Whether every step was as it should be."""
        return all(step.ok for step in self.steps)

    def title(self, text: str, *, style: str = "bold") -> None:
        """A line for people."""
        if self._console is not None:
            self._console.print(text, style=style, soft_wrap=True, markup=False)

    def step(self, name: str, act: Callable[[], Answer]) -> bool:
        """Make a step; a fault of the command line is an answer that is not ok."""
        begun = time.perf_counter()
        try:
            answer = act()
        except CommandFault as fault:
            answer = Answer(False, "; ".join(fault.fault.lines()))
        return self.add(name, answer, (time.perf_counter() - begun) * 1000)

    def add(self, name: str, answer: Answer, milliseconds: float) -> bool:
        """Show a step that was made and measured elsewhere."""
        made = Step(name, answer.ok, printable(answer.text), round(milliseconds, 2))
        self.steps.append(made)
        if self._console is not None:
            _show(self._console, made)
        return answer.ok

    def finish(self) -> None:
        """For scripts: everything at once."""
        if self._console is None:
            print(json.dumps([asdict(step) for step in self.steps], ensure_ascii=False, indent=2))


def _show(console: Any, step: Step) -> None:
    from rich.text import Text

    width = console.width if console.is_terminal else None
    line = Text()
    line.append("  ok    " if step.ok else "  FAIL  ", style="green" if step.ok else "bold red")
    line.append(f"{step.milliseconds:8.1f} ms  ", style="dim")
    line.append(step.step.ljust(_NAME_WIDTH))
    line.append(_beside_or_below(step.answer, width), style="" if step.ok else "red")
    console.print(line, soft_wrap=True)


def _beside_or_below(answer: str, width: int | None) -> str:
    """The answer after its step's name, or whole on lines of its own where a terminal of `width` has no room."""
    if width is None or _ANSWER_AT + len(answer) <= width:
        return f"  {answer}"
    lines = textwrap.wrap(answer, max(width, _LEAST_WIDTH) - _NAME_AT)
    return "".join(f"\n{' ' * _NAME_AT}{line}" for line in lines)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)
