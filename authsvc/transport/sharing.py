"""What the workers of one service share: ports, and a folder.

Owns: `Place`, `SharedPort`. May import: `transport.listening`, the standard library. The kernel spreads connections
over all sockets that listen on a port with SO_REUSEPORT; it lets any process of the same user join, and `SharedPort`
keeps others out.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from authsvc.transport.listening import cannot_listen, host_and_port


@dataclass(frozen=True, slots=True)
class Place:
    """Which of several workers this is, and the addresses that all of them share."""

    number: int
    """From 1."""
    count: int
    folder: Path
    """Where the sockets of all of them lie; the owner's alone."""
    grpc: str
    http: str
    ops: str

    def socket_of(self, number: int) -> Path:
        """Where a worker answers the others."""
        return self.folder / f"{number}.sock"


class SharedPort:
    """Holds `host:port` for processes that share it, without listening: it stays ours while one of them restarts.

    Raises ListenFault where somebody listens there already.
    """

    def __init__(self, address: str) -> None:
        host, port = host_and_port(address)
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            # After the bind: before it, a port that another service of this user shares would be taken for free.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as fault:
            self._socket.close()
            raise cannot_listen(address, fault) from fault
        self.address = f"{address.rpartition(':')[0]}:{self._socket.getsockname()[1]}"
        """With the port that was chosen where 0 was asked."""

    def close(self) -> None:
        """Let go."""
        self._socket.close()
