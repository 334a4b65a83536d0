"""JSON lines in, JSON lines out.

Owns: the loop of the three commands that need no server. May import: typer. Each line gets exactly
one answer, in order; a line that cannot be read is answered `{"error": ...}` and makes the exit code 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TextIO

import typer

from authsvc.cli.faults import Exit
from authsvc.core.errors import InvalidRequest

_BLOCK = 1 << 16
MAX_LINE = 1 << 20
"""Bytes; a longer line is answered without being kept."""


class Source(Protocol):
    """What is read: gives what is there, at most `size` bytes, and waits only where nothing is."""

    def read1(self, size: int, /) -> bytes:
        """No bytes mean the end."""


def answer_lines(answer: Callable[[str], Mapping[str, Any]], source: Source | None = None) -> None:
    """Answer every line of `source` (standard input) that is not blank, on standard output.

    `answer` raises ValueError where the line cannot be read, InvalidRequest where it is not what it should be. Answers
    go out with each block that was read, so that whoever writes one line and waits gets its answer. Exits with code 1
    at the end where a line was at fault.
    """
    encode = json.JSONEncoder(ensure_ascii=False).encode
    faults = number = 0
    standard_input: Any = sys.stdin.buffer
    for block in _blocks(source or standard_input):
        told = []
        for raw in block:
            number += 1
            if raw is not None and not raw.strip():
                continue
            try:
                told.append(encode(answer(_text(raw))))
                continue
            except InvalidRequest as error:
                why = error.message
            except (ValueError, RecursionError):
                why = "is not a JSON object in UTF-8"
            faults += 1
            told.append(encode({"error": why, "line": number}))
        _put(sys.stdout, told)
    if faults:
        # On standard error alone: standard output holds one answer a line and nothing else.
        print(f"authsvc: {faults} of {number} lines could not be read", file=sys.stderr)
        raise typer.Exit(Exit.REFUSED)


def _text(raw: bytes | None) -> str:
    if raw is None:
        raise InvalidRequest.of("", f"is longer than {MAX_LINE} bytes")
    return raw.decode()


def _blocks(source: Source) -> Iterator[list[bytes | None]]:
    """The lines that can be read without waiting, block after block; None stands for one that is too long."""
    rest: bytes | None = b""
    while block := source.read1(_BLOCK):
        first, *others = block.split(b"\n")
        rest = None if rest is None or len(rest) + len(first) > MAX_LINE else rest + first
        if others:
            *whole, last = others
            yield [rest, *whole]
            rest = last
    if rest != b"":
        yield [rest]


def _put(sink: TextIO, told: list[str]) -> None:
    if told:
        text = "\n".join(told) + "\n"
        # Half a surrogate pair has no UTF-8; what Python writes for it is also JSON's escape.
        sink.write(text.encode("utf-8", "backslashreplace").decode())
        sink.flush()
