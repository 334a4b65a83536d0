"""Who the peer is, from the header `x-forwarded-client-cert` (XFCC) that an Envoy in front wrote.

Owns: reading XFCC of our own listener and of a mesh's sidecar. May import: `core`, `cryptography`. A client's own
header is never believed: our listener replaces it (SANITIZE_SET), a sidecar appends to it, and grpcio's transport
looks at it behind a sidecar only (STANDARDS S12).
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from cryptography import x509

from authsvc.core.addresses import is_loopback_address
from authsvc.core.errors import Unauthenticated

HEADER = "x-forwarded-client-cert"
SPIFFE = "spiffe://"
BESIDE_SIDECAR = "in server.tls.mode mesh only the sidecar calls this port, from loopback"
"""What a caller is told who came around it."""

_ELEMENT = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^",])*')
_PAIR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^;,"]*)(;|\Z)')


@lru_cache(maxsize=4096)
def of_certificate(header: bytes) -> tuple[str, ...]:
    """SPIFFE ids and DNS names of the client certificate that our own listener put whole into its one element.

    Read from the certificate, because Envoy writes names as they are: a DNS name `a;URI=spiffe://b` would read as two.
    Nobody where there is anything else. A DNS name that is written like a SPIFFE id stays a DNS name.
    """
    pairs = _pairs(header.decode("utf-8", "replace"))
    encoded = [value for key, value in pairs if key == "Cert"]
    if len(encoded) != 1:
        return ()
    try:
        certificate = x509.load_pem_x509_certificate(unquote_to_bytes(encoded[0]))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    dns = names.get_values_for_type(x509.DNSName)
    return (*(uri for uri in uris if uri.startswith(SPIFFE)), *(f"dns:{name}" for name in dns))


def of_sidecar(address: str, header: bytes) -> tuple[str, ...]:
    """Whom the sidecar of this machine saw: the last element, which it appended, whatever stands before.

    Raises Unauthenticated where the caller came around the sidecar, that is from another machine.
    """
    if not is_loopback_address(address):
        raise Unauthenticated(BESIDE_SIDECAR)
    return _of_last_element(header)


@lru_cache(maxsize=4096)
def _of_last_element(header: bytes) -> tuple[str, ...]:
    """Its SPIFFE id, else its DNS names; nobody where it is malformed or names two ids."""
    text = header.decode("utf-8", "replace")
    at = 0
    while True:
        found = _ELEMENT.match(text, at)
        assert found is not None
        if found.end() == len(text):
            break
        if text[found.end()] != ",":
            return ()
        at = found.end() + 1
    pairs = _pairs(found[0])
    # Envoy writes one, empty where there is none. A second one is a name of the certificate that only looks like it.
    uris = [value for key, value in pairs if key == "URI"]
    if len(uris) > 1:
        return ()
    if uris and uris[0]:
        return (uris[0],) if uris[0].startswith(SPIFFE) else ()
    return tuple(f"dns:{value}" for key, value in pairs if key == "DNS")


def _pairs(element: str) -> list[tuple[str, str]]:
    """`key=value;...` of one element; nothing where it is anything else."""
    pairs, at = [], 0
    while at < len(element):
        found = _PAIR.match(element, at)
        if found is None:
            return []
        key, value, at = found[1], found[2], found.end()
        pairs.append((key, re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value))
    return pairs
