"""Pinned keys: which server is believed, whatever authorities say.

Owns: the roots that follow from pinned certificates. May import: `cryptography`. No I/O.

gRPC lets nobody look at a certificate, but it takes root certificates. So the chain is fetched first, by a handshake of
its own (`chains`), and those of its certificates whose key is pinned become the only roots. Nothing is decided by what
was fetched: whoever answers the real connection must have a chain that ends in a pinned key, so that it does not matter
who answered the first one. gRPC checks the name, dates and signatures as ever. Trusted roots may be leaves
(BoringSSL's partial chains, which gRPC switches on).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


@dataclass(frozen=True, slots=True)
class Roots:
    """The only certificates that are believed, PEM; a later version knows more of them."""

    pem: bytes
    version: int


def as_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Certificates as gRPC takes them."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
