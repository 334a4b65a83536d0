"""What both edges need to open a channel.

Owns: the channel's credentials and options, and the metadata of a call. May import: grpc, `methods`,
`pins`, `settings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from authsvc_client.methods import CHANNEL_OPTIONS
from authsvc_client.pins import Roots
from authsvc_client.settings import Settings

RETIRED_SECONDS = 60.0
"""How long a channel that another one has replaced goes on with what it carries."""


def channel_credentials(settings: Settings, roots: Roots | None) -> grpc.ChannelCredentials | None:
    """TLS with the roots (else the given CA's, else the system's) and certificate; None for plaintext."""
    if not settings.encrypted:
        return None
    believed = roots.pem if roots is not None else _content(settings.ca_file)
    return grpc.ssl_channel_credentials(believed, _content(settings.key_file), _content(settings.certificate_file))


def version_of(roots: Roots | None) -> int:
    """Which channel calls with these roots take."""
    return roots.version if roots is not None else 0


def channel_options(settings: Settings) -> list[tuple[str, Any]]:
    """The options of every channel, and the name that the server must prove."""
    name = settings.authority
    return [*CHANNEL_OPTIONS, *([("grpc.default_authority", name)] if name else [])]


def call_metadata(bearer: str) -> tuple[tuple[str, str], ...]:
    """The bearer as metadata: gRPC's call credentials refuse plaintext, which loopback and meshes speak."""
    return (("authorization", f"Bearer {bearer}"),) if bearer else ()


def _content(path: Path | None) -> bytes | None:
    return path.read_bytes() if path is not None else None
