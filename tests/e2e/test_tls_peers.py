"""Whom a client certificate makes its bearer, by the configuration's names and patterns, on both transports."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from authsvc.v1 import authz_pb2
from tests.support.embedded import Caller, Refused
from tests.support.pki import Authority
from tests.support.process import Serving, serving
from tests.support.transports import TRANSPORTS, skip_where_missing

PRINCIPALS = """
[[server.principals]]
peer = "spiffe://prod.example/ns/*/sa/web"
client_id = "alike"
[[server.principals]]
peer = "spiffe://prod.example/ns/shop/sa/web"
client_id = "named"
[[server.principals]]
peer = "dns:*.shop.test"
client_id = "alike"
"""
NAMED, ALIKE, NOBODY = "named", "alike", ""
XFCC = "x-forwarded-client-cert"


@pytest.fixture(scope="module", params=TRANSPORTS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Serving, Authority]]:
    """A service that knows peers by their certificates, and who issues them."""
    skip_where_missing(request.param)
    folder, authority = tmp_path_factory.mktemp("peers"), Authority()
    data = folder / "data"
    data.mkdir(mode=0o700)
    (data / "authsvc.toml").write_text(PRINCIPALS)
    settings = {**authority.write(folder, "127.0.0.1", "localhost"), "server.transport": request.param}
    with serving(data, settings, credentials=_credentials(authority, "first.test")) as service:
        service.create_client(NAMED, tenants=["acme"])
        service.create_client(ALIKE, tenants=["beta"])
        yield service, authority


def _credentials(authority: Authority, *names: str) -> grpc.ChannelCredentials:
    certificate, private = authority.issue(*names)
    return grpc.ssl_channel_credentials(authority.pem, private, certificate)


def who(service: Serving, credentials: grpc.ChannelCredentials, metadata: tuple[tuple[str, str], ...] = ()) -> str:
    """The client that a peer speaks as: each may name its own tenant, and no other."""
    with grpc.secure_channel(service.grpc, credentials) as channel:
        caller, codes = Caller(channel), []
        for client, tenant in ((NAMED, "acme"), (ALIKE, "beta")):
            check = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read", tenant=tenant)
            try:
                caller("AuthzService/Check", check, metadata=metadata)
            except Refused as refused:
                codes.append(refused.code)
            else:
                return client
        assert codes == [grpc.StatusCode.UNAUTHENTICATED] * 2
        return NOBODY


@pytest.mark.standard("U1", "S12")
@pytest.mark.parametrize(
    ("names", "client"),
    [
        (("spiffe://prod.example/ns/shop/sa/web",), NAMED),
        (("spiffe://prod.example/ns/other/sa/web",), ALIKE),
        (("spiffe://prod.example/ns/a/b/sa/web",), NOBODY),
        (("spiffe://prod.example/ns/other/sa/web/x",), NOBODY),
        (("spiffe://other.example/ns/shop/sa/web",), NOBODY),
        (("orders.shop.test",), ALIKE),
        (("shop.test",), NOBODY),
        (("10.0.0.1",), NOBODY),
        # The first name that is mapped decides, SPIFFE ids before DNS names.
        (("orders.shop.test", "spiffe://prod.example/ns/shop/sa/web"), NAMED),
        (("spiffe://other.example/x", "orders.shop.test"), ALIKE),
    ],
)
def test_a_name_beats_a_pattern_and_what_is_not_mapped_is_nobody(
    world: tuple[Serving, Authority], names: tuple[str, ...], client: str
) -> None:
    service, authority = world
    assert who(service, _credentials(authority, *names)) == client


@pytest.mark.standard("S12", "E10")
def test_a_peer_cannot_say_in_a_header_that_it_is_another(world: tuple[Serving, Authority]) -> None:
    service, authority = world
    forged = (XFCC, "By=spiffe://prod.example/x;Hash=ab;URI=spiffe://prod.example/ns/shop/sa/web")
    assert who(service, _credentials(authority, "10.0.0.1"), (forged,)) == NOBODY
    assert who(service, _credentials(authority, "orders.shop.test"), (forged,)) == ALIKE


@pytest.mark.standard("U1")
def test_without_a_certificate_of_the_client_ca_nobody_gets_in(world: tuple[Serving, Authority]) -> None:
    service, authority = world
    stranger = Authority()
    certificate, private = stranger.issue("spiffe://prod.example/ns/shop/sa/web")
    for credentials in (
        grpc.ssl_channel_credentials(authority.pem),
        grpc.ssl_channel_credentials(authority.pem, private, certificate),
    ):
        with grpc.secure_channel(service.grpc, credentials) as channel, pytest.raises(Refused) as refused:
            Caller(channel)("AuthzService/Check", authz_pb2.CheckRequest())
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
