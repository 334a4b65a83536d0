"""A certificate of the service's own making, for clients that pin its key (`server.tls.mode` self_signed).

Owns: key and certificate in the data directory, and when the certificate is made anew. May import: everything. The key
stays for as long as its file does, so that a pin outlives every renewal; removing the file makes another.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from authsvc.bootstrap.certificates import CERTIFICATE, KEY, TlsFiles, private_key
from authsvc.config import Config, is_loopback, split_listen
from authsvc.core.addresses import is_address
from authsvc.core.errors import InvalidRequest
from authsvc.storage.secret_files import write_secret
from authsvc.transport.tls import TlsMaterial

CERTIFICATE_FILE, KEY_FILE = "tls.crt", "tls.key"
LIFE = dt.timedelta(days=90)
RENEW_S = 30 * 86_400
"""How much of its life is left when a certificate is made anew, in seconds."""
CLOCKS = dt.timedelta(hours=1)
"""How far a client's clock may be behind."""

_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """Makes certificate and key where they are missing, and the certificate anew in time and for other names."""

    directory: Path
    names: tuple[str, ...]
    client_ca: Path | None = None

    @property
    def certificate(self) -> Path:
        """Its file."""
        return self.directory / CERTIFICATE_FILE

    @property
    def key(self) -> Path:
        """Its file, mode 0600."""
        return self.directory / KEY_FILE

    def __call__(self, now: int) -> TlsMaterial:
        """What the files hold, made before where need be; raises InvalidRequest where they cannot be."""
        if not self.key.exists():
            fresh = ec.generate_private_key(ec.SECP256R1())
            pem = fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            # Where another process was faster, its key stays.
            write_secret(self.key, pem, KEY)
        if not self._serves(now):
            pem = self._issue(private_key(self.key), now).public_bytes(Encoding.PEM)
            write_secret(self.certificate, pem, CERTIFICATE, replace=True)
        return TlsFiles(self.certificate, self.key, self.client_ca)(now)

    def _serves(self, now: int) -> bool:
        """Whether the certificate that is there is of the key and these names, and has time left."""
        try:
            held = TlsFiles(self.certificate, self.key)(now)
        except InvalidRequest:
            return False
        return held.not_before <= now < held.not_after - RENEW_S and _names_in(held.chain) == self.names

    def _issue(self, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, now: int) -> x509.Certificate:
        moment = dt.datetime.fromtimestamp(now, dt.UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authsvc")])
        return (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(moment - CLOCKS)
            .not_valid_after(moment + LIFE)
            .add_extension(x509.SubjectAlternativeName([_general(one) for one in self.names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(key, hashes.SHA256())
        )


def self_signed(config: Config, directory: Path) -> SelfSigned:
    """For the names by which the configured listeners can be reached."""
    server = config.server
    return SelfSigned(directory, _names((server.listen, server.http_listen), server.tls.names), server.client_ca)


def _names(listens: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    found: list[str] = []
    for listen in listens:
        host, _ = split_listen(listen)
        if is_address(host) and ipaddress.ip_address(host).is_unspecified:
            found += [socket.gethostname(), *_HERE]
        else:
            found += [host, *(_HERE if is_loopback(listen) else ())]
    # As the certificate writes them: an address that is spelt otherwise would look like another name for ever.
    return tuple(dict.fromkeys(str(_general(name).value) for name in (*found, *more)))


@lru_cache(maxsize=4)
def _names_in(chain: bytes) -> tuple[str, ...]:
    names = x509.load_pem_x509_certificate(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def _general(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)
