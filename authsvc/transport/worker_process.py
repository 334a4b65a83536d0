"""A process of our own that serves, and what supervises it asks of it.

Owns: starting it, its drain, its end; and its own side of that. May import: `transport`, the standard library.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from authsvc.transport.link import DESCRIPTOR, DRAIN, Link, StartFault, link

EXTRA_SECONDS: Final = 10.0
"""What an end may take beyond its grace: writing the audit, closing the record."""


class WorkerProcess:
    """One `python -m MODULE`, with the letter that it is handed as it starts."""

    def __init__(
        self, module: str, letter: Mapping[str, Any], environment: Mapping[str, str], *, keep: Sequence[int] = ()
    ) -> None:
        """`keep`: descriptors that it holds for as long as it runs, such as that of a lock."""
        self._module = module
        self._letter = letter
        self._environment = environment
        self._keep = tuple(keep)
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process; RuntimeError before `begin`."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    def begin(self) -> None:
        """Start it; does not wait."""
        self._link, theirs = link()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very program
                [sys.executable, "-m", self._module],
                env={**self._environment, DESCRIPTOR: str(theirs.fileno())},
                pass_fds=(theirs.fileno(), *self._keep),
                stdin=subprocess.DEVNULL,
                # Signals of the terminal are for the supervisor, which drains.
                start_new_session=True,
            )
        self._link.tell(self._letter)

    def await_ready(self) -> Mapping[str, Any]:
        """Wait until it serves; what it tells then. Raises ListenFault and StartFault, and it is ended then."""
        assert self._link is not None
        try:
            told = self._link.await_ready("the worker")
            if told is None:
                raise StartFault(f"the worker has ended with {self.process.wait()} before it was ready")
        except BaseException:
            self.kill()
            raise
        return told

    def drain(self, grace: float) -> None:
        """Have it finish what is in flight within `grace` seconds and end; blocks until it is gone."""
        if self._link is None:
            return
        self._link.tell(DRAIN)
        try:
            self.process.wait(grace + EXTRA_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """End it now, whatever its state."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._link is not None:
            self._link.close()
            self._link = None


async def until_asked_to_end(end: Link) -> None:
    """The process's own side: wait for a drain, for a signal, or for the supervisor to be gone.

    Afterwards the supervisor's end is the end of this process too: it is then that nobody waits for a drain any more.
    """
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def hear() -> None:
        if end.hear() is not None:
            asked.set()
        elif asked.is_set():
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            loop.remove_reader(end.fileno())
            asked.set()

    loop.add_reader(end.fileno(), hear)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()
