"""Pinned keys: which server is believed, whatever authorities say.

Owns: the form of a pin (RFC 7469 section 2.4), and which certificates of a chain hold a pinned key. May import:
`core`, `cryptography`. No I/O.

gRPC lets nobody look at a certificate, but it takes root certificates. So the chain is fetched first, by a handshake of
its own (`chains`), and those of its certificates whose key is pinned become the only roots. Nothing is decided by what
was fetched: whoever answers the real connection must have a chain that ends in a pinned key, so that it does not matter
who answered the first one. gRPC checks the name, dates and signatures as ever. Trusted roots may be leaves
(BoringSSL's partial chains, which gRPC switches on).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_PIN = re.compile(r"sha256/[A-Za-z0-9+/]{43}=")


@dataclass(frozen=True, slots=True)
class Roots:
    """The only certificates that are believed, PEM; a later version knows more of them."""

    pem: bytes
    version: int


def wrong_pins(pins: Iterable[str]) -> list[str]:
    """Those that are not `sha256/` and the base64 of a SHA-256."""
    return [pin for pin in pins if _PIN.fullmatch(pin) is None]


def pin_of(certificate: x509.Certificate) -> str:
    """The pin of a certificate's public key."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256/{base64.b64encode(hashlib.sha256(spki).digest()).decode()}"


def pinned(chain: Sequence[x509.Certificate], pins: Iterable[str]) -> list[x509.Certificate]:
    """The certificates whose key is pinned, leaf or authority."""
    wanted = frozenset(pins)
    return [certificate for certificate in chain if pin_of(certificate) in wanted]


def as_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Certificates as gRPC takes them."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
