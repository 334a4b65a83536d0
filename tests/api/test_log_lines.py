"""Lines on their way to standard output: nobody waits for a reader, order is kept, a loss is a line."""

from __future__ import annotations

import os
import threading
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from authsvc.log_lines import LogLines
from tests.support.waiting import wait_for


def _lost(count: int) -> str:
    return f"lost {count}\n"


class Reader:
    """Takes what is written once it is let go; until then the writer stands."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.reads = threading.Event()
        self.text = b""

    def write(self, text: bytes) -> None:
        """Take it."""
        self.begun.set()
        self.reads.wait(30)
        self.text += text


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=3_000), max_size=20))
def test_a_normal_stop_loses_no_line_and_keeps_their_order(texts: list[str]) -> None:
    reader = Reader()
    reader.reads.set()
    lines = LogLines(reader.write, _lost)
    lines.start()
    for text in texts:
        lines.write(f"{text}\n")
    lines.stop(30)
    assert reader.text.decode() == "".join(f"{text}\n" for text in texts)


def test_what_does_not_fit_is_counted_where_it_is_missing() -> None:
    reader = Reader()
    lines = LogLines(reader.write, _lost, most=2)
    lines.start()
    lines.write("a\n")
    assert reader.begun.wait(30)
    for text in "bcdef":
        lines.write(f"{text}\n")
    reader.reads.set()
    wait_for(lambda: reader.text.endswith(b"lost 3\n"), 30, "the loss")
    lines.write("g\n")
    lines.stop(30)
    assert reader.text == b"a\nb\nc\nlost 3\ng\n"


def test_a_pipe_that_nobody_reads_delays_nobody_and_the_stop_by_no_more_than_was_allowed() -> None:
    end, beginning = os.pipe()
    lines = LogLines(partial(os.write, beginning), _lost, most=100)
    lines.start()
    for _ in range(10_000):
        lines.write("x" * 99 + "\n")
    lines.stop(0.1)
    os.close(end)
    os.close(beginning)


def test_a_reader_that_left_ends_nothing() -> None:
    end, beginning = os.pipe()
    os.close(end)
    lines = LogLines(partial(os.write, beginning), _lost)
    lines.start()
    lines.write("a\n")
    lines.write("b\n")
    lines.stop(30)
    os.close(beginning)
