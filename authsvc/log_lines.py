"""Lines on their way to standard output.

Owns: the queue between whoever logs and a reader that may be slow or gone, and its one writing thread. May import: the
standard library. Nobody who logs ever waits: a pipe that nobody reads would stall writes, denials and the stop.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable

MOST_LINES = 10_000
WHOLE_BYTES = select.PIPE_BUF
"""A pipe takes so many bytes whole or not at all, so that lines of several writers do not mix."""


class LogLines:
    """Takes lines from any thread and writes them in order; beyond `most` waiting ones new ones are lost and counted.

    `lost` makes the line that tells how many; it stands where they would have stood. `write` may block for as long as
    it likes; where it raises OSError nobody is there to be told, and the lines are gone.
    """

    def __init__(self, write: Callable[[bytes], object], lost: Callable[[int], str], *, most: int = MOST_LINES) -> None:
        self._write = write
        self._lost = lost
        self._most = most
        self._waiting: deque[str] = deque()
        self._missing = 0
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def write(self, text: str) -> None:
        """Keep a line, its end included; neither blocks nor raises."""
        with self._changed:
            if len(self._waiting) >= self._most:
                self._missing += 1
                return
            self._tell_missing()
            self._waiting.append(text)
            self._changed.notify()

    def stop(self, within: float) -> None:
        """Write what waits and end, but wait at most `within` seconds for a reader that does not read."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(within)

    def _run(self) -> None:
        while text := self._next():
            try:
                self._write(text)
            except OSError:
                continue

    def _next(self) -> bytes:
        """What goes out in one write; nothing at the end."""
        with self._changed:
            while not self._waiting and not self._missing and not self._stopping:
                self._changed.wait()
            if not self._waiting:
                self._tell_missing()
            taken: list[str] = []
            size = 0
            while self._waiting and (not taken or size + len(self._waiting[0]) <= WHOLE_BYTES):
                taken.append(self._waiting.popleft())
                size += len(taken[-1])
        return "".join(taken).encode()

    def _tell_missing(self) -> None:
        if self._missing:
            self._waiting.append(self._lost(self._missing))
            self._missing = 0


def write_standard_output(text: bytes) -> None:
    """Write all of it to standard output, past Python's buffer, whose lock a stalled write would hold at the end.

    Blocks for as long as nobody reads. Raises OSError where there is no standard output.
    """
    if sys.__stdout__ is None:
        # Python found it closed: the descriptor may be another file's by now.
        raise BrokenPipeError
    while text:
        try:
            text = text[os.write(1, text) :]
        except BlockingIOError:
            select.select((), (1,), ())
