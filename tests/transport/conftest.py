"""A loop in a thread, and certificates with SPIFFE names, which trustme does not make."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from authsvc.bootstrap.certificates import TlsFiles

SPIFFE = "spiffe://prod.example/ns/shop/sa/orders"
DAY = dt.timedelta(days=1)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs beside the test."""
    running = asyncio.new_event_loop()
    thread = threading.Thread(target=running.run_forever)
    thread.start()
    yield running
    running.call_soon_threadsafe(running.stop)
    thread.join(5)
    running.close()


class Authority:
    """A certificate authority."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
        self._certificate = self._build(self._name, self._key.public_key(), [], is_authority=True)
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, *names: x509.GeneralName) -> tuple[bytes, bytes]:
        """A key and a certificate for it, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "leaf")])
        certificate = self._build(subject, key.public_key(), names, is_authority=False)
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return text, certificate.public_bytes(serialization.Encoding.PEM)

    def _build(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[x509.GeneralName],
        *,
        is_authority: bool,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


@dataclass(frozen=True)
class Certificates:
    """A server's files, and key and certificate of a client of the same CA and of one of another."""

    files: TlsFiles
    ca: bytes
    client: tuple[bytes, bytes]
    stranger: tuple[bytes, bytes]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once."""
    folder = tmp_path_factory.mktemp("tls")
    authority, other = Authority(), Authority()
    files = TlsFiles(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    write_server(files, authority)
    (folder / "ca.pem").write_bytes(authority.pem)
    # DNS names that are written like SPIFFE ids, on purpose.
    dns = ("orders.shop", "spiffe://evil/x", "a;URI=spiffe://evil/x")
    names = (x509.UniformResourceIdentifier(SPIFFE), *(x509.DNSName(name) for name in dns))
    return Certificates(files, authority.pem, authority.issue(*names), other.issue(*names))


def write_server(files: TlsFiles, authority: Authority) -> None:
    """Put a new key and certificate for localhost in place."""
    key, certificate = authority.issue(x509.DNSName("localhost"))
    files.key.touch(mode=0o600)
    files.key.write_bytes(key)
    files.certificate.write_bytes(certificate)


@pytest.fixture(scope="session")
def plain_files(certificates: Certificates) -> TlsFiles:
    """The same server certificate, no client certificate asked for."""
    return TlsFiles(Path(certificates.files.certificate), Path(certificates.files.key))
