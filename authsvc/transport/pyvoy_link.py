"""Between the process that supervises Envoy and the application inside it.

Owns: a socket pair, and the lines of JSON that go over it. May import: the standard library. The supervisor sends one
letter first, later `drain` and `refuse`; the application says whether it is ready. The end of the file means that the
other side is gone.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any, Final

DESCRIPTOR: Final = "AUTHSVC_PYVOY_LINK"
"""The environment variable that holds the application's end."""

DRAIN: Final = {"event": "drain"}
"""Ask for no more traffic, and end streams."""
REFUSE: Final = {"event": "refuse"}
"""Execute no more calls: what comes now might not be answered. Told back once none is in flight any more."""

CLIENT_CERTIFICATES: Final = "client_certificates"
"""The entry of the letter that says whether the listener demands them, and so writes who the peer is."""

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
        """The application's end; raises KeyError where no supervisor started this process."""
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

    @property
    def has_line(self) -> bool:
        """Whether another line came together with the last."""
        return b"\n" in self._buffer

    def close(self) -> None:
        """Give the end up."""
        self._end.close()


def link() -> tuple[Link, socket.socket]:
    """The supervisor's end, and the application's to hand down."""
    ours, theirs = socket.socketpair()
    return Link(ours), theirs
