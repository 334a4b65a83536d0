"""Certificates of the service's own making, for clients that are given one or pin its key (mode self_signed).

Owns: key and certificates in the data directory, and when they are made anew. May import: everything. One key signs two
certificates of itself: an authority's, which clients hold and which stays, and the server's, which is renewed. The key
stays for as long as its file does, so that a pin outlives every renewal too; removing the file makes another.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from authsvc.bootstrap.certificates import CERTIFICATE, KEY, TlsFiles, private_key
from authsvc.config import Config, is_loopback, split_listen
from authsvc.core.addresses import is_address
from authsvc.core.errors import InvalidRequest
from authsvc.storage.secret_files import write_secret
from authsvc.transport.tls import TlsMaterial

CERTIFICATE_FILE, KEY_FILE, AUTHORITY_FILE = "tls.crt", "tls.key", "tls-ca.crt"
LIFE = dt.timedelta(days=90)
AUTHORITY_LIFE = dt.timedelta(days=7_300)
RENEW_S = 30 * 86_400
"""How much of its life is left when the server's certificate is made anew, in seconds."""
CLOCKS = dt.timedelta(hours=1)
"""How far a client's clock may be behind."""

_HERE = ("localhost", "127.0.0.1", "::1")


_AUTHORITY = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authsvc self-signed")])
_SERVER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authsvc")])
_ALWAYS = "localhost"
"""A name that both bear, so that whoever holds the authority's knows one to ask for."""
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
"""What a key may be used for, as `x509.KeyUsage` names it."""


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """Makes key and certificates where they are missing, and the server's anew in time and for other names."""

    directory: Path
    names: tuple[str, ...]
    client_ca: Path | None = None

    @property
    def certificate(self) -> Path:
        """The file of the server's certificate, with the authority's after it."""
        return self.directory / CERTIFICATE_FILE

    @property
    def authority(self) -> Path:
        """The file of the certificate for clients."""
        return self.directory / AUTHORITY_FILE

    @property
    def key(self) -> Path:
        """The key's file, mode 0600."""
        return self.directory / KEY_FILE

    def __call__(self, now: int) -> TlsMaterial:
        """What the files hold, made before where need be; raises InvalidRequest where they cannot be."""
        if not self.key.exists():
            fresh = ec.generate_private_key(ec.SECP256R1())
            pem = fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            # Where another process was faster, its key stays.
            write_secret(self.key, pem, KEY)
        anchor = self._anchor(now)
        if not self._serves(now, anchor):
            server = self._issue(_SERVER, [_general(name) for name in self.names], now, LIFE)
            write_secret(self.certificate, server + anchor, CERTIFICATE, replace=True)
        return replace(TlsFiles(self.certificate, self.key, self.client_ca)(now), anchor=anchor)

    def _anchor(self, now: int) -> bytes:
        """The authority's certificate, made where there is none of this key that will last."""
        with suppress(InvalidRequest):
            held = TlsFiles(self.authority, self.key)(now)
            if held.not_before <= now < held.not_after - LIFE.total_seconds():
                return held.chain
        made = self._issue(_AUTHORITY, [x509.DNSName(_ALWAYS)], now, AUTHORITY_LIFE)
        write_secret(self.authority, made, CERTIFICATE, replace=True)
        return made

    def _serves(self, now: int, anchor: bytes) -> bool:
        """Whether the server's certificate is of the key, the names and the authority, and has time left."""
        try:
            held = TlsFiles(self.certificate, self.key)(now)
        except InvalidRequest:
            return False
        timely = held.not_before <= now < held.not_after - RENEW_S
        return timely and held.chain.endswith(anchor) and _names_in(held.chain) == self.names

    def _issue(self, subject: x509.Name, names: list[x509.GeneralName], now: int, life: dt.timedelta) -> bytes:
        key, moment = private_key(self.key), dt.datetime.fromtimestamp(now, dt.UTC)
        is_authority = subject == _AUTHORITY
        usage = dict.fromkeys(_USAGES, False) | {"key_cert_sign" if is_authority else "digital_signature": True}
        builder = (
            x509.CertificateBuilder(_AUTHORITY, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(moment - CLOCKS)
            .not_valid_after(moment + life)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            # RFC 5280 sections 4.2.1.1 to 4.2.1.3: who verifies strictly, as Python does from 3.13 on, wants them.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(
                x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True
            )
        )
        if not is_authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


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
    return tuple(dict.fromkeys(str(_general(name).value) for name in (*found, *more, _ALWAYS)))


@lru_cache(maxsize=4)
def _names_in(chain: bytes) -> tuple[str, ...]:
    names = x509.load_pem_x509_certificate(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def _general(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)
