"""What versions and suites the listeners of a running service agree to (STANDARDS U1)."""

from __future__ import annotations

import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.support.pki import Authority
from tests.support.process import serving
from tests.support.tls_scan import known_suites, suites, versions
from tests.support.transports import TRANSPORTS, skip_where_missing

NAMES = ("localhost", "127.0.0.1")


@contextmanager
def weak(folder: Path) -> Iterator[str]:
    """A listener that agrees to whatever OpenSSL can."""
    certificate, key = Authority().issue(*NAMES, with_rsa=True)
    (folder / "weak.pem").write_bytes(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "weak.pem")
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True):
                        pass
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_the_scanner_finds_what_is_weak(tmp_path: Path) -> None:
    with weak(tmp_path) as address:
        assert {"TLSv1.2", "TLSv1.3"} < versions(address)
        assert {"AES128-SHA", "ECDHE-RSA-AES128-SHA", "AES128-GCM-SHA256"} < suites(address)


@pytest.mark.standard("U1")
@pytest.mark.parametrize("min_version", ["1.3", "1.2"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_only_new_versions_and_forward_secret_aead_suites_are_spoken(
    tmp_path: Path, transport: str, min_version: str
) -> None:
    skip_where_missing(transport)
    authority = Authority()
    settings = authority.write(tmp_path, *NAMES, with_rsa=min_version == "1.2")
    del settings["server.client_ca"]
    settings["server.transport"] = transport
    if min_version != "1.3":
        settings["server.tls.min_version"] = min_version
    trusted = grpc.ssl_channel_credentials(authority.pem)
    with serving(tmp_path / "data", settings, credentials=trusted) as service:
        for address in (service.grpc, service.http):
            if min_version == "1.3":
                assert versions(address) == {"TLSv1.3"}
                continue
            assert versions(address) == {"TLSv1.2", "TLSv1.3"}
            agreed = suites(address)
            assert agreed
            assert all(name.startswith("ECDHE-") for name in agreed)
            assert all("GCM" in name or "CHACHA20" in name for name in agreed)
            assert len(known_suites()) > 2 * len(agreed)
