"""Callers that were seen before: what was found of one stands for its second and snapshot, and no longer."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from authsvc.clock import FakeClock
from authsvc.v1 import authz_pb2, client_admin_pb2, policy_admin_pb2, token_pb2
from tests.support.embedded import Embedded, Refused, embedded

QUESTION = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")


def asks(service: Embedded, token: str) -> grpc.StatusCode:
    try:
        service.call("AuthzService/Check", QUESTION, token)
    except Refused as refused:
        return refused.code
    return grpc.StatusCode.OK


@pytest.mark.standard("U13")
def test_a_known_callers_token_expires_at_its_second(tmp_path: Path) -> None:
    clock = FakeClock()
    tmp_path.chmod(0o700)
    with embedded(tmp_path, clock=clock, settings={"tokens.leeway": "0s"}) as service:
        secret = service.create_client("caller")
        request = token_pb2.IssueTokenRequest(audience=["authsvc"])
        request.ttl.seconds = 30
        request.client_credentials.client_id, request.client_credentials.client_secret = "caller", secret
        token = service.call("TokenService/IssueToken", request).access_token
        assert asks(service, token) is grpc.StatusCode.OK
        # Less than a minute, within which the snapshot stays the same: nothing but the clock differs.
        service.advance(clock, 29)
        assert asks(service, token) is grpc.StatusCode.OK
        service.advance(clock, 1)
        assert asks(service, token) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.standard("U13", "J21")
def test_a_known_caller_is_refused_once_its_token_is_revoked(tmp_path: Path) -> None:
    clock = FakeClock()
    tmp_path.chmod(0o700)
    with embedded(tmp_path, clock=clock) as service:
        token = service.caller("caller")
        assert asks(service, token) is grpc.StatusCode.OK
        # The clock stands still: nothing but the snapshot differs.
        service.call("TokenService/RevokeToken", token_pb2.RevokeTokenRequest(token=token), service.admin())
        assert asks(service, token) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.standard("U13")
def test_a_known_caller_loses_what_its_role_gave_with_the_role(tmp_path: Path) -> None:
    clock = FakeClock()
    tmp_path.chmod(0o700)
    with embedded(tmp_path, clock=clock) as service:
        token = service.caller("caller")
        assert asks(service, token) is grpc.StatusCode.OK
        listed = service.call(
            "PolicyAdminService/ListRoleBindings",
            policy_admin_pb2.ListRoleBindingsRequest(subject="client:caller"),
            service.admin(),
        )
        (binding,) = listed.bindings
        service.call(
            "PolicyAdminService/RevokeRole",
            policy_admin_pb2.RevokeRoleRequest(binding_id=binding.binding_id),
            service.admin(),
        )
        assert asks(service, token) is grpc.StatusCode.PERMISSION_DENIED


def test_what_is_known_of_one_caller_is_nothing_to_another(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with embedded(tmp_path, clock=FakeClock()) as service:
        admin = service.admin()
        token = service.caller("caller")
        listing = client_admin_pb2.ListClientsRequest()
        assert service.call("ClientAdminService/ListClients", listing, admin).clients
        with pytest.raises(Refused) as refused:
            service.call("ClientAdminService/ListClients", listing, token)
        assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
        assert asks(service, token[:-8] + "AAAAAAAA") is grpc.StatusCode.UNAUTHENTICATED
