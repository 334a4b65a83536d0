"""What listeners share.

Owns: addresses, TLS files, and the one line that says why an address cannot be served. May import: `config`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from authsvc.config import split_listen


class ListenFault(Exception):
    """The address cannot be served; one line that says why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; where `client_ca` is set, callers must show a certificate of it."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def changed_at(self) -> tuple[int, ...]:
        """When each was written last, in nanoseconds: differs after a renewal."""
        files = (self.certificate, self.key, *((self.client_ca,) if self.client_ca is not None else ()))
        return tuple(file.stat().st_mtime_ns for file in files)


def host_and_port(address: str) -> tuple[str, int]:
    """Split `host:port`, `[::1]:port`. Raises ListenFault."""
    try:
        return split_listen(address)
    except ValueError as fault:
        raise ListenFault(str(fault)) from None
