"""A small certificate authority: leaves with DNS names, addresses and SPIFFE ids, on any dates."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from authsvc.bootstrap.certificates import TlsFiles
from authsvc.clock import SystemClock
from authsvc.transport.tls import LiveTls

_DAY = dt.timedelta(days=1)


class Authority:
    """Issues certificates that its `pem` verifies."""

    def __init__(self, name: str = "authsvc tests") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder(self._name, self._name, self._key.public_key(), x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 30 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: str, valid_for: dt.timedelta = _DAY, with_rsa: bool = False) -> tuple[bytes, bytes]:
        """A certificate and its private key, PEM. A name is a SPIFFE id, an IP address or a DNS name."""
        key = rsa.generate_private_key(65537, 2048) if with_rsa else ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder(self._name, x509.Name([]), key.public_key(), x509.random_serial_number())
            .not_valid_before(now - 2 * _DAY)
            .not_valid_after(now + valid_for)
            .add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM), private

    def write(self, folder: Path, *names: str, with_rsa: bool = False) -> dict[str, str]:
        """Put CA, certificate and key of a server into files; the settings that name them."""
        certificate, private = self.issue(*names, with_rsa=with_rsa)
        paths = {part: folder / part for part in ("tls.crt", "tls.key", "ca.crt")}
        paths["tls.crt"].write_bytes(certificate)
        paths["tls.key"].touch(mode=0o600)
        paths["tls.key"].write_bytes(private)
        paths["ca.crt"].write_bytes(self.pem)
        return {
            "server.tls.mode": "files",
            "server.tls.certificate": str(paths["tls.crt"]),
            "server.tls.key": str(paths["tls.key"]),
            "server.client_ca": str(paths["ca.crt"]),
        }


def live(files: TlsFiles) -> LiveTls:
    """A server's certificates in use, looked at when the test says so."""
    return LiveTls(files, SystemClock().now)


def _san(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
