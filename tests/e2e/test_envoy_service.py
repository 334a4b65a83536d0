"""A real Envoy before the whole service: policy, tokens and revocation as people use them, and peers by certificate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from authsvc import config
from authsvc.bootstrap.certificates import TlsFiles
from authsvc.cli.child import throw_away_service
from authsvc.cli.demo_envoy import EnvoySetup, EnvoyTls, echo_upstream, running_envoy
from authsvc.cli.session import Session, find_target
from authsvc.v1 import client_admin_pb2, policy_admin_pb2, token_pb2
from tests.api.envoy_world import World
from tests.support.embedded import Embedded, embedded
from tests.support.envoy import Answered, send, serving
from tests.support.pki import Authority, live

POLICY = """
version: 1
permissions: {"orders:read": {}, "orders:write": {}}
roles:
  viewer: {allow: ["orders:read"]}
bindings:
  - {subject: "client:shop", role: viewer, tenant: acme, resource: "orders/eu-*"}
scopes: {"orders.read": ["orders:read"], "orders.write": ["orders:write"]}
routes:
  - {name: read, match: {method: GET, path: "/v1/orders/{id}"},
     permission: "orders:read", resource: "orders/{id}", audience: orders, limits: [per_client]}
  - {name: write, match: {method: POST, path: "/v1/orders"}, permission: "orders:write", audience: orders}
limits:
  per_client: {domain: api, match: {client_id: "*", route: read}, rate: 5/1h}
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Embedded]:
    tmp_path.chmod(0o700)
    with embedded(tmp_path) as running:
        running.apply(POLICY)
        yield running


@contextmanager
def client_of(authsvc: str, tls: EnvoyTls | None = None) -> Iterator[Callable[..., Answered]]:
    """Sends requests with a token through an Envoy."""
    with (
        echo_upstream() as upstream,
        running_envoy(EnvoySetup(authsvc, upstream, timeout="5s", tls=tls)) as envoy,
    ):
        yield lambda token, target="/v1/orders/eu-7", method="GET": send(
            envoy.url, method, target, [("Authorization", f"Bearer {token}")]
        )


@pytest.mark.standard("E7", "J21")
def test_what_must_be_seen_200_403_429_and_401_once_revoked(service: Embedded) -> None:
    secret = service.create_client("shop", audience=["orders"], scope=["orders.read"], tenants=["acme"])
    token = service.token("shop", secret)
    with client_of(service.addresses.grpc) as ask:
        allowed = ask(token)
        assert allowed.status == 200
        assert allowed.reached("x-authsvc-tenant") == ["acme"]
        assert ask(token, "/v1/orders/us-7").status == 403
        assert ask(token, "/v1/orders", "POST").status == 403
        assert [ask(token).status for _ in range(5)] == [200] * 4 + [429]
        service.call("TokenService/RevokeToken", token_pb2.RevokeTokenRequest(token=token), service.admin())
        assert ask(token).status == 401
        assert ask(service.token("shop", secret)).status == 429
        assert ask(service.admin()).status == 401  # a token for the service itself is none for orders


@pytest.mark.standard("E2", "E7", "U5")
def test_with_the_service_killed_envoy_answers_503() -> None:
    with throw_away_service() as child, Session(find_target("", child.credentials)) as session:
        wanted = policy_admin_pb2.ApplyPolicyRequest(policy=POLICY)
        session.call("PolicyAdminService/ApplyPolicy", wanted, policy_admin_pb2.ApplyPolicyResponse)
        created = session.call(
            "ClientAdminService/CreateClient",
            client_admin_pb2.CreateClientRequest(
                client_id="shop", audience=["orders"], scope=["orders.read"], tenants=["acme"]
            ),
            client_admin_pb2.CreateClientResponse,
        )
        token = session.issue("shop", created.client_secret, "orders").access_token
        with client_of(child.grpc) as ask:
            assert ask(token).status == 200
            child.kill()
            assert ask(token).status == 503


@pytest.mark.standard("E10", "U1")
def test_a_proxy_is_known_by_its_certificate_and_another_of_the_same_authority_is_denied(tmp_path: Path) -> None:
    authority = Authority()
    named = config.Proxy(peer="spiffe://td/ns/edge/**", audiences=("orders",))
    world = World(proxies=[named], monotonic=time.monotonic)
    folder = tmp_path / "server"
    folder.mkdir()
    settings = authority.write(folder, "authsvc.test")
    files = TlsFiles(
        Path(settings["server.tls.certificate"]), Path(settings["server.tls.key"]), Path(settings["server.client_ca"])
    )
    told = {}
    with serving(world, live(files)) as authsvc:
        for identity in ("spiffe://td/ns/edge/sa/envoy", "spiffe://td/ns/other/sa/x", "edge.test"):
            with client_of(authsvc, _envoy_tls(authority, tmp_path, identity)) as ask:
                told[identity] = ask(world.token(), "/v1/orders/7").status
    assert list(told.values()) == [200, 403, 403]


def _envoy_tls(authority: Authority, folder: Path, identity: str) -> EnvoyTls:
    certificate, key = authority.issue(identity)
    tls = EnvoyTls(folder / "ca", folder / "certificate", folder / "key", "authsvc.test")
    for path, content in ((tls.ca, authority.pem), (tls.certificate, certificate), (tls.key, key)):
        path.write_bytes(content)
    return tls
