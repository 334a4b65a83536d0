"""The certificates that servers present now, and the roots that follow from them and the pins.

Owns: the handshake that fetches a chain, and when it is fetched again. May import: `ssl`, `cryptography`, `core`
and the modules of this package that do no I/O. A handshake a replica, in a thread of a flight; calls wait for the first
one only.
"""

from __future__ import annotations

import logging
import math
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from authsvc.core.errors import Unavailable
from authsvc.core.pins import pin_of, pinned
from authsvc_client.flow import Flow
from authsvc_client.pins import Roots, as_pem
from authsvc_client.refreshed import Lease, Refreshed
from authsvc_client.settings import Settings

LOOK_AGAIN: Final = 10.0
"""Seconds after which the chains are fetched again while calls are made: a new certificate may be in use somewhere."""

LOST_INTERVAL: Final = 0.25
"""Seconds between fetches that lost calls cause."""

_TIMEOUT: Final = 1.0
_MOST_REPLICAS: Final = 16
_MOST_ROOTS: Final = 16

_log = logging.getLogger("authsvc_client")


class PinnedRoots:
    """The pinned certificates that the replicas present, or that the CA file holds. Those once seen stay believed."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._seen: dict[bytes, x509.Certificate] = {}
        self._roots = Roots(b"", 0)
        self._fetched = Refreshed(self._fetch, clock)
        if len(set(settings.pins)) == 1:
            _log.warning(
                "AUTHSVC_PINS holds one pin: should that key be lost or replaced, nothing is reached any more; "
                "pin the next key too, or its authority's"
            )

    def obtain(self) -> Flow[Roots]:
        """The roots; waits only where there are none. Raises Unavailable where no replica presents a pinned key."""
        return self._fetched.obtain()

    def newer(self, than: Roots) -> Flow[Roots]:
        """The roots after a call was lost, which may be because a replica has another certificate now."""
        return self._fetched.newer(than, LOST_INTERVAL)

    def _fetch(self) -> Lease[Roots]:
        found = {certificate.fingerprint(SHA256()): certificate for certificate in self._of_authorities()}
        faults: list[str] = []
        addresses = self._settings.peers
        with ThreadPoolExecutor(_MOST_REPLICAS) as pool:
            for outcome in pool.map(self._of_replica, _resolved(addresses, faults)):
                if isinstance(outcome, str):
                    faults.append(outcome)
                else:
                    found |= {certificate.fingerprint(SHA256()): certificate for certificate in outcome}
        for fault in faults:
            _log.warning("%s", fault)
        if not found and not self._seen:
            raise Unavailable("; ".join(faults) or "no replica has an address")
        if not found.keys() <= self._seen.keys():
            # The latest first, so that what falls off is what nobody presents any more.
            self._seen = dict(list({**found, **self._seen}.items())[:_MOST_ROOTS])
            self._roots = Roots(as_pem(self._seen.values()), self._roots.version + 1)
        return Lease(self._roots, LOOK_AGAIN, math.inf, math.inf)

    def _of_authorities(self) -> list[x509.Certificate]:
        path = self._settings.ca_file
        return pinned(x509.load_pem_x509_certificates(path.read_bytes()), self._settings.pins) if path else []

    def _of_replica(self, address: tuple[str, int, str]) -> list[x509.Certificate] | str:
        """Its pinned certificates, or in a line why there are none."""
        host, port, name = address
        try:
            chain = fetch_chain(self._settings, host, port, name)
        except (OSError, ValueError) as fault:
            return f"the certificate of {name} at {host}:{port} cannot be had: {fault}"
        found = pinned(chain, self._settings.pins)
        if not found and not self._of_authorities():
            presented = ", ".join(map(pin_of, chain))
            return f"{name} at {host}:{port} presents no key of AUTHSVC_PINS, but {presented}"
        return found


def fetch_chain(settings: Settings, host: str, port: int, name: str) -> list[x509.Certificate]:
    """What a server presents, leaf first, verified against the CA file where there is one; raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if settings.ca_file is not None:
        context.load_verify_locations(settings.ca_file)
    else:
        # Nothing is believed by this handshake: see `pins`.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.certificate_file is not None and settings.key_file is not None:
        context.load_cert_chain(settings.certificate_file, settings.key_file)
    with (
        socket.create_connection((host, port), _TIMEOUT) as connection,
        context.wrap_socket(connection, server_hostname=name) as speaking,
    ):
        return [x509.load_der_x509_certificate(der) for der in _presented(speaking)]


def _presented(speaking: ssl.SSLSocket) -> list[bytes]:
    """The whole chain, DER. Public from Python 3.13 on; before, the same function of the object beneath."""
    public: Any = getattr(speaking, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    beneath: Any = getattr(speaking, "_sslobj", None)
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in beneath.get_unverified_chain()]


def _resolved(peers: tuple[tuple[str, int, str], ...], faults: list[str]) -> list[tuple[str, int, str]]:
    found: dict[tuple[str, int, str], None] = {}
    for host, port, name in peers:
        try:
            for *_, sockaddr in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found[str(sockaddr[0]), port, name] = None
        except OSError as fault:
            faults.append(f"{host} has no address: {fault}")
    return list(found)[:_MOST_REPLICAS]
