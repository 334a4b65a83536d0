"""The server's certificate files, looked at before anybody listens.

Owns: which faults of them end a start, and which are only said. May import: everything. Later renewals are the
transports' business: they keep the last pair that loads.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authsvc.config import Config, TlsMode
from authsvc.core.errors import InvalidRequest
from authsvc.storage import secret_files
from authsvc.transport.listening import TlsFiles

_CERTIFICATE, _KEY, _CLIENT_CA = "server.tls.certificate", "server.tls.key", "server.client_ca"


def tls_files(config: Config) -> TlsFiles | None:
    """The files of mode `files`, None without TLS.

    Raises InvalidRequest naming the setting where one cannot be read or does not load, and where the key is not the
    certificate's: the listeners would say no more than that they cannot listen.
    """
    tls = config.server.tls
    if tls.mode is TlsMode.UNSET or tls.certificate is None or tls.key is None:
        return None
    try:
        key = load_pem_private_key(secret_files.read_secret(tls.key, _KEY), password=None)
    except (ValueError, TypeError):
        raise InvalidRequest.of(_KEY, f"{tls.key} holds no unencrypted private key in PEM") from None
    if _certificates(tls.certificate, _CERTIFICATE)[0].public_key() != key.public_key():
        raise InvalidRequest.of(_KEY, f"{tls.key} is not the key of the certificate in {tls.certificate}")
    if config.server.client_ca is not None:
        _certificates(config.server.client_ca, _CLIENT_CA)
    return TlsFiles(tls.certificate, tls.key, config.server.client_ca)


def untimely(files: TlsFiles, now: int) -> list[str]:
    """What is wrong with the certificates' dates at `now` (unix seconds), a line each.

    Not an end of the start: a renewal may be on its way, and is picked up without another one.
    """
    moment = dt.datetime.fromtimestamp(now, dt.UTC)
    found = [(_CERTIFICATE, certificate) for certificate in _certificates(files.certificate, _CERTIFICATE)]
    if files.client_ca is not None:
        found += [(_CLIENT_CA, certificate) for certificate in _certificates(files.client_ca, _CLIENT_CA)]
    faults = []
    for setting, certificate in found:
        if certificate.not_valid_after_utc <= moment:
            faults.append(f"{setting}: expired at {certificate.not_valid_after_utc.isoformat()}; its peers refuse it")
        elif certificate.not_valid_before_utc > moment:
            faults.append(f"{setting}: not valid before {certificate.not_valid_before_utc.isoformat()}")
    return faults


def _certificates(path: Path, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise InvalidRequest.of(setting, f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise InvalidRequest.of(setting, f"{path} holds no certificate in PEM") from None
