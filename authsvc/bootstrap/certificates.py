"""The server's certificates: where they come from, and whether they can serve.

Owns: what is wrong with a certificate, a key, a CA bundle, in one line that names the setting. May import: everything.
When they are looked at again is `transport.tls`'s business; there a fault keeps those before, at start it ends the
start.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from authsvc.config import TlsVersion
from authsvc.core.errors import InvalidRequest
from authsvc.core.pins import pin_of
from authsvc.storage import secret_files
from authsvc.transport.tls import TlsMaterial, server_context

CERTIFICATE, KEY, CLIENT_CA = "server.tls.certificate", "server.tls.key", "server.client_ca"
LEAST_RSA_BITS = 2_048
CURVES = (ec.SECP256R1, ec.SECP384R1)
"""What both transports' BoringSSL and every client of theirs speak."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; where `client_ca` is set, callers must show a certificate of it."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def __call__(self, _now: int) -> TlsMaterial:
        """What they hold. Raises InvalidRequest naming the setting where one cannot be read or does not load, where
        the key is not the certificate's, and where the world can read the key.
        """
        return _material(
            self,
            secret_files.read_secret(self.key, KEY),
            _read(self.certificate, CERTIFICATE),
            None if self.client_ca is None else _read(self.client_ca, CLIENT_CA),
        )


@lru_cache(maxsize=8)
def _material(files: TlsFiles, key_pem: bytes, chain_pem: bytes, client_ca_pem: bytes | None) -> TlsMaterial:
    """What was read, checked. It is read twice a second and differs once in weeks, so what it gave is remembered."""
    key = _private_key(key_pem, files.key)
    chain = _certificates(chain_pem, files.certificate, CERTIFICATE)
    try:
        public = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm):
        public = None
    if public is None or public != key.public_key():
        raise InvalidRequest.of(KEY, f"{files.key} is not the key of the certificate in {files.certificate}")
    trusted: list[x509.Certificate] = []
    if files.client_ca is not None and client_ca_pem is not None:
        trusted = _certificates(client_ca_pem, files.client_ca, CLIENT_CA)
    material = TlsMaterial(
        # Written anew: files may hold text beside the PEM.
        chain=_pem(chain),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        client_ca=_pem(trusted) if trusted else None,
        not_before=max(int(certificate.not_valid_before_utc.timestamp()) for certificate in chain),
        not_after=min(int(certificate.not_valid_after_utc.timestamp()) for certificate in chain),
        client_ca_not_after=max((int(one.not_valid_after_utc.timestamp()) for one in trusted), default=None),
        anchor=_pem(chain[:1]),
        pin=pin_of(chain[0]),
    )
    try:
        server_context(material, TlsVersion.TLS_1_2)
    except ssl.SSLError:
        raise InvalidRequest.of(CERTIFICATE, f"{files.certificate} and {files.key} do not load together") from None
    return material


def private_key(path: Path) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """The key that a transport can use; raises InvalidRequest where it is none, or the world can read it."""
    return _private_key(secret_files.read_secret(path, KEY), path)


def _private_key(content: bytes, path: Path) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidRequest.of(KEY, f"{path} holds no unencrypted private key in PEM") from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= LEAST_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, CURVES):
        return key
    what = f"{path} is neither RSA of {LEAST_RSA_BITS} bits or more nor ECDSA on P-256 or P-384"
    raise InvalidRequest.of(KEY, what)


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest.of(setting, f"cannot read {path}: {error.strerror}") from None


def _certificates(content: bytes, path: Path, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise InvalidRequest.of(setting, f"{path} holds no certificate in PEM") from None
