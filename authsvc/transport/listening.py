"""What listeners share.

Owns: addresses, how peers are known, and the one line that says why an address cannot be served. May import: `config`.
"""

from __future__ import annotations

from enum import StrEnum

from authsvc.config import split_listen


class ListenFault(Exception):
    """The address cannot be served; one line that says why."""


class Peers(StrEnum):
    """Where a listener of gRPC learns who its peer is."""

    NOBODY = "nobody"
    """Peers have addresses only."""
    CERTIFICATE = "certificate"
    """The client certificate that the handshake verified."""
    SIDECAR = "sidecar"
    """The sidecar of this machine, which says whom it verified; nobody else is let in."""


def host_and_port(address: str) -> tuple[str, int]:
    """Split `host:port`, `[::1]:port`. Raises ListenFault."""
    try:
        return split_listen(address)
    except ValueError as fault:
        raise ListenFault(str(fault)) from None
