"""Waiting for a condition, with a deadline. Tests wait here and nowhere else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

_PAUSE_S = 0.01


def wait_for(
    condition: Callable[[], Answer], deadline_s: float = 10.0, what: str | Callable[[], str] = "the condition"
) -> Answer:
    """Ask until the answer is true, and give it.

    Raises AssertionError after `deadline_s` seconds, naming `what`; a callable is asked only then, for a log's end.
    """
    end = time.monotonic() + deadline_s
    never = threading.Event()
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > end:
            raise AssertionError(_late(what, deadline_s))
        never.wait(_PAUSE_S)


async def wait_for_async(
    condition: Callable[[], Answer], deadline_s: float = 10.0, what: str | Callable[[], str] = "the condition"
) -> Answer:
    """As `wait_for`, leaving the loop free meanwhile."""
    end = time.monotonic() + deadline_s
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > end:
            raise AssertionError(_late(what, deadline_s))
        await asyncio.sleep(_PAUSE_S)


def _late(what: str | Callable[[], str], deadline_s: float) -> str:
    return f"{what if isinstance(what, str) else what()} did not come within {deadline_s} s"
