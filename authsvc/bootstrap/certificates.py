"""The server's certificates: where they come from, and whether they can serve.

Owns: what is wrong with a certificate, a key, a CA bundle, in one line that names the setting. May import: everything.
When they are looked at again is `transport.tls`'s business; there a fault keeps those before, at start it ends the
start.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from authsvc.config import Config, TlsMode, TlsVersion
from authsvc.core.errors import InvalidRequest
from authsvc.storage import secret_files
from authsvc.telemetry import Gauge
from authsvc.transport.tls import LiveTls, Tell, TlsMaterial, server_context

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
        key = _private_key(self.key)
        certificates = _certificates(self.certificate, CERTIFICATE)
        public = certificates[0].public_key()
        if public != key.public_key():
            raise InvalidRequest.of(KEY, f"{self.key} is not the key of the certificate in {self.certificate}")
        trusted = _certificates(self.client_ca, CLIENT_CA) if self.client_ca is not None else []
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        material = TlsMaterial(
            # Written anew: files may hold text beside the PEM.
            chain=_pem(certificates),
            key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            client_ca=_pem(trusted) if trusted else None,
            not_before=max(int(certificate.not_valid_before_utc.timestamp()) for certificate in certificates),
            not_after=min(int(certificate.not_valid_after_utc.timestamp()) for certificate in certificates),
            client_ca_not_after=max((int(one.not_valid_after_utc.timestamp()) for one in trusted), default=None),
            pin=f"sha256/{base64.b64encode(hashlib.sha256(spki).digest()).decode()}",
        )
        try:
            server_context(material, TlsVersion.TLS_1_2)
        except ssl.SSLError:
            raise InvalidRequest.of(CERTIFICATE, f"{self.certificate} and {self.key} do not load together") from None
        return material


def tls_files(config: Config) -> TlsFiles | None:
    """The files that the configuration names, None without TLS."""
    tls = config.server.tls
    if tls.mode is TlsMode.UNSET or tls.certificate is None or tls.key is None:
        return None
    return TlsFiles(tls.certificate, tls.key, config.server.client_ca)


def live_tls(config: Config, now: Callable[[], int], tell: Tell | None = None) -> LiveTls | None:
    """The certificates in use, None without TLS; raises InvalidRequest naming the setting at fault.

    Of several processes of one service one tells, the others follow in silence.
    """
    files = tls_files(config)
    if files is None:
        return None
    minimum = config.server.tls.min_version
    return LiveTls(files, now, minimum=minimum) if tell is None else LiveTls(files, now, tell=tell, minimum=minimum)


def _private_key(path: Path) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    content = secret_files.read_secret(path, KEY)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        raise InvalidRequest.of(KEY, f"{path} holds no unencrypted private key in PEM") from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= LEAST_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, CURVES):
        return key
    what = f"{path} is neither RSA of {LEAST_RSA_BITS} bits or more nor ECDSA on P-256 or P-384"
    raise InvalidRequest.of(KEY, what)


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _certificates(path: Path, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise InvalidRequest.of(setting, f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise InvalidRequest.of(setting, f"{path} holds no certificate in PEM") from None


def tls_gauges(tls: Callable[[], LiveTls]) -> tuple[Gauge, ...]:
    """What operators watch of certificates; `tls` is asked for when somebody looks."""
    return (
        Gauge(
            "authsvc_tls_certificate_remaining_seconds",
            "Until the certificate in use ends, negative afterwards.",
            lambda: tls().remaining(),
        ),
        Gauge(
            "authsvc_tls_client_ca_remaining_seconds",
            "Until the last certificate of the client CA ends; infinite without one.",
            lambda: tls().client_ca_remaining(),
        ),
        Gauge(
            "authsvc_tls_files_refused",
            "1 while the certificate files hold what cannot be used, so that those before stay in use.",
            lambda: float(bool(tls().fault)),
        ),
    )
