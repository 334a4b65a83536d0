"""Who may call what: every method of every served descriptor, by every kind of caller (STANDARDS U11, U2, E10)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import grpc
import pytest

from authsvc.api import envoy_messages
from authsvc.api.method_table import Row
from authsvc.api.rls_encoding import OVER_LIMIT
from authsvc.core.roles_builtin import ADMIN, AUDITOR, BUILTIN_ROLES, CALLER, OPERATOR
from authsvc.core.roles_builtin import PROXY as PROXY_ROLE
from tests.support.embedded import Caller, Embedded, Refused, embedded
from tests.support.pki import Authority

ROLES = (CALLER, OPERATOR, AUDITOR, ADMIN)

EXPECTED: Mapping[str, frozenset[str]] = {
    "TokenService/VerifyToken": frozenset({CALLER, OPERATOR, ADMIN}),
    "TokenService/BatchVerifyTokens": frozenset({CALLER, OPERATOR, ADMIN}),
    "TokenService/RevokeToken": frozenset({OPERATOR, ADMIN}),
    "AuthzService/Check": frozenset({CALLER, OPERATOR, ADMIN}),
    "AuthzService/BatchCheck": frozenset({CALLER, OPERATOR, ADMIN}),
    "AuthzService/Authorize": frozenset({CALLER, OPERATOR, ADMIN}),
    "LimitService/Consume": frozenset({CALLER, OPERATOR, ADMIN}),
    "LimitService/Peek": frozenset({CALLER, OPERATOR, ADMIN}),
    "SyncService/Watch": frozenset({CALLER, OPERATOR, ADMIN}),
    "KeyAdminService/ListKeys": frozenset({OPERATOR, AUDITOR, ADMIN}),
    "KeyAdminService/RotateKey": frozenset({OPERATOR, ADMIN}),
    "KeyAdminService/RevokeKey": frozenset({OPERATOR, ADMIN}),
    "KeyAdminService/GetPropagation": frozenset({OPERATOR, AUDITOR, ADMIN}),
    "ClientAdminService/CreateClient": frozenset({ADMIN}),
    "ClientAdminService/ListClients": frozenset({OPERATOR, AUDITOR, ADMIN}),
    "ClientAdminService/RotateClientSecret": frozenset({ADMIN}),
    "PolicyAdminService/ApplyPolicy": frozenset({ADMIN}),
    "PolicyAdminService/GetPolicy": frozenset({OPERATOR, AUDITOR, ADMIN}),
    "PolicyAdminService/GrantRole": frozenset({ADMIN}),
    "PolicyAdminService/RevokeRole": frozenset({ADMIN}),
    "PolicyAdminService/ListRoleBindings": frozenset({OPERATOR, AUDITOR, ADMIN}),
}
"""Written by hand, not derived: a change of the table or of a role must be meant."""

PUBLIC_ROWS = frozenset(
    {
        "authsvc.v1.TokenService/IssueToken",
        "authsvc.v1.KeyService/GetJwks",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/List",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    }
)
AUTHORIZATION = "envoy.service.auth.v3.Authorization/Check"
RATE_LIMIT = "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
ENVOY_ROWS = frozenset({AUTHORIZATION, RATE_LIMIT})


@pytest.fixture(scope="module")
def tokens(service: Embedded) -> dict[str, str]:
    """A token of a client of each built-in role."""
    return {
        role: service.caller(f"matrix-{role.partition('.')[2]}", roles=[role], own_audience=["matrix"])
        for role in ROLES
    }


def rows(service: Embedded) -> list[Row]:
    return list(service.service.engine.table)


@pytest.mark.standard("U11", "U2")
def test_the_matrix_names_every_row_that_is_served(service: Embedded) -> None:
    served = {row.name for row in rows(service)}
    assert served == {f"authsvc.v1.{name}" for name in EXPECTED} | PUBLIC_ROWS | ENVOY_ROWS


@pytest.mark.standard("U11")
def test_every_method_of_every_served_descriptor_has_a_row(service: Embedded) -> None:
    table = service.service.engine.table
    for descriptor in table.services:
        for method in descriptor.methods:
            assert table.get(f"{descriptor.full_name}/{method.name}") is not None


@pytest.mark.standard("U11", "U2")
def test_a_role_gives_its_rows_and_no_other(service: Embedded, tokens: Mapping[str, str]) -> None:
    for method, allowed in EXPECTED.items():
        for role in ROLES:
            outcome = reached(service, f"authsvc.v1.{method}", tokens[role])
            assert outcome is (role in allowed), f"{method} by {role}"


@pytest.mark.standard("U11")
@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
def test_without_a_valid_token_every_row_refuses_alike(service: Embedded, token: str) -> None:
    answers = set()
    for method in EXPECTED:
        with pytest.raises(Refused) as caught:
            service.call.raw(f"authsvc.v1.{method}", b"", token=token)
        answers.add((caught.value.code, caught.value.reason, caught.value.message))
    throttled = {answer for answer in answers if answer[1] == "AUTHENTICATION_THROTTLED"}
    assert len(answers - throttled) == 1
    assert {code for code, _, _ in answers - throttled} == {grpc.StatusCode.UNAUTHENTICATED}


@pytest.mark.standard("U11")
def test_a_token_for_another_audience_is_no_credential_here(service: Embedded) -> None:
    token = service.token(
        "matrix-other", service.create_client("matrix-other", audience=["orders"]), audience=["orders"]
    )
    for method in EXPECTED:
        with pytest.raises(Refused) as caught:
            service.call.raw(f"authsvc.v1.{method}", b"", token=token)
        assert caught.value.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def assert_denied(row: str, answer: bytes) -> None:
    """By the row's own explicit denial."""
    if row == RATE_LIMIT:
        assert envoy_messages.RateLimitResponse.FromString(answer).overall_code == OVER_LIMIT
        return
    denial = envoy_messages.CheckResponse.FromString(answer)
    assert denial.status.code != 0
    assert denial.HasField("denied_response")


@pytest.mark.standard("U11")
def test_no_built_in_role_but_proxy_reaches_envoys_rows_by_its_token(mesh: Mesh, service: Embedded) -> None:
    """Envoy sends no token: a token, the admin's too, is not looked at."""
    with mesh.peer("spiffe://test/ns/x/sa/stranger") as caller:
        for _ in ROLES:
            for row in ENVOY_ROWS:
                assert_denied(row, caller.raw(row, b"", token=service.admin()))


@pytest.mark.standard("E10", "U11")
def test_envoys_rows_answer_a_stranger_by_denial_and_never_by_an_rpc_error(mesh: Mesh) -> None:
    with mesh.peer("spiffe://test/ns/x/sa/stranger") as caller:
        for request in (b"", b"\xff\xff", b"\x00" * 300_000):
            for row in ENVOY_ROWS:
                assert_denied(row, caller.raw(row, request))


@pytest.mark.standard("U11")
def test_a_mapped_peer_calls_as_its_client_and_an_unmapped_one_is_nobody(mesh: Mesh) -> None:
    with mesh.peer("spiffe://test/ns/shop/sa/orders") as caller:
        assert not refused_as_stranger(caller)
    with mesh.peer("spiffe://test/ns/shop/sa/other") as caller:
        assert refused_as_stranger(caller)
    with mesh.peer("orders.shop.test") as caller:
        assert not refused_as_stranger(caller)


@pytest.mark.standard("U11")
def test_a_bad_token_is_not_excused_by_the_certificate_it_came_with(mesh: Mesh) -> None:
    with mesh.peer("spiffe://test/ns/shop/sa/orders") as caller, pytest.raises(Refused) as caught:
        caller.raw("authsvc.v1.AuthzService/Check", b"", token="nonsense")
    assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.standard("U11")
def test_a_peer_without_a_certificate_does_not_connect(mesh: Mesh) -> None:
    channel = grpc.secure_channel(mesh.address, grpc.ssl_channel_credentials(mesh.ca_pem))
    with channel, pytest.raises(Refused) as caught:
        Caller(channel).raw("authsvc.v1.KeyService/GetJwks", b"")
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def reached(service: Embedded, method: str, token: str) -> bool:
    """Whether a call got past the table: anything but a refusal of the caller."""
    try:
        service.call.raw(method, b"", token=token)
    except Refused as refusal:
        return refusal.reason not in ("CALLER_NOT_PERMITTED", "CALLER_UNAUTHENTICATED", "AUTHENTICATION_THROTTLED")
    return True


def refused_as_stranger(caller: Caller) -> bool:
    try:
        caller.raw("authsvc.v1.AuthzService/Check", b"")
    except Refused as refusal:
        return refusal.code is grpc.StatusCode.UNAUTHENTICATED
    return False


class Mesh:
    """A service that demands client certificates, and the authority that issues them."""

    def __init__(self, authority: Authority, address: str) -> None:
        self._authority = authority
        self.ca_pem = authority.pem
        self.address = address

    @contextlib.contextmanager
    def peer(self, name: str) -> Iterator[Caller]:
        """A caller with a certificate for this SPIFFE id or DNS name."""
        certificate, private = self._authority.issue(name)
        credentials = grpc.ssl_channel_credentials(self.ca_pem, private, certificate)
        with grpc.secure_channel(self.address, credentials) as channel:
            yield Caller(channel)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A service in TLS mode `files` with a client CA."""
    folder = tmp_path_factory.mktemp("mesh")
    authority = Authority()
    settings = authority.write(folder, "127.0.0.1", "localhost")
    toml = """
    [[server.principals]]
    peer = "spiffe://test/ns/shop/sa/orders"
    client_id = "orders"
    [[server.principals]]
    peer = "dns:orders.shop.test"
    client_id = "orders"
    [[server.proxies]]
    peer = "spiffe://test/ns/*/sa/gateway"
    """
    with embedded(folder / "data", settings=settings, toml=toml) as running:
        mesh = Mesh(authority, running.addresses.grpc)
        with mesh.peer("spiffe://test/ns/x/sa/first") as first:
            running.call = first
            running.create_client("orders")
        yield mesh


def test_the_matrix_has_a_column_for_every_role_that_a_client_can_hold() -> None:
    assert set(ROLES) | {PROXY_ROLE} == set(BUILTIN_ROLES)
