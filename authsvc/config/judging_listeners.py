"""What single settings of `server` cannot show: who listens where, in which mode of TLS, for whom.

Owns: every rule over addresses, TLS and peers. May import: `core`. Each fault names the setting that mends it.
"""

from __future__ import annotations

import re

from authsvc.config.settings import LOOPBACK, Server, TlsMode, is_loopback, split_listen
from authsvc.core.addresses import is_address
from authsvc.core.errors import FieldViolation, InvalidRequest
from authsvc.core.patterns import resource_pattern_fault
from authsvc.core.rates import parse_rate

_BEYOND = "self_signed or files (behind a sidecar mesh; insecure is plaintext)"
_DNS_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\Z")
_PEER = re.compile(r"spiffe://[a-z0-9._-]+/[^\s]+\Z|dns:[^\s/]+\Z")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z")


def judge_listeners(server: Server, faults: list[FieldViolation]) -> None:
    """Addresses, and what `server.tls.mode` needs for them."""
    for name in ("listen", "http_listen", "ops_listen"):
        address = getattr(server, name)
        try:
            split_listen(address)
        except ValueError as error:
            faults.append(FieldViolation(f"server.{name}", str(error)))
            continue
        if name != "ops_listen" and server.tls.mode is TlsMode.UNSET and not is_loopback(address):
            faults.append(
                FieldViolation(f"server.{name}", f"`{address}` is not loopback: set server.tls.mode to {_BEYOND}")
            )
    _judge_tls(server, faults)


def judge_peers(server: Server, faults: list[FieldViolation]) -> None:
    """Peers that are named can be known."""
    mesh = server.tls.mode is TlsMode.MESH
    known = mesh or server.client_ca is not None
    needed = "needs server.client_ca, or server.tls.mode mesh"
    if server.principals and not known:
        faults.append(FieldViolation("server.principals", needed))
    for index, principal in enumerate(server.principals):
        _judge_peer(f"server.principals[{index}].peer", principal.peer, faults)
        if not principal.client_id:
            faults.append(FieldViolation(f"server.principals[{index}].client_id", "is required"))
    for index, proxy in enumerate(server.proxies):
        setting = f"server.proxies[{index}].peer"
        if proxy.peer != LOOPBACK:
            if proxy.peer and not known:
                faults.append(FieldViolation(setting, needed))
            _judge_peer(setting, proxy.peer, faults)
        elif mesh:
            faults.append(FieldViolation(setting, "is every caller behind a sidecar: name SPIFFE ids in mode mesh"))
    try:
        parse_rate(server.auth_failures, "server.auth_failures")
    except InvalidRequest as error:
        faults.extend(error.violations)


def _judge_peer(setting: str, peer: str, faults: list[FieldViolation]) -> None:
    if not peer:
        faults.append(FieldViolation(setting, "is required"))
    elif not _PEER.match(peer):
        # A certificate of any authority could bear it, were the trust domain a wildcard.
        faults.append(FieldViolation(setting, f"`{peer}` is neither spiffe://TRUST-DOMAIN/PATH nor dns:NAME"))
    elif (fault := resource_pattern_fault(peer)) is not None:
        faults.append(FieldViolation(setting, fault))


def _judge_tls(server: Server, faults: list[FieldViolation]) -> None:
    tls = server.tls
    for name in ("certificate", "key"):
        given = getattr(tls, name) is not None
        if given != (tls.mode is TlsMode.FILES):
            text = "goes with server.tls.mode files" if given else "is required where server.tls.mode is files"
            faults.append(FieldViolation(f"server.tls.{name}", text))
    if tls.names and tls.mode is not TlsMode.SELF_SIGNED:
        faults.append(FieldViolation("server.tls.names", "goes with server.tls.mode self_signed"))
    faults.extend(
        FieldViolation(f"server.tls.names[{index}]", f"`{name}` is neither a DNS name nor an IP address")
        for index, name in enumerate(tls.names)
        if not _DNS_NAME.match(name) and not is_address(name)
    )
    if server.client_ca is not None and not tls.mode.speaks_tls:
        faults.append(FieldViolation("server.client_ca", "needs server.tls.mode files or self_signed"))
    if not _TRUST_DOMAIN.match(server.trust_domain):
        faults.append(FieldViolation("server.trust_domain", "is not a SPIFFE trust domain such as cluster.local"))
