"""Pins: the hash of a public key, by which a certificate is believed (RFC 7469 section 2.4).

Owns: the form of a pin, and which certificates hold a pinned key. May import: the standard library, `cryptography`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from cryptography import x509

_PIN = re.compile(r"sha256/[A-Za-z0-9+/]{43}=")


def pin_of(certificate: x509.Certificate) -> str:
    """`sha256/` and the base64 of the SHA-256 of the public key's SubjectPublicKeyInfo."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256/{base64.b64encode(hashlib.sha256(spki).digest()).decode()}"


def wrong_pins(pins: Iterable[str]) -> list[str]:
    """Those that have not the form of a pin."""
    return [pin for pin in pins if _PIN.fullmatch(pin) is None]


def pinned(chain: Iterable[x509.Certificate], pins: Iterable[str]) -> list[x509.Certificate]:
    """The certificates whose key is pinned, leaf or authority."""
    wanted = frozenset(pins)
    return [certificate for certificate in chain if pin_of(certificate) in wanted]
