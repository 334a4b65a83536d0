"""The configuration of the Envoy that carries the service itself.

Owns: the gRPC listener in front of pyvoy's filter: HTTP/2 limits, TLS, who the peer is, caps, ages. May import:
`transport`, the standard library. Pure: settings in, documents out, which `envoy --mode validate` accepts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from authsvc.config import TlsVersion
from authsvc.transport.listening import CONNECTION_AGE_SECONDS, host_and_port
from authsvc.transport.tls import SUITES, TlsMaterial

STREAMS_A_CONNECTION: Final = 1_000
CONNECTIONS: Final = 10_000
STREAM_WINDOW_BYTES: Final = 256 * 1024
CONNECTION_WINDOW_BYTES: Final = 4 * 1024 * 1024
BUFFER_BYTES: Final = 1024 * 1024
HEADERS_KIB: Final = 64
"""Above what the framing takes, which answers RESOURCE_EXHAUSTED; Envoy itself would only end the stream."""
AGE_JITTER_PERCENT: Final = 10.0
"""As grpcio's, so that callers who came together do not come back together."""
CONNECTION_IDLE_SECONDS: Final = 120.0
"""A connection without a call is told to end, or ended at once where it has said nothing. Envoy counts the connections
of all peers together and cannot share them out, so those that nobody uses must go.
"""
OPENING_TIMEOUT: Final = "5s"
"""For a handshake, and for the headers of a call from their first byte to their last."""
FLUSH_TIMEOUT: Final = "30s"
DRAIN_PAUSE: Final = "1s"
"""Between the two GOAWAYs of a graceful end: calls that are on their way meanwhile are still served."""

LISTENER: Final = "grpc"
CERTIFICATE: Final = "certificate"
CLIENT_CA: Final = "client_ca"
"""Secrets of Envoy's secret discovery, each a file of its own: Envoy takes one a file."""

_TYPE = "type.googleapis.com/envoy.extensions"
_MANAGER = f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """How the listener speaks TLS."""

    minimum: TlsVersion
    client_certificates: bool
    """Whether callers must show one."""


@dataclass(frozen=True, slots=True)
class EnvoyPlan:
    """What differs between one Envoy and another."""

    listen: str
    """`host:port`."""
    module: Path
    """pyvoy's shared object."""
    application: str
    """`module:attribute` of the ASGI application, as pyvoy imports it."""
    folder: Path
    """A folder of our own: the administration socket and the TLS secrets lie there."""
    tls: ListenerTls | None = None
    sidecar: bool = False
    """Whether callers come through a sidecar of this machine, which says who they are."""
    reuse_port: bool = False
    connection_age: float = CONNECTION_AGE_SECONDS
    connection_idle: float = CONNECTION_IDLE_SECONDS

    @property
    def admin(self) -> Path:
        """The administration socket, for the owner alone."""
        return self.folder / "admin.sock"

    def secret(self, name: str) -> Path:
        """Where a secret is to be before Envoy starts; it is read again when a file is moved to that name."""
        return self.folder / f"{name}.json"


def envoy_config(plan: EnvoyPlan) -> dict[str, Any]:
    """The whole document (JSON, which is YAML)."""
    host, port = host_and_port(plan.listen)
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": _manager(plan)}]
    }
    if plan.tls is not None:
        chain["transport_socket"] = _tls(plan, plan.tls)
        chain["transport_socket_connect_timeout"] = OPENING_TIMEOUT
    return {
        "node": {"id": "authsvc", "cluster": "authsvc"},
        "admin": {"address": {"pipe": {"path": str(plan.admin), "mode": 0o600}}},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPE}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": CONNECTIONS,
                    },
                }
            ]
        },
        "static_resources": {
            "listeners": [
                {
                    "name": LISTENER,
                    # Envoy shares ports unless told otherwise, and then an old server answers half the connections.
                    "enable_reuse_port": plan.reuse_port,
                    "per_connection_buffer_limit_bytes": BUFFER_BYTES,
                    "address": {"socket_address": _socket_address(host, port)},
                    "filter_chains": [chain],
                }
            ]
        },
    }


def _socket_address(host: str, port: int) -> dict[str, Any]:
    # Every address means IPv4 too, as it does to grpcio.
    return {"address": host, "port_value": port, **({"ipv4_compat": True} if host == "::" else {})}


def tls_secrets(material: TlsMaterial) -> dict[str, dict[str, Any]]:
    """The secrets' files by their names. Certificate and key stand in one file, so that they change in one step."""
    secrets: dict[str, dict[str, Any]] = {
        CERTIFICATE: {
            "tls_certificate": {
                "certificate_chain": {"inline_string": material.chain.decode()},
                "private_key": {"inline_string": material.key.decode()},
            }
        }
    }
    if material.client_ca is not None:
        trusted = {"trusted_ca": {"inline_string": material.client_ca.decode()}}
        secrets[CLIENT_CA] = {"validation_context": trusted}
    kind = f"{_TYPE}.transport_sockets.tls.v3.Secret"
    return {name: {"resources": [{"@type": kind, "name": name, **secret}]} for name, secret in secrets.items()}


def _manager(plan: EnvoyPlan) -> dict[str, Any]:
    return {
        "@type": _MANAGER,
        "stat_prefix": LISTENER,
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [{"name": "rows", "domains": ["*"]}]},
        "http_filters": [_application(plan)],
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        # The peer is who connected, whatever x-forwarded-for says.
        "use_remote_address": True,
        "skip_xff_append": True,
        **_forwarded(plan),
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "max_request_headers_kb": HEADERS_KIB,
        "drain_timeout": DRAIN_PAUSE,
        "request_headers_timeout": OPENING_TIMEOUT,
        # Streams are quiet for as long as nothing changes; a caller that left is looked for by the application.
        "stream_idle_timeout": "0s",
        # An answer that is complete and that the caller does not take.
        "stream_flush_timeout": FLUSH_TIMEOUT,
        "common_http_protocol_options": {
            "idle_timeout": f"{plan.connection_idle:g}s",
            "max_connection_duration": f"{plan.connection_age:g}s",
            "max_connection_duration_jitter": {"value": AGE_JITTER_PERCENT},
        },
        "http2_protocol_options": {
            "max_concurrent_streams": STREAMS_A_CONNECTION,
            "initial_stream_window_size": STREAM_WINDOW_BYTES,
            "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
            "override_stream_error_on_invalid_http_message": True,
            "connection_keepalive": {"interval": "60s", "timeout": "20s"},
        },
    }


def _forwarded(plan: EnvoyPlan) -> dict[str, Any]:
    """What becomes of `x-forwarded-client-cert`: the sidecar's stays, anybody else's is replaced by our own."""
    if plan.sidecar:
        return {"forward_client_cert_details": "ALWAYS_FORWARD_ONLY"}
    # The whole certificate: names that Envoy writes out could hold the punctuation that ends them.
    return {"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"cert": True}}


def _application(plan: EnvoyPlan) -> dict[str, Any]:
    known = {"app": plan.application, "interface": "asgi", "root_path": "", "loop": "uvloop", "lifespan": True}
    return {
        "name": "pyvoy",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": {"module": {"local": {"filename": str(plan.module)}}},
            "filter_name": "pyvoy",
            "terminal_filter": True,
            "filter_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": json.dumps(known)},
        },
    }


def _tls(plan: EnvoyPlan, tls: ListenerTls) -> dict[str, Any]:
    context: dict[str, Any] = {
        "alpn_protocols": ["h2"],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2" if tls.minimum is TlsVersion.TLS_1_2 else "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "cipher_suites": list(SUITES),
        },
        "tls_certificate_sds_secret_configs": [_discovered(plan, CERTIFICATE)],
    }
    if tls.client_certificates:
        context["validation_context_sds_secret_config"] = _discovered(plan, CLIENT_CA)
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": tls.client_certificates,
            "common_tls_context": context,
        },
    }


def _discovered(plan: EnvoyPlan, name: str) -> dict[str, Any]:
    source = {"path_config_source": {"path": str(plan.secret(name))}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}
