"""Attack: resume a TLS session to get past a client CA that was taken out since."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from authsvc.bootstrap.certificates import TlsFiles
from tests.support.pki import live
from tests.support.transports import TRANSPORTS, serving, skip_where_missing
from tests.support.waiting import wait_for
from tests.transport.conftest import Authority, write_server

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""What a client of HTTP/2 begins with, and its empty SETTINGS."""


@pytest.mark.standard("U1")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_session_of_a_client_whose_ca_is_gone_is_not_resumed(tmp_path: Path, transport: str) -> None:
    skip_where_missing(transport)
    before, after = Authority(), Authority()
    files = TlsFiles(tmp_path / "server.crt", tmp_path / "server.key", tmp_path / "ca.crt")
    write_server(files, before)
    (tmp_path / "ca.crt").write_bytes(before.pem)
    key, certificate = before.issue(x509.DNSName("orders.test"))
    (tmp_path / "client.pem").write_bytes(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(tmp_path / "client.pem")
    context.set_alpn_protocols(["h2"])
    tls = live(files)
    with serving(transport, tls) as server:
        answered, session, _ = _exchange(context, server.port)
        assert answered
        assert session is not None
        # Sessions are resumed as such: otherwise this test would prove nothing.
        assert _exchange(context, server.port, session)[2]
        (tmp_path / "ca.crt").write_bytes(after.pem)
        tls.look()
        tls.look()
        wait_for(lambda: not _exchange(context, server.port)[0], 5.0, "the client CA gone")
        answered, _, resumed = _exchange(context, server.port, session)
        assert not answered
        assert not resumed


def _exchange(
    context: ssl.SSLContext, port: int, session: ssl.SSLSession | None = None
) -> tuple[bytes, ssl.SSLSession | None, bool]:
    """What the server said first, the session it gave, and whether it resumed the one offered."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="localhost", session=session) as secure,
        ):
            secure.sendall(PREFACE)
            return secure.recv(1024), secure.session, bool(secure.session_reused)
    except (ssl.SSLError, ConnectionError):
        return b"", None, False
