"""From the configuration to the certificates in use.

Owns: which mode of TLS takes its certificates from where, and what operators watch of them. May import: everything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from authsvc.bootstrap.certificates import TlsFiles
from authsvc.bootstrap.self_signed import SelfSigned, self_signed
from authsvc.config import Config, TlsMode
from authsvc.telemetry import Gauge
from authsvc.transport.tls import LiveTls, Tell


def certificates(config: Config, directory: Path) -> TlsFiles | SelfSigned | None:
    """Where the certificates are; None where this process speaks no TLS."""
    tls = config.server.tls
    if tls.mode is TlsMode.SELF_SIGNED:
        return self_signed(config, directory)
    if tls.mode is not TlsMode.FILES or tls.certificate is None or tls.key is None:
        return None
    return TlsFiles(tls.certificate, tls.key, config.server.client_ca)


def live_tls(config: Config, directory: Path, now: Callable[[], int], tell: Tell | None = None) -> LiveTls | None:
    """The certificates in use, None where this process speaks no TLS.

    Raises InvalidRequest naming the setting at fault. Of several processes of one service one tells, the others follow
    in silence.
    """
    load = certificates(config, directory)
    if load is None:
        return None
    minimum = config.server.tls.min_version
    return LiveTls(load, now, minimum=minimum) if tell is None else LiveTls(load, now, tell=tell, minimum=minimum)


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
