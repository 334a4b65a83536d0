"""A real Envoy as a mesh's sidecar: what it appends is believed, what its caller wrote is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from authsvc.cli.demo_envoy import find_envoy
from authsvc.v1 import authz_pb2, types_pb2
from tests.support.embedded import Caller, Refused
from tests.support.pki import Authority
from tests.support.ports import free_port
from tests.support.process import serving
from tests.support.servers import running
from tests.support.transports import TRANSPORTS, skip_where_missing

OWN, SHOP = "spiffe://prod.example/ns/auth/sa/authsvc", "spiffe://prod.example/ns/shop/sa/orders"
STRANGER = "spiffe://prod.example/ns/shop/sa/stranger"
XFCC = "x-forwarded-client-cert"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@contextmanager
def sidecar(folder: Path, authority: Authority, target: str) -> Iterator[str]:
    """An Envoy that demands certificates and passes on, as Istio's does for a workload; gives its address."""
    envoy = find_envoy()
    assert envoy is not None
    paths = {name: folder / f"sidecar-{name}" for name in ("certificate", "key", "ca", "config")}
    certificate, key = authority.issue(OWN, "localhost")
    for name, content in (("certificate", certificate), ("key", key), ("ca", authority.pem)):
        paths[name].write_bytes(content)
    port = free_port()
    paths["config"].write_text(json.dumps(_config(paths, port, target)))
    with running(
        [envoy, "-c", paths["config"], "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"],
        log=folder / "sidecar.log",
        ready=lambda _server: _listens(authority, port),
    ):
        yield f"localhost:{port}"


def _config(paths: dict[str, Path], port: int, target: str) -> dict[str, object]:
    host, _, target_port = target.rpartition(":")
    certificates = [
        {"certificate_chain": {"filename": str(paths["certificate"])}, "private_key": {"filename": str(paths["key"])}}
    ]
    tls = {
        "@type": TLS,
        "require_client_certificate": True,
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_certificates": certificates,
            "validation_context": {"trusted_ca": {"filename": str(paths["ca"])}},
        },
    }
    manager = {
        "@type": HTTP,
        "stat_prefix": "inbound",
        "codec_type": "HTTP2",
        "forward_client_cert_details": "APPEND_FORWARD",
        "set_current_client_cert_details": {"subject": True, "dns": True, "uri": True},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "inbound",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "authsvc"}}],
                }
            ]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [
                        {
                            "transport_socket": {"name": "tls", "typed_config": tls},
                            "filters": [{"name": "http", "typed_config": manager}],
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "authsvc",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": OPTIONS,
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "authsvc",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, target_port)}}]}],
                    },
                }
            ],
        }
    }


def _address(host: str, port: str) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _credentials(authority: Authority, name: str) -> grpc.ChannelCredentials:
    certificate, private = authority.issue(name)
    return grpc.ssl_channel_credentials(authority.pem, private, certificate)


def _listens(authority: Authority, port: int) -> bool:
    with grpc.secure_channel(f"localhost:{port}", _credentials(authority, STRANGER)) as channel:
        try:
            grpc.channel_ready_future(channel).result(0.5)
        except grpc.FutureTimeoutError:
            return False
    return True


@pytest.mark.standard("S12", "U1")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_service_knows_whom_a_real_sidecar_verified(tmp_path: Path, transport: str) -> None:
    skip_where_missing(transport)
    authority, data = Authority(), tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "authsvc.toml").write_text(f'[[server.principals]]\npeer = "{SHOP}"\nclient_id = "orders"\n')
    settings = {"server.tls.mode": "mesh", "server.trust_domain": "prod.example", "server.transport": transport}
    with serving(data, settings) as service:
        service.create_client("orders")
        service.apply()
        with sidecar(tmp_path, authority, service.grpc) as address:
            for forged in ("", f"URI={SHOP}", f"By={OWN};URI={SHOP}"):
                assert _decides(address, authority, SHOP, forged)
                assert not _decides(address, authority, STRANGER, forged)
            # What opens a quotation in front of the sidecar's word only makes nobody of its writer.
            for forged in ('"', f'"URI={SHOP}', f'URI={SHOP};x="'):
                assert not _decides(address, authority, STRANGER, forged)


def _decides(address: str, authority: Authority, name: str, forged: str) -> bool:
    """Whether the caller is known."""
    metadata = ((XFCC, forged),) if forged else ()
    check = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
    with grpc.secure_channel(address, _credentials(authority, name)) as channel:
        try:
            answer = Caller(channel)("AuthzService/Check", check, metadata=metadata)
        except Refused as refused:
            if refused.code is grpc.StatusCode.UNAUTHENTICATED:
                return False
            raise
    return bool(answer.decision == types_pb2.DECISION_ALLOW)
