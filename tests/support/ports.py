"""Free ports on loopback."""

from __future__ import annotations

import socket
from contextlib import ExitStack


def free_port() -> int:
    """A TCP port nobody listens on now. Prefer listening on port 0 where the program can say what it got."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """`count` different free TCP ports: all are held before the first is let go."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a TCP connection to the port is accepted."""
    with socket.socket() as connection:
        connection.settimeout(1.0)
        return connection.connect_ex((host, port)) == 0
