"""Between the supervising process and the one that serves.

Owns: a socket pair, the lines of JSON that go over it, and what the first of them mean. May import: the standard
library, `transport.listening`. The supervisor sends one letter first, later `drain` and `refuse`; the other side says
whether it is ready. The end of the file means that the other side is gone.
"""

from __future__ import annotations

import json
import os
import socket
import traceback
from collections.abc import Mapping
from typing import Any, Final

from authsvc.transport.listening import ListenFault

DESCRIPTOR: Final = "AUTHSVC_LINK"
"""The environment variable that holds the end of the process that serves."""

START_SECONDS: Final = 30.0
"""How long a start may take."""

DRAIN: Final = {"event": "drain"}
"""Ask for no more traffic, and end streams."""
REFUSE: Final = {"event": "refuse"}
"""Execute no more calls: what comes now might not be answered. Told back once none is in flight any more."""
READY: Final = "ready"
"""The event of the first line back: what else it holds is where the service listens."""

PEERS: Final = "peers"
"""The entry of the letter that says where the listener learns who its peer is: a `listening.Peers`."""

FOLDER: Final = "folder"
"""The entry of the letter that names the supervisor's folder, with a copy of the TLS key in it."""

_LONGEST = 1 << 20


class StartFault(Exception):
    """The service does not start; one line that says why."""


class Link:
    """One end. Lines are short and rare, so a blocking socket serves both sides."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._buffer = b""

    @classmethod
    def inherited(cls, environment: Mapping[str, str]) -> Link:
        """The end of the process that serves; raises KeyError where no supervisor started it."""
        end = socket.socket(fileno=int(environment[DESCRIPTOR]))
        os.set_inheritable(end.fileno(), False)
        return cls(end)

    def fileno(self) -> int:
        """The descriptor, readable when a line has come."""
        return self._end.fileno()

    def tell(self, line: Mapping[str, Any]) -> None:
        """Send one line; nothing where the other side is gone."""
        try:
            self._end.sendall(json.dumps(line).encode() + b"\n")
        except OSError:
            return

    def hear(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next line; None where the other side is gone. Raises TimeoutError."""
        self._end.settimeout(timeout)
        while b"\n" not in self._buffer and len(self._buffer) < _LONGEST:
            try:
                more = self._end.recv(65_536)
            except ConnectionError:
                more = b""
            if not more:
                return None
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def await_ready(self, who: str) -> Mapping[str, Any] | None:
        """What the other side says once it is ready; None where it has gone.

        Raises ListenFault and StartFault as it told them, and ListenFault where it takes too long.
        """
        try:
            told = self.hear(START_SECONDS)
        except TimeoutError:
            raise ListenFault(f"{who} was not ready within {START_SECONDS:.0f} s") from None
        if told is not None and told["event"] != READY:
            raise (ListenFault if told["listen"] else StartFault)(told["why"])
        return told

    def tell_failed(self, fault: BaseException) -> None:
        """Say in one line why this side does not start."""
        expected = isinstance(fault, StartFault | ListenFault)
        if not expected:
            # Not a fault of the person who started it: the trace goes to standard error, as it would by itself.
            traceback.print_exception(fault)
        why = str(fault) if expected else f"an internal fault at start: {type(fault).__name__}"
        self.tell({"event": "failed", "why": why, "listen": isinstance(fault, ListenFault)})

    @property
    def has_line(self) -> bool:
        """Whether another line came together with the last."""
        return b"\n" in self._buffer

    def close(self) -> None:
        """Give the end up."""
        self._end.close()


def link() -> tuple[Link, socket.socket]:
    """The supervisor's end, and the other to hand down."""
    ours, theirs = socket.socketpair()
    return Link(ours), theirs
