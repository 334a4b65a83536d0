"""What listeners share.

Owns: addresses, how old connections get, how peers are known, and the one line that says why an address cannot be
served. May import: `config`.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Final

from authsvc.config import split_listen

CONNECTION_AGE_SECONDS: Final = 600.0
"""How long a connection takes new calls, give or take a tenth; then its caller opens another, and so callers even out
over processes that came later. Calls and streams that are open stay.
"""


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


def cannot_listen(address: str, error: OSError) -> ListenFault:
    """The fault of an address that cannot be bound."""
    why = os.strerror(error.errno) if error.errno and error.errno > 0 else "not an address of this machine"
    return ListenFault(f"cannot listen on {address}: {why}")


def host_and_port(address: str) -> tuple[str, int]:
    """Split `host:port`, `[::1]:port`. Raises ListenFault."""
    try:
        return split_listen(address)
    except ValueError as fault:
        raise ListenFault(str(fault)) from None
