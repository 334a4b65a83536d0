"""What both edges need to open a channel.

Owns: the target, the channel's credentials and the metadata of a call. May import: grpc and `settings`.
"""

from __future__ import annotations

from pathlib import Path

import grpc

from authsvc_client.settings import Settings


def channel_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """TLS with the given CA (else the system's) and certificate; None for plaintext."""
    if not settings.encrypted:
        return None
    return grpc.ssl_channel_credentials(
        _content(settings.ca_file), _content(settings.key_file), _content(settings.certificate_file)
    )


def call_metadata(bearer: str) -> tuple[tuple[str, str], ...]:
    """The bearer as metadata: gRPC's call credentials refuse plaintext, which loopback and meshes speak."""
    return (("authorization", f"Bearer {bearer}"),) if bearer else ()


def _content(path: Path | None) -> bytes | None:
    return path.read_bytes() if path is not None else None
