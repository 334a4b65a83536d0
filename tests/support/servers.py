"""Starting a real program, waiting until it is ready, and stopping it whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.waiting import wait_for

_TAIL = 4000


class Server:
    """A program that was started, in a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def output(self) -> str:
        """The end of what it wrote to standard output and error."""
        return self.log.read_text(errors="replace")[-_TAIL:]

    def stop(self, deadline_s: float = 10.0) -> int:
        """SIGTERM, wait for the exit, SIGKILL for the whole group after the deadline. Gives the exit code."""
        if self.alive:
            self.process.terminate()
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """SIGKILL for the whole group, as a power cut would. Gives the exit code."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait(10)


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    log: Path,
    ready: Callable[[Server], object],
    deadline_s: float = 15.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    standard_output: int | None = None,
) -> Iterator[Server]:
    """Start `command`, wait until `ready(server)` is true, stop it at the end.

    `log` takes standard output and error, or error alone where `standard_output` is a descriptor. `env` is added to the
    environment of the tests. Raises AssertionError with the end of the log when the program ends early or is not ready
    in time.
    """
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=sink if standard_output is None else standard_output,
            stderr=sink,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    server = Server(process, log)
    try:
        wait_for(
            lambda: not server.alive or ready(server),
            deadline_s,
            lambda: f"{command[0]} being ready ({server.output()})",
        )
        assert server.alive, f"{command[0]} ended with {process.returncode}: {server.output()}"
        yield server
    finally:
        server.stop()
        server.kill()
