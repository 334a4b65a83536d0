"""A small scanner of TLS: which versions and which suites a listener agrees to."""

from __future__ import annotations

import socket
import ssl
import warnings

OLD = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)
_ALL = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"


def versions(address: str) -> set[str]:
    """The versions that the listener speaks."""
    found = (_agreed(address, version, _ALL) for version in (*OLD, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3))
    return {agreed[1] for agreed in found if agreed is not None}


def suites(address: str) -> set[str]:
    """The suites of TLS 1.2 that the listener agrees to, each of OpenSSL's offered alone."""
    found = (_agreed(address, ssl.TLSVersion.TLSv1_2, f"{name}:@SECLEVEL=0") for name in known_suites())
    return {agreed[0] for agreed in found if agreed is not None}


def known_suites() -> list[str]:
    """Every suite of TLS 1.2 and before that this OpenSSL can offer, the weak ones too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers(_ALL)
    return [suite["name"] for suite in context.get_ciphers() if suite["protocol"] != "TLSv1.3"]


def _agreed(address: str, version: ssl.TLSVersion, offered: str) -> tuple[str, str] | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.set_ciphers(offered)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            agreed = secure.cipher()
    except (ssl.SSLError, ConnectionError):
        return None
    assert agreed is not None
    return agreed[0], secure.version() or agreed[1]
