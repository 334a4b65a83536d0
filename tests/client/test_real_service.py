"""The client against the service itself, and the fake against the service: both must answer alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from authsvc.v1 import key_pb2, token_pb2
from authsvc_client import (
    Client,
    Consumption,
    Descriptor,
    InvalidRequest,
    PermissionDenied,
    Reason,
    Settings,
    TokenRefused,
    Watch,
)
from authsvc_client.testing import FakeAuthsvc
from tests.client.conftest import PATIENT, Ask
from tests.support.embedded import ISSUER, Embedded, embedded

POLICY: Mapping[str, Any] = {
    "version": 1,
    "permissions": {"orders:read": {}, "orders:refund": {}},
    "roles": {
        "viewer": {"allow": ["orders:read"]},
        "admin": {"inherits": ["viewer"], "allow": ["orders:*"], "deny": ["orders:refund"]},
    },
    "bindings": [
        {"subject": "client:shopper", "role": "viewer", "resource": "orders/*"},
        {"subject": "user:bob", "role": "admin", "condition": "context.mfa == true"},
    ],
    "scopes": {"orders.read": ["orders:read"]},
    "limits": {"per_path": {"domain": "api", "match": {"path": "*"}, "rate": "2/1h", "burst": 2}},
}
TAKE = [Consumption("api", [{"path": "/v1"}])]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    directory = tmp_path_factory.mktemp("service")
    directory.chmod(0o700)
    with embedded(directory) as running:
        running.apply(json.dumps(POLICY))
        yield running


def _settings(tmp_path: Path, service: Embedded, client_id: str, secret: str, **variables: str) -> Settings:
    path = tmp_path / client_id
    path.write_text(secret)
    return Settings.from_env(
        {
            "AUTHSVC_ADDRESS": service.addresses.grpc,
            "AUTHSVC_CLIENT_ID": client_id,
            "AUTHSVC_CLIENT_SECRET_FILE": str(path),
            "AUTHSVC_ISSUER": ISSUER,
            "AUTHSVC_AUDIENCE": "app",
            "AUTHSVC_DEADLINE": PATIENT,
            **variables,
        }
    )


@pytest.fixture(scope="module")
def settings(service: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A client that holds what CreateClient gives by default."""
    secret = service.create_client("app", own_audience=["app"], tenants=["*"], domains=["*"])
    return _settings(tmp_path_factory.mktemp("app"), service, "app", secret)


@pytest.fixture(scope="module")
def shopper(service: Embedded) -> str:
    """A token for `app` of a client that the policy knows."""
    secret = service.create_client("shopper", audience=["app"], scope=["orders.read"])
    return service.token("shopper", secret, audience=["app"])


def test_a_default_client_checks_filters_verifies_authorizes(settings: Settings, shopper: str, ask: Ask) -> None:
    assert ask(settings, lambda c: c.check("client:shopper", "orders:read", resource="orders/7"))
    assert ask(settings, lambda c: c.check("client:shopper", "orders:read")).reason is Reason.NO_BINDING
    kept = ask(
        settings,
        lambda c: c.filter("client:shopper", "orders:read", ["b", "a/x", "a"], resource=lambda item: f"orders/{item}"),
    )
    assert kept == ["b", "a"]
    assert ask(settings, lambda c: c.verify(shopper)).subject == "client:shopper"
    answer = ask(settings, lambda c: c.authorize(shopper, "orders:read", resource="orders/7"))
    assert answer
    assert answer.token is not None
    assert (answer.token.client_id, answer.token.scope) == ("shopper", ("orders.read",))
    assert len(answer.decision_id) == 32
    assert answer.revision


def test_limits_count_and_tell_when_to_come_back(settings: Settings, ask: Ask, request: pytest.FixtureRequest) -> None:
    path = request.node.name
    assert ask(settings, lambda c: c.consume("api", {"path": path}))
    assert ask(settings, lambda c: c.peek("api", {"path": path}))
    assert ask(settings, lambda c: c.consume("api", {"path": path}))
    full = ask(settings, lambda c: c.consume("api", {"path": path}))
    assert not full
    assert full.retry_after is not None
    assert 0 < full.retry_after <= 3600
    never = ask(settings, lambda c: c.consume("api", Descriptor((("path", path),), hits=3)))
    assert (never.allowed, never.retry_after) == (False, None)


@pytest.mark.parametrize("watch", Watch, ids=str)
@pytest.mark.standard("J21")
def test_a_revoked_token_is_refused_by_the_service_and_here_unless_revocations_are_not_followed(
    service: Embedded, settings: Settings, ask: Ask, watch: Watch
) -> None:
    name = f"leaver-{ask.__name__.strip('_')}-{watch}"
    secret = service.create_client(name, audience=["app"])
    token = service.token(name, secret, audience=["app"])
    settings = replace(settings, watch=watch)
    assert ask(settings, lambda c: c.verify(token)).client_id == name
    service.call("TokenService/RevokeToken", token_pb2.RevokeTokenRequest(token=token), service.admin())
    assert ask(settings, lambda c: c.authorize(token, "orders:read")).reason is Reason.TOKEN_REVOKED
    if watch is Watch.OFF:
        assert ask(settings, lambda c: c.verify(token)).client_id == name
    else:
        with pytest.raises(TokenRefused) as refused:
            ask(settings, lambda c: c.verify(token))
        assert refused.value.reason is Reason.TOKEN_REVOKED


def test_the_service_says_how_old_a_token_may_be(service: Embedded, settings: Settings) -> None:
    with Client(settings) as client:
        client.prepare()
        known = client.operations.watcher.last
    assert known is not None
    tokens = service.foundation.config.tokens
    assert known.max_token_age == tokens.max_ttl + tokens.leeway


def test_our_own_revoked_token_is_renewed(service: Embedded, tmp_path: Path) -> None:
    secret = service.create_client("revoked-caller", own_audience=["app"])
    with Client(_settings(tmp_path, service, "revoked-caller", secret)) as client:
        assert client.check("client:shopper", "orders:read", resource="orders/7")
        held = client.operations.source(("authsvc",))._tokens
        assert held._held is not None
        held._held = type(held._held)(held._held.lease, held._held.since - 60)
        service.call(
            "TokenService/RevokeToken", token_pb2.RevokeTokenRequest(client_id="revoked-caller"), service.admin()
        )
        assert client.check("client:shopper", "orders:read", resource="orders/7")


def test_misuse_is_named_by_the_service(settings: Settings, ask: Ask) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(settings, lambda c: c.check("no kind", "orders:read"))
    assert "subject" in {violation.field for violation in refused.value.violations}
    with pytest.raises(InvalidRequest):
        ask(settings, lambda c: c.consume("api"))


def test_a_domain_that_is_not_ours_raises(service: Embedded, tmp_path: Path, ask: Ask) -> None:
    name = f"no-domains-{ask.__name__.strip('_')}"
    secret = service.create_client(name, own_audience=["app"])
    with pytest.raises(PermissionDenied):
        ask(_settings(tmp_path, service, name, secret), lambda c: c.consume("api", {"path": "/v1"}))


def test_a_rotated_key_is_published_before_it_signs(service: Embedded, settings: Settings, ask: Ask) -> None:
    """The standby is in the set already, so no verification waits for a fetch after a rotation."""
    jwks = service.call("KeyService/GetJwks", key_pb2.GetJwksRequest())
    assert len(json.loads(jwks.jwks)["keys"]) >= 2
    with pytest.raises(TokenRefused):
        ask(settings, lambda c: c.verify("rubbish"))


QUESTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("client:shopper", "orders:read", {"resource": "orders/7"}),
    ("client:shopper", "orders:read", {"resource": "orders/7/8"}),
    ("client:shopper", "orders:read", {}),
    ("client:shopper", "orders:refund", {"resource": "orders/7"}),
    ("client:shopper", "orders:fly", {"resource": "orders/7"}),
    ("client:shopper", "orders:read", {"resource": "orders/7", "scope": []}),
    ("client:shopper", "orders:read", {"resource": "orders/7", "scope": ["orders.read"]}),
    ("user:bob", "orders:read", {"context": {"mfa": True}}),
    ("user:bob", "orders:read", {"context": {"mfa": False}}),
    ("user:bob", "orders:read", {}),
    ("user:bob", "orders:refund", {"context": {"mfa": True}}),
    ("user:nobody", "orders:read", {"tenant": "acme"}),
]


@pytest.mark.parametrize(
    ("subject", "permission", "parts"),
    [
        ("ann", "orders:read", {}),
        ("", "orders:read", {}),
        ("user:*", "orders:read", {}),
        ("user:bob", "orders", {}),
        ("user:bob", "orders:*", {}),
        ("user:bob", "orders:read", {"resource": "orders/*"}),
        ("user:bob", "orders:read", {"resource": "orders/\n"}),
        ("user:bob", "orders:read", {"tenant": "*"}),
    ],
)
def test_what_the_service_refuses_to_be_asked_the_fake_refuses_too(
    settings: Settings, subject: str, permission: str, parts: Mapping[str, Any]
) -> None:
    with FakeAuthsvc(POLICY) as fake, fake.client(AUTHSVC_DEADLINE=PATIENT) as faked, Client(settings) as client:
        for either in (client, faked):
            with pytest.raises(InvalidRequest):
                either.check(subject, permission, **parts)
            with pytest.raises(InvalidRequest):
                either.filter(
                    subject,
                    permission,
                    ["7"],
                    **{"resource": lambda _: parts.get("resource", "orders/7")}
                    | {name: part for name, part in parts.items() if name != "resource"},
                )


def test_the_fake_and_the_service_answer_alike(settings: Settings) -> None:
    with FakeAuthsvc(POLICY) as fake, fake.client(AUTHSVC_DEADLINE=PATIENT) as faked, Client(settings) as client:
        for subject, permission, parts in QUESTIONS:
            real, pretended = (c.check(subject, permission, **parts) for c in (client, faked))
            assert (real.allowed, real.reason) == (pretended.allowed, pretended.reason), (subject, permission, parts)
        descriptors = [Descriptor((("path", "/alike"),), hits=hits) for hits in (1, 3, 0, 1, 1)]
        for descriptor in descriptors:
            real_taken, faked_taken = (c.consume("api", descriptor) for c in (client, faked))
            assert [
                (each.rule, each.allowed, each.limit, each.remaining, each.retry_after is None)
                for each in real_taken.results
            ] == [
                (each.rule, each.allowed, each.limit, each.remaining, each.retry_after is None)
                for each in faked_taken.results
            ], descriptor
