"""What the client asks and answers, in both its forms, against the shipped fake over real gRPC."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from authsvc_client import (
    AsyncClient,
    Client,
    Consumption,
    Descriptor,
    InvalidRequest,
    Reason,
    Settings,
    Tls,
    Unavailable,
)
from authsvc_client.testing import FakeAuthsvc
from authsvc_client.testing.rows import Rows
from tests.client.conftest import BRIEF, PATIENT, Ask


def patient(authsvc: FakeAuthsvc, **variables: str) -> Settings:
    return authsvc.settings(**{"AUTHSVC_DEADLINE": PATIENT, **variables})


def test_an_answer_is_true_only_where_it_allows(authsvc: FakeAuthsvc, ask: Ask) -> None:
    authsvc.grant("user:ann", "orders:read", resource="orders/*")
    settings = patient(authsvc)
    allowed = ask(settings, lambda c: c.check("user:ann", "orders:read", resource="orders/1"))
    denied = ask(settings, lambda c: c.check("user:bob", "orders:read", resource="orders/1"))
    assert (bool(allowed), allowed.reason) == (True, Reason.ALLOWED)
    assert (bool(denied), denied.reason, denied.unavailable) == (False, Reason.NO_BINDING, False)
    assert allowed.revision


def _check_reading(client: Any, **parts: Any) -> Any:
    return client.check("user:ann", "orders:read", **parts)


def test_every_part_of_a_question_arrives(authsvc: FakeAuthsvc, ask: Ask) -> None:
    authsvc.apply_policy(
        {
            "version": 1,
            "permissions": {"orders:read": {}},
            "roles": {"reader": {"allow": ["orders:read"]}},
            "scopes": {"orders.read": ["orders:read"]},
            "bindings": [
                {
                    "subject": "group:desk",
                    "role": "reader",
                    "tenant": "acme",
                    "resource": "orders/*",
                    "condition": "context.mfa == true",
                }
            ],
        }
    )
    whole: dict[str, Any] = {
        "resource": "orders/1",
        "tenant": "acme",
        "groups": ["desk"],
        "scope": ["orders.read"],
        "context": {"mfa": True},
    }
    settings = patient(authsvc)
    assert ask(settings, lambda c: c.check("user:ann", "orders:read", **whole))
    for name, value in whole.items():
        without = {**whole, name: type(value)()}
        assert not ask(settings, functools.partial(_check_reading, **without)), name


def test_authorize_verifies_checks_and_consumes(authsvc: FakeAuthsvc, ask: Ask) -> None:
    authsvc.grant("user:ann", "orders:read")
    authsvc.limit("per_path", match={"path": "*"}, rate="1/1m", burst=1)
    token = authsvc.token("user:ann")
    take = [Consumption("api", [{"path": "/v1"}])]
    settings = patient(authsvc)
    first = ask(settings, lambda c: c.authorize(token, "orders:read", consume=take))
    second = ask(settings, lambda c: c.authorize(token, "orders:read", consume=take))
    assert first
    assert first.token is not None
    assert first.token.subject == "user:ann"
    assert not second
    assert second.reason is Reason.LIMIT_EXCEEDED
    assert second.retry_after is not None
    assert 0 < second.retry_after <= 60
    authsvc.revoke(token)
    assert ask(settings, lambda c: c.authorize(token, "orders:read")).reason is Reason.TOKEN_REVOKED


def test_a_refused_check_takes_no_hits(authsvc: FakeAuthsvc, ask: Ask) -> None:
    authsvc.limit("per_path", match={"path": "*"}, rate="1/1m", burst=1)
    token = authsvc.token("user:ann")
    settings = patient(authsvc)
    take = [Consumption("api", [{"path": "/v1"}])]
    assert not ask(settings, lambda c: c.authorize(token, "orders:read", consume=take))
    assert ask(settings, lambda c: c.peek("api", {"path": "/v1"}))


def test_consume_tells_when_to_come_back_and_when_never(authsvc: FakeAuthsvc, ask: Ask) -> None:
    authsvc.limit("per_path", match={"path": "*"}, rate="2/1m", burst=2)
    settings = patient(authsvc)
    three = Descriptor((("path", "/v1"),), hits=3)
    never = ask(settings, lambda c: c.consume("api", three))
    assert (never.allowed, never.retry_after) == (False, None)
    assert ask(settings, lambda c: c.consume("api", Descriptor((("path", "/v1"),), hits=2)))
    full = ask(settings, lambda c: c.consume("api", {"path": "/v1"}))
    assert not full
    assert full.retry_after is not None
    assert ask(settings, lambda c: c.consume("api", {"nothing": "matches"}))


def test_filter_keeps_the_order_and_costs_one_call(authsvc: FakeAuthsvc, ask: Ask) -> None:
    authsvc.grant("user:ann", "orders:read", resource="orders/e*")
    items = [{"id": name} for name in ("e3", "x", "e1", "e2", "y", "e1")]
    kept = ask(
        patient(authsvc),
        lambda c: c.filter("user:ann", "orders:read", items, resource=lambda item: f"orders/{item['id']}"),
    )
    assert [item["id"] for item in kept] == ["e3", "e1", "e2", "e1"]
    assert authsvc.received("BatchCheck") == 1
    assert authsvc.received("Check") == 0


def test_filter_of_nothing_asks_nothing_and_of_too_much_is_refused(authsvc: FakeAuthsvc, ask: Ask) -> None:
    settings = patient(authsvc)
    assert ask(settings, lambda c: c.filter("user:ann", "orders:read", [])) == []
    with pytest.raises(InvalidRequest, match="10000"):
        ask(settings, lambda c: c.filter("user:ann", "orders:read", [str(n) for n in range(10_001)]))
    assert authsvc.received("BatchCheck") == 0


def test_misuse_raises_and_names_the_field(authsvc: FakeAuthsvc, ask: Ask) -> None:
    with pytest.raises(InvalidRequest):
        ask(patient(authsvc), lambda c: c.consume("api"))


def test_a_wrong_secret_raises_and_is_not_tried_at_each_call(authsvc: FakeAuthsvc) -> None:
    settings = patient(authsvc)
    authsvc.state.clients["test"] = "another"
    with Client(settings) as client:
        for _ in range(5):
            with pytest.raises(Exception, match="client authentication failed"):
                client.check("user:ann", "orders:read")
    assert authsvc.received("IssueToken") < 5
    assert authsvc.received("Check") == 0


def test_prepare_connects_ahead(authsvc: FakeAuthsvc, ask: Ask) -> None:
    ask(patient(authsvc), lambda c: c.prepare())
    assert (authsvc.received("IssueToken"), authsvc.received("Watch"), authsvc.received("GetJwks")) == (1, 1, 0)
    ask(patient(authsvc, AUTHSVC_WATCH="off"), lambda c: c.prepare())
    assert (authsvc.received("IssueToken"), authsvc.received("Watch"), authsvc.received("GetJwks")) == (2, 1, 1)
    authsvc.stop()
    with pytest.raises(Unavailable, match="onnection refused"):
        ask(authsvc.settings(), lambda c: c.prepare())


def test_our_revoked_token_is_renewed_and_the_call_answered(authsvc: FakeAuthsvc) -> None:
    authsvc.grant("user:ann", "orders:read")
    with Client(patient(authsvc)) as client:
        assert client.check("user:ann", "orders:read")
        source = client.operations.source(("authsvc",))
        held = source._tokens._held
        assert held is not None
        # As if it had been issued a minute ago: a token younger than a second is not dropped.
        source._tokens._held = type(held)(held.lease, held.since - 60)
        authsvc.revoke_subject("client:test")
        assert client.check("user:ann", "orders:read")
    assert authsvc.received("IssueToken") == 2


OPERATIONS = {
    "check": lambda c: c.check("user:ann", "orders:read"),
    "authorize": lambda c: c.authorize("e30.e30.e30", "orders:read"),
    "consume": lambda c: c.consume("api", {"path": "/v1"}),
    "peek": lambda c: c.peek("api", {"path": "/v1"}),
    "filter": lambda c: c.filter("user:ann", "orders:read", ["a"]),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_unreachable_service_denies(authsvc: FakeAuthsvc, ask: Ask, operation: str) -> None:
    authsvc.grant("user:ann", "orders:read")
    settings = authsvc.settings()
    authsvc.stop()
    answer = ask(settings, OPERATIONS[operation])
    assert not answer
    assert operation == "filter" or answer.unavailable


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_unreachable_service_raises_where_asked_to(authsvc: FakeAuthsvc, ask: Ask, operation: str) -> None:
    settings = authsvc.settings(AUTHSVC_ON_UNAVAILABLE="raise")
    authsvc.stop()
    with pytest.raises(Unavailable):
        ask(settings, OPERATIONS[operation])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_unreachable_service_allows_only_where_asked_to_and_loudly(
    authsvc: FakeAuthsvc, ask: Ask, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = authsvc.settings(AUTHSVC_ON_UNAVAILABLE="allow")
    authsvc.stop()
    with caplog.at_level(logging.WARNING, "authsvc_client"):
        # A bearer that nobody verified is let in by nothing.
        assert bool(ask(settings, OPERATIONS[operation])) is (operation != "authorize")
    told = "denied" if operation == "authorize" else "ALLOWED"
    assert f"{operation} {told} without the service" in caplog.text


def test_without_the_service_authorize_lets_in_at_most_whom_the_cached_keys_verify(authsvc: FakeAuthsvc) -> None:
    token, expired = authsvc.token("user:ann"), authsvc.token("user:ann", ttl=-60)
    foreign = authsvc.token("user:ann", audience=["other"])
    with authsvc.client(AUTHSVC_DEADLINE=BRIEF, AUTHSVC_ON_UNAVAILABLE="allow") as client:
        client.prepare()
        authsvc.stop()
        answer = client.authorize(token, "orders:read")
        assert answer.allowed
        assert answer.unavailable
        assert answer.token is not None
        assert answer.token.subject == "user:ann"
        for refused in (expired, foreign, "rubbish", "e30.e30.e30", ""):
            assert not client.authorize(refused, "orders:read"), refused


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_silent_service_denies_within_the_deadline(
    authsvc: FakeAuthsvc, silent: str, ask: Ask, operation: str
) -> None:
    settings = authsvc.settings(AUTHSVC_ADDRESS=silent)
    begun = time.monotonic()
    assert not ask(settings, OPERATIONS[operation])
    # 250 ms, and room for two busy cores.
    assert 0.2 < time.monotonic() - begun < 2.0


def test_a_service_that_comes_back_is_found(authsvc: FakeAuthsvc) -> None:
    authsvc.grant("user:ann", "orders:read")
    with authsvc.client(AUTHSVC_DEADLINE=BRIEF) as client:
        assert client.check("user:ann", "orders:read")
        authsvc.stop()
        assert not client.check("user:ann", "orders:read")
        authsvc.start()
        end = time.monotonic() + 10
        while not client.check("user:ann", "orders:read"):
            assert time.monotonic() < end


def test_no_token_or_secret_is_logged(authsvc: FakeAuthsvc, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    settings = authsvc.settings()
    token = authsvc.token("user:ann")
    with caplog.at_level(logging.DEBUG):
        ask(settings, lambda c: c.authorize(token, "orders:read"))
        authsvc.stop()
        ask(settings, lambda c: c.authorize(token, "orders:read"))
    assert token not in caplog.text
    assert token.rpartition(".")[2] not in caplog.text
    assert settings.secret() not in caplog.text


def test_tls_with_a_given_authority(authsvc: FakeAuthsvc, ask: Ask, tmp_path: Path) -> None:
    authsvc.grant("user:ann", "orders:read")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    server = grpc.server(ThreadPoolExecutor(4), [Rows(authsvc._service, authsvc._arrive)])
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        at = {"AUTHSVC_ADDRESS": f"127.0.0.1:{port}"}
        assert ask(patient(authsvc, AUTHSVC_CA_FILE=str(ca_file), **at), OPERATIONS["check"])
        assert not ask(authsvc.settings(AUTHSVC_TLS=Tls.ON, **at), OPERATIONS["check"])
    finally:
        server.stop(None).wait()


def test_a_client_made_before_any_loop_serves_several_in_turn(authsvc: FakeAuthsvc) -> None:
    authsvc.grant("user:ann", "orders:read")
    client = AsyncClient(patient(authsvc))

    async def once() -> bool:
        return bool(await client.check("user:ann", "orders:read"))

    assert [asyncio.run(once()) for _ in range(3)] == [True, True, True]
    assert len(client._wire._loops) == 1
    assert authsvc.received("IssueToken") == 1

    async def close() -> None:
        await client.aclose()

    asyncio.run(close())
