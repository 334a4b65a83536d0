"""Issue, verify, revoke, as a client meets them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from authsvc.clock import FakeClock
from authsvc.v1 import authz_pb2, client_admin_pb2, error_reason_pb2, token_pb2
from tests.support.embedded import ISSUER, Embedded, Refused, embedded

Name = Callable[[str], str]


def claims_of(token: str) -> dict[str, object]:
    payload = token.split(".")[1]
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


def verify(service: Embedded, token: str, **request: object) -> token_pb2.VerifyTokenResponse:
    wanted = token_pb2.VerifyTokenRequest(token=token, **request)  # type: ignore[arg-type]
    answer: token_pb2.VerifyTokenResponse = service.call("TokenService/VerifyToken", wanted, service.admin())
    return answer


def revoke(service: Embedded, **target: str) -> str:
    answer = service.call("TokenService/RevokeToken", token_pb2.RevokeTokenRequest(**target), service.admin())
    return str(answer.revision)


@pytest.mark.standard("A1", "A2", "A3", "A4", "A5", "A6", "J12", "J21")
def test_an_access_token_has_the_claims_of_rfc_9068_and_no_more(service: Embedded, name: Name) -> None:
    client = name("shop")
    secret = service.create_client(
        client, display_name="Ann Smith", audience=["orders", "stock"], scope=["orders.read", "orders.write"]
    )
    issued = service.issue(client, secret, scope=["orders.read"])
    claims = claims_of(issued.access_token)
    assert claims.keys() == {
        "iss", "exp", "aud", "sub", "client_id", "iat", "jti", "scope", "roles", "authsvc_rev",
    }  # fmt: skip
    assert (claims["iss"], claims["sub"], claims["client_id"]) == (ISSUER, f"client:{client}", client)
    assert claims["aud"] == "orders"
    assert claims["scope"] == "orders.read"
    assert claims["roles"] == ["authsvc.caller"]
    assert len(str(claims["jti"])) == 32
    assert "Smith" not in json.dumps(claims)


@pytest.mark.standard("A4")
def test_scope_is_never_wider_than_the_clients_and_unknown_scope_is_refused(service: Embedded, name: Name) -> None:
    client = name("shop")
    secret = service.create_client(client, audience=["orders"], scope=["orders.read"])
    assert list(service.issue(client, secret).scope) == ["orders.read"]
    with pytest.raises(Refused) as caught:
        service.issue(client, secret, scope=["orders.read", "orders.write"])
    assert caught.value.reason == "SCOPE_REFUSED"
    assert caught.value.fields == ("scope[1]",)


@pytest.mark.standard("A3")
def test_an_audience_that_the_client_does_not_list_is_refused(service: Embedded, name: Name) -> None:
    client = name("shop")
    secret = service.create_client(client, audience=["orders"])
    with pytest.raises(Refused) as caught:
        service.issue(client, secret, audience=["payments"])
    assert caught.value.reason == "AUDIENCE_REFUSED"


@pytest.mark.standard("A3")
def test_a_token_for_this_service_is_for_nobody_else(service: Embedded, name: Name) -> None:
    """Whoever else accepts a token could use it here, as its client."""
    client = name("shop")
    secret = service.create_client(client, audience=["orders"])
    with pytest.raises(Refused) as caught:
        service.issue(client, secret, audience=["orders", "authsvc"])
    assert (caught.value.reason, caught.value.fields) == ("AUDIENCE_REFUSED", ("audience",))


def test_a_caller_learns_nothing_of_another_tenants_token(service: Embedded, name: Name) -> None:
    client = name("shop")
    token = service.token(client, service.create_client(client, audience=["orders"], tenants=["globex"]))
    guard = service.caller(name("guard"), own_audience=["orders"], tenants=["acme"])
    answer = service.call("TokenService/VerifyToken", token_pb2.VerifyTokenRequest(token=token), guard)
    assert (answer.valid, answer.reason) == (False, error_reason_pb2.REASON_TENANT_MISMATCH)
    assert not answer.HasField("token")
    asked = authz_pb2.AuthorizeRequest(token=token, permission="orders:read")
    authorized = service.call("AuthzService/Authorize", asked, guard)
    assert (authorized.decision, authorized.HasField("token")) == (2, False)


@pytest.mark.standard("J21", "K3")
def test_a_token_older_than_any_may_be_is_refused_once_the_maximum_was_lowered(tmp_path: Path) -> None:
    clock = FakeClock()
    long = {"tokens.max_ttl": "10h", "tokens.ttl": "10h", "keys.ttl": "30d"}
    with embedded(tmp_path / "data", clock=clock, settings=long) as before:
        token = before.token("shop", before.create_client("shop", audience=["orders"]))
    clock.advance(3700)
    with embedded(tmp_path / "data", clock=clock) as after:
        answer = verify(after, token, audience=["orders"])
        assert answer.reason == error_reason_pb2.REASON_TOKEN_EXPIRED


def test_a_tenant_must_be_the_clients_and_is_the_default_where_it_has_one(service: Embedded, name: Name) -> None:
    client = name("shop")
    secret = service.create_client(client, audience=["orders"], tenants=["acme"])
    assert claims_of(service.token(client, secret))["tenant"] == "acme"
    with pytest.raises(Refused) as caught:
        service.issue(client, secret, tenant="other")
    assert caught.value.fields == ("tenant",)


def test_a_life_above_the_configured_maximum_is_refused(service: Embedded, name: Name) -> None:
    client = name("shop")
    secret = service.create_client(client, audience=["orders"])
    with pytest.raises(Refused) as caught:
        service.issue(client, secret, ttl={"seconds": 3601})
    assert caught.value.fields == ("ttl",)


@pytest.mark.standard("S9")
def test_unknown_client_and_wrong_secret_get_the_same_answer(service: Embedded, name: Name) -> None:
    client = name("shop")
    service.create_client(client)
    answers = set()
    for who in (client, name("nobody")):
        with pytest.raises(Refused) as caught:
            service.issue(who, "w" * 43)
        answers.add((caught.value.code, caught.value.reason, caught.value.message))
    assert answers == {
        (grpc.StatusCode.UNAUTHENTICATED, "CLIENT_AUTHENTICATION_FAILED", "the client is not authenticated")
    }


@pytest.mark.standard("S9")
def test_two_secrets_live_at_a_time_and_a_third_waits(service: Embedded, name: Name) -> None:
    client = name("shop")
    first = service.create_client(client, audience=["orders"])

    def rotate(overlap: int) -> str:
        wanted = client_admin_pb2.RotateClientSecretRequest(client_id=client, overlap={"seconds": overlap})
        answer = service.call("ClientAdminService/RotateClientSecret", wanted, service.admin())
        return str(answer.client_secret)

    second = rotate(3600)
    assert service.token(client, first)
    assert service.token(client, second)
    with pytest.raises(Refused) as caught:
        rotate(3600)
    assert caught.value.reason == "SECRETS_EXHAUSTED"
    third = rotate(0)
    assert service.token(client, third)
    for gone in (first, second):
        with pytest.raises(Refused):
            service.token(client, gone)


@pytest.mark.standard("J21")
@pytest.mark.parametrize("target", ["token", "token_id", "subject", "client_id"])
def test_what_is_revoked_is_refused_and_what_is_minted_later_is_not(service: Embedded, name: Name, target: str) -> None:
    client = name("shop")
    secret = service.create_client(client, audience=["orders"])
    token = service.token(client, secret)
    other = service.token(client, secret)
    assert verify(service, token, audience=["orders"]).valid
    value = {
        "token": token,
        "token_id": str(claims_of(token)["jti"]),
        "subject": f"client:{client}",
        "client_id": client,
    }[target]
    revision = revoke(service, **{target: value})
    answer = verify(service, token, audience=["orders"], min_revision=revision)
    assert (answer.valid, answer.reason) == (False, error_reason_pb2.REASON_TOKEN_REVOKED)
    assert verify(service, other, audience=["orders"]).valid is (target in ("token", "token_id"))
    assert verify(service, service.token(client, secret), audience=["orders"]).valid


@pytest.mark.standard("J21")
def test_revoking_the_issuer_refuses_everything_minted_before(fresh: Embedded) -> None:
    secret = fresh.create_client("shop", audience=["orders"])
    token, admin = fresh.token("shop", secret), fresh.admin()
    fresh.call("TokenService/RevokeToken", token_pb2.RevokeTokenRequest(issuer=ISSUER), admin)
    assert verify(fresh, token, audience=["orders"]).reason == error_reason_pb2.REASON_TOKEN_REVOKED
    with pytest.raises(Refused) as caught:
        fresh.call("TokenService/VerifyToken", token_pb2.VerifyTokenRequest(token=token), admin)
    assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert verify(fresh, fresh.token("shop", secret), audience=["orders"]).valid


def test_an_empty_audience_is_the_callers_own_and_another_needs_the_permission(service: Embedded, name: Name) -> None:
    client, guard = name("shop"), name("guard")
    token = service.token(client, service.create_client(client, audience=["orders", "stock"]))
    own = service.caller(guard, own_audience=["orders"])
    assert service.call("TokenService/VerifyToken", token_pb2.VerifyTokenRequest(token=token), own).valid
    with pytest.raises(Refused) as caught:
        service.call("TokenService/VerifyToken", token_pb2.VerifyTokenRequest(token=token, audience=["stock"]), own)
    assert caught.value.reason == "CALLER_NOT_PERMITTED"
    foreign = service.caller(name("guard"), own_audience=["elsewhere"])
    answer = service.call("TokenService/VerifyToken", token_pb2.VerifyTokenRequest(token=token), foreign)
    assert answer.reason == error_reason_pb2.REASON_TOKEN_AUDIENCE_MISMATCH


def test_a_batch_answers_in_order(service: Embedded, name: Name) -> None:
    client = name("shop")
    good = service.token(client, service.create_client(client, audience=["orders"]))
    tokens = [good, "nonsense", good + "A", good]
    batch = token_pb2.BatchVerifyTokensRequest(
        requests=[token_pb2.VerifyTokenRequest(token=token, audience=["orders"]) for token in tokens]
    )
    answer = service.call("TokenService/BatchVerifyTokens", batch, service.admin())
    assert [result.valid for result in answer.results] == [True, False, False, True]
