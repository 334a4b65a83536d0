"""What the loader takes for a certificate that can serve, the transports serve."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from authsvc.bootstrap.certificates import TlsFiles
from tests.support.pki import live
from tests.support.transports import TRANSPORTS, do, serving, skip_where_missing

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
DAY = dt.timedelta(days=1)


def _certificate(
    name: str, key: PrivateKey, issuer: str, signer: PrivateKey, *, authority: bool = False
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer)]
    return (
        x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(signer, hashes.SHA256())
    )


@pytest.mark.standard("U1")
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 2048),
        lambda: rsa.generate_private_key(65537, 3072),
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["RSA-2048", "RSA-3072", "P-256", "P-384"],
)
def test_each_kind_of_key_is_served_with_a_chain(
    tmp_path: Path, transport: str, make: Callable[[], PrivateKey]
) -> None:
    skip_where_missing(transport)
    root, between = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    key = make()
    authority = _certificate("root", root, "root", root, authority=True)
    middle = _certificate("between", between, "root", root, authority=True)
    leaf = _certificate("leaf", key, "between", between)
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    pems = [one.public_bytes(serialization.Encoding.PEM) for one in (leaf, middle, authority)]
    # Text beside the PEM, as `openssl x509 -text` leaves it.
    files.certificate.write_bytes("Zertifikat für localhost\n".encode() + pems[0] + b"\n# between\n" + pems[1])
    files.key.touch(mode=0o600)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    with serving(transport, live(files)) as server:
        trusted = grpc.ssl_channel_credentials(pems[2])
        with grpc.secure_channel(f"localhost:{server.port}", trusted) as channel:
            assert do(channel, "who")
