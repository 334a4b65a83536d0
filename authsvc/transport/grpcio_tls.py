"""TLS of grpcio's server.

Owns: `credentials`. May import: grpcio, `transport.tls`.
"""

from __future__ import annotations

import grpc

from authsvc.transport.tls import LiveTls, TlsMaterial


def credentials(tls: LiveTls) -> grpc.ServerCredentials:
    """What is shown at each handshake: the newest of `tls`."""
    shown = tls.current

    def newer() -> grpc.ServerCertificateConfiguration | None:
        """Asked at each handshake."""
        nonlocal shown
        current = tls.current
        if current is shown:
            return None
        shown = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        newer,  # type: ignore[arg-type]  # None is "unchanged", which the stubs do not know
        # Optional client certificates do not exist here: grpcio asks for them always or never.
        require_client_authentication=shown.client_ca is not None,
    )


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.chain)], root_certificates=material.client_ca
    )
